"""Clicks, boxes and strokes to masks, with one encoding per image.

Belongs here: prompts in pixels, cached embeddings, the sharing of one segmenter. Does not: Label Studio's wire format.
"""
