"""Runs that train: when one begins, and how a worker does it without holding up clicks and predictions.

Belongs here: triggers, the executor, the sharing of the models. Does not: what is learned (`ml_backend.learning`).
"""
