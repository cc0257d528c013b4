"""Points for the segmenter, from an image and a name; one module per way (``sam.point_source``).

Belongs here: the role and what fills it. Does not: which points a box takes, which is the strategies' business.
"""
