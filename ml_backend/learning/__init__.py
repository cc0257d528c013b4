"""Learning from what annotators corrected: corrections as examples, and what was learned as files that a server takes.

Belongs here: how annotations become examples, what a bundle is called and where it lies. Does not: the arms, their
training and the gate (``int_model.learning``).
"""
