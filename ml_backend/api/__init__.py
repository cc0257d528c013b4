"""HTTP: the application, its middleware, the pages for people and the OpenAPI description.

Belongs here: requests and answers. Does not: decisions, which `ml_backend.serving` and `ml_backend.runs` make.
"""
