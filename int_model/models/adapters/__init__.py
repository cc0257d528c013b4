"""One adapter per class of model: a role of `int_model.models.protocols` over a network of a library.

Belongs here: pre-processing, batching and decoding of one network. Does not: anything that knows a second role.
"""
