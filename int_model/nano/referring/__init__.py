"""Scenes of the miniature world with several things, expressions that mean one of them, and PPT trained on both.

Belongs here: what is drawn and said, and the command that trains and measures. Does not: the training itself.
"""
