"""The examples run as a reader would run them, from another folder, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXPECTED = {
    "segment_images.py": r"polyp-02\.png: polyp, score 0\.\d\d, \d{3,} pixels in \[\d+ \d+ \d+ \d+\]",
    "compare_strategies.py": r"grounded_sam: IoU 0\.[3-9]\d\d \(0\.\d+ to 0\.\d+\) on 12 images",
    "own_strategy.py": r"best_box: polyp, score 0\.\d\d, \d{3,} pixels",
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(EXPECTED[name], done.stdout), done.stdout
