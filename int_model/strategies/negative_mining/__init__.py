"""INT (arXiv 2501.18753), in the paper's order; `pipeline` is the loop.

Belongs here: the paper's steps, as pure functions where no model is asked. Does not: other methods, even if they share
a step; they import it from here.
"""
