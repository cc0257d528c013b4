"""The only code that opens addresses which somebody else wrote.

Belongs here: which addresses are allowed, and the download. Does not: calls to
Label Studio's own API (`labelstudio.client`).
"""
