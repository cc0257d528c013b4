"""Two `bootstrap`s started together over a finished set: real processes, real models of the miniature world."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PilImage

from tests.support.fakes import scene


@pytest.mark.slow  # a dozen processes that load models
def test_of_two_that_start_together_at_least_one_does_its_work(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, thing in enumerate(("frog", "owl")):
        image, _ = scene(objects=[(thing, 40, 40, 14)])
        PilImage.fromarray(image).save(tmp_path / f"in/{number}.png")
    command = [sys.executable, "-m", "ml_backend.cli.main", "bootstrap", "in", "--out", "out", "--task", "frog"]
    root = Path(__file__).resolve().parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)

    first = start()
    said = first.communicate(timeout=300)[1]
    assert first.returncode == 0, said
    for _ in range(5):
        pair = [start(), start()]
        said = [one.communicate(timeout=300)[1] for one in pair]
        codes = [one.returncode for one in pair]
        assert 0 in codes, said
        for code, text in zip(codes, said, strict=True):
            assert code == 0 or "another run is working in 'out'; wait for it" in text
    assert len(list((tmp_path / "out/images/train").iterdir())) == 2
