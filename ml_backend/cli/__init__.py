"""The command line: one module per command, and the options that commands share.

Belongs here: arguments, progress, exit statuses. Does not: work that the service or the library could need too.
"""
