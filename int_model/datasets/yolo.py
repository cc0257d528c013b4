"""YOLO segmentation labels as Ultralytics reads them: a text file per image, a polygon per object, ``data.yaml``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from int_model.datasets.contents import Item, LabelPlan
from int_model.masks.rings import join_rings


class YoloWriter:
    """Writes ``labels/<split>/<name>.txt`` and ``data.yaml`` below a folder; the images lie in ``images/<split>``.

    A line is ``class x1 y1 x2 y2 ...``, the class from 0, coordinates divided by width and height. The format knows
    one ring per object: parts and holes are joined to it by lines without width, as Ultralytics' own converter joins
    parts. An image without objects has an empty file, which training takes as a negative.
    """

    def __init__(self, folder: Path, labels: Sequence[LabelPlan], splits: Sequence[str]) -> None:
        self._folder = folder
        for split in splits:
            (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        lines = ["# Made by int-backend bootstrap from unreviewed predictions: see dataset_card.md"]
        lines += [f"{split}: images/{split}" for split in splits]
        if "val" not in splits:
            lines.append("val: images/train  # there is no other split; Ultralytics insists on one")
        lines.append("names:")
        # A JSON string is a YAML string, whatever is in the label.
        lines += [f"  {i}: {json.dumps(plan.label, ensure_ascii=True)}" for i, plan in enumerate(labels)]
        (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def add(self, item: Item) -> None:
        """Write one image's labels."""
        height, width = item.entry.size
        lines = []
        for found in item.objects:
            ring = join_rings(item.rings(found))
            points = np.clip(ring / (width, height), 0.0, 1.0)
            lines.append(f"{found.category - 1} " + " ".join(f"{value:.6f}" for value in points.ravel()))
        place = self._folder / "labels" / item.entry.split / f"{item.entry.name}.txt"
        place.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")

    def close(self) -> None:
        """Nothing waits."""
