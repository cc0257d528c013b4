"""``int-backend demo``: a real Label Studio, our backend and annotated sample projects in one command."""

from ml_backend.demo.run import DemoOptions, main

__all__ = ["DemoOptions", "main"]
