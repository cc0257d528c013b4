"""Mask geometry: outlines and polygons, run lengths, and the post-processing of instances.

Belongs here: pure functions on boolean arrays. Does not: file formats and Label Studio's regions, which only word what
this package computes.
"""
