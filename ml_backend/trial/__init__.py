"""Prompts and strategies tried on a few images of a project, side by side: nothing is pushed to Label Studio.

Here belongs what chooses the images, what compares the sides with annotations, and the page that shows them.
"""
