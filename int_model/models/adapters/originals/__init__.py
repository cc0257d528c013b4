"""Checkpoints as the original packages publish them, brought onto transformers' networks; none of them is needed.

Here: a module per package with its names of tensors and what their shapes tell. Not here: adapters behind the roles.
"""
