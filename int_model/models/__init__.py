"""The roles (`protocols`), the profiles that name a checkpoint for each role, and the suite that loads them.

Belongs here: what a role promises, where weights come from, devices and memory. The classes that run a network are in
`adapters`; what the answers mean is the strategies' business.
"""
