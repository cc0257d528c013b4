"""How a process learns that a run has work: in this process, or over Redis.

Belongs here: signals that may be lost, doubled or late. Does not: the truth about tasks, which is the ledger's.
"""
