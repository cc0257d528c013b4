"""``python -m ml_backend.cli``: the same as ``int-backend``."""

from ml_backend.cli.main import app

if __name__ == "__main__":
    app()
