"""Masks as PNG files: the class of every pixel (8 bits, with a palette), and the object of every pixel (16 bits)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image as PilImage

from int_model.datasets.contents import Item, LabelPlan
from int_model.io.drawing import colour_of

MAX_CLASSES = 255
MAX_OBJECTS = 65535


class PngWriter:
    """Writes ``masks/semantic/<split>/<name>.png`` and ``masks/instances/<split>/<name>.png`` below a folder.

    Semantic: the value is the class, from 1 in the order of the labels, 0 for nothing (``masks/classes.json``).
    Instances: the value is the object's number in its image, from 1, 0 for nothing; ``masks/instances.csv`` says what
    each number is. Where objects overlap, the higher score has the pixel. An image without objects is all 0.

    Raises ``ValueError`` for more than 255 labels.
    """

    def __init__(self, folder: Path, labels: Sequence[LabelPlan], splits: Sequence[str]) -> None:
        if len(labels) > MAX_CLASSES:
            raise ValueError(f"8-bit masks hold {MAX_CLASSES} classes, not {len(labels)}; leave png out of --formats")
        self._folder = folder / "masks"
        for kind in ("semantic", "instances"):
            for split in splits:
                (self._folder / kind / split).mkdir(parents=True, exist_ok=True)
        classes = {"0": "background"} | {str(i): plan.label for i, plan in enumerate(labels, 1)}
        (self._folder / "classes.json").write_text(json.dumps(classes, indent=1, ensure_ascii=True) + "\n")
        self._palette = [0, 0, 0, *(channel for i in range(len(labels)) for channel in colour_of(i))]
        self._table: IO[str] = (self._folder / "instances.csv").open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._table, lineterminator="\n")
        self._rows.writerow(["mask", "value", "label", "name", "score", "visible_pixels"])

    def add(self, item: Item) -> None:
        """Write both masks of one image."""
        entry = item.entry
        if len(item.objects) > MAX_OBJECTS:
            raise ValueError(f"'{entry.relative}' has {len(item.objects)} objects; 16-bit masks hold {MAX_OBJECTS}")
        classes = np.zeros(entry.size, dtype=np.uint8)
        numbers = np.zeros(entry.size, dtype=np.uint16)
        for index in sorted(range(len(item.objects)), key=lambda i: (item.objects[i].score, -i)):
            mask = item.mask(item.objects[index])
            classes[mask], numbers[mask] = item.objects[index].category, index + 1
        name = f"{entry.split}/{entry.name}.png"
        picture = PilImage.fromarray(classes)
        picture.putpalette(self._palette)
        _save(picture, self._folder / "semantic" / name)
        _save(PilImage.fromarray(numbers), self._folder / "instances" / name)
        visible = np.bincount(numbers.ravel(), minlength=len(item.objects) + 1)
        for number, found in enumerate(item.objects, 1):
            self._rows.writerow([name, number, found.label, found.name, f"{found.score:.6f}", int(visible[number])])

    def close(self) -> None:
        """Finish the table."""
        self._table.close()


def _save(picture: PilImage.Image, place: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    place.write_bytes(buffer.getvalue())
