"""The table: ``python -m benchmarks.originals``."""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from unittest import mock

from tests.support import torchvision_ops

PACKAGES = ("segment_anything", "sam2", "groundingdino", "open_clip")


def main() -> int:
    """Print one line per package and figure."""
    torchvision_ops.declare()
    from benchmarks.originals import sam2 as small
    from int_model.models.adapters.originals import sam2

    for package in PACKAGES:
        module = import_module(f"benchmarks.originals.{package.replace('groundingdino', 'grounding_dino')}")
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(sam2.VARIANTS, small.SMALL):
            try:
                for name, value in module.differences(Path(folder)).items():
                    sys.stdout.write(f"{package:18}{name:28}{value:.1e}\n")
            except ImportError as error:
                sys.stdout.write(f"{package:18}not installed ({error})\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
