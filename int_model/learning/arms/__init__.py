"""The arms, one file each, from the simplest to the one with most parameters.

Belongs here: what is trained or chosen, and how it changes decoding. Does not: the loop, the examples, the verdict.
"""
