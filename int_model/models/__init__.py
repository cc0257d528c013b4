"""Adapters: five small Protocols (`protocols`), the suite that holds one of each, and the profiles that name them."""
