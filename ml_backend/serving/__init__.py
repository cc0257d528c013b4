"""Predictions: from projects, tasks and clicks to answers, through the one queue of the models.

Belongs here: what a running service does between request and answer. Does not: HTTP, batch runs, SQL.
"""
