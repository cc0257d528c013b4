"""Batch runs: a whole project annotated in the background, on one machine or many, so that nothing is lost.

The ledger in the database is the truth. A queue only says "there is work in that run"; what the work is, a worker
learns by leasing tasks from the ledger. A message that is lost, doubled or late therefore harms nothing.
"""
