"""A folder of images to a data set: resumable segmentation, near-duplicate groups, splits, writers of common formats.

Knows neither HTTP nor Label Studio. The way of the data: ``collect`` fills the ``store``; ``contents`` reads it as
images with their objects, groups (``duplicates``) and ``splits``; writers (``coco``, ``yolo``, ``png``, ``review``,
...) take one image at a time in ``export``; ``card`` tells what the data set is.
"""
