"""Exit status 0 if the backend in this container answers: any answer below 500 counts, a refused login too."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    port = os.environ.get("INT_PORT") or os.environ.get("PORT") or "9090"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=4):  # nosec B310 our own address
            return 0
    except urllib.error.HTTPError as error:
        return 0 if error.code < 500 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
