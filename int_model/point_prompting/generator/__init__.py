"""The point generator of PPT (arXiv 2404.11998) at use: from an expression to signed points, from points to masks.

Belongs here: the network, what it sees, its file, the filters of its points. Does not: its training, which is
``int_model.learning.ppt``.
"""
