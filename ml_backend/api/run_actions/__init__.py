"""What people do with runs in the browser: beginning one with a form, taking one back, comparing one with Label Studio.

Looking at runs, and the actions without a page of their own, are `ml_backend.api.runs`.
"""
