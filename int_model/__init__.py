"""INT: instance-specific prompts mined from one task prompt, turned into semantic masks.

This package knows neither HTTP nor Label Studio.
"""
