"""The command line as its users see it: the options, help and exit status of every command.

Belongs here: declarations, which import nothing heavy, so that ``--help`` is instant. Does not: what the commands do;
each imports its own module when it runs.
"""
