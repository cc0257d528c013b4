"""``int-backend worker``: one process that takes tickets, or one on each device."""
