"""The database: connections, tables, migrations, and what is kept of projects and results.

Belongs here: SQL of projects and results, and every table's definition. Does not: the rules of batch
runs (`ml_backend.runs`).
"""
