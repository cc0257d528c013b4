"""Connecting a project of Label Studio to this backend in one step: what is missing, and the requests that add it.

Here belongs what changes a project's settings. What is wrong with a connection is judged in ``ml_backend.doctor``.
"""
