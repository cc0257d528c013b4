"""What everything speaks: result types, the task prompt, the method's options and its presets.

Belongs here: plain data and its validation, used by every other package. Does not: models, files, masks.
"""
