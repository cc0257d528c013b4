"""Training of the point generator from image-text pairs without masks (Curriculum Point Prompting, arXiv 2404.11998).

Belongs here: pairs and their sources, pseudo-masks, composites, targets, losses, the three stages and their command.
"""
