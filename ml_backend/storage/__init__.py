"""The database: connections, tables, migrations, and what is kept of projects, results and annotations.

Belongs here: SQL of projects, results and annotations, and every table's definition. Does not: the rules of batch
runs (`ml_backend.runs`).
"""
