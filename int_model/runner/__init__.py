"""One way from many images to many results: micro-batches, isolated failures, a store that a stopped run goes on from.

Belongs here: what `segment`, `evaluate`, `bootstrap` and the service share when they run a strategy over images. Does
not: what they make of the results.
"""
