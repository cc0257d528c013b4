"""A sample's prediction against its true mask: one sentence for every miss, none where the object is outlined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.demo.outcomes import judged
from ml_backend.demo.samples import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``half.png``: the left half is the object; ``none.png``: nothing is."""
    mask = np.zeros((40, 60), np.uint8)
    Image.fromarray(mask).save(tmp_path / "none.png")
    mask[:, :30] = 255
    Image.fromarray(mask).save(tmp_path / "half.png")
    return tmp_path


def box(x: float, width: float) -> dict[str, Any]:
    value = {"x": x, "y": 0, "width": width, "height": 100, "rotation": 0, "rectanglelabels": ["Fish"]}
    return {"type": "rectanglelabels", "original_width": 60, "original_height": 40, "value": value}


@pytest.mark.parametrize(
    ("mask", "results", "iou", "miss"),
    [
        ("half", None, None, "there is no prediction"),
        ("half", [box(0, 50)], 1.0, ""),
        ("half", [box(0, 25), box(25, 25)], 1.0, ""),
        ("half", [], 0.0, "looked and found nothing; there is fish"),
        ("half", [box(50, 50)], 0.0, "something else than the fish is outlined"),
        ("half", [box(0, 10)], 0.2, "80% of the fish is missed"),
        ("half", [box(20, 80)], 0.3, "62% of what is outlined is not the fish, and 40% of it is missed"),
        ("none", [], 1.0, ""),
        ("none", [box(0, 10)], 0.0, "there is nothing to find, and 1 region drawn"),
    ],
)
def test_every_miss_is_said(folder: Path, mask: str, results: list[Any] | None, iou: float | None, miss: str) -> None:
    sample = Sample(folder / "a.png", folder / f"{mask}.png", "animal", "fish", int(mask != "none"))
    predictions = [] if results is None else [{"id": 1, "result": results, "score": 0.5, "model_version": "int-1"}]
    outcome = judged(1, 2, sample, predictions)
    assert outcome.iou == (None if iou is None else pytest.approx(iou))
    assert outcome.miss == miss
