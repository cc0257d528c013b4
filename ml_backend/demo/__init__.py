"""``int-backend demo``: a real Label Studio, our backend and annotated sample projects in one command."""
