"""Files in, files out: images of every accepted format to pixels, results to files.

Belongs here: decoding, finding and writing. Does not: data sets (`int_model.datasets`) and HTML (`int_model.report`).
"""
