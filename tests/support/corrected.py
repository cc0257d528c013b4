"""An export of Label Studio as a team leaves it that corrected scenes of the miniature world."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from int_model.nano.conventions import Convention, annotated_scene
from ml_backend.labelstudio.regions.rle import encode_mask


def brush_region(mask: np.ndarray, label: str, key: str) -> dict[str, Any]:
    """A region of a ``BrushLabels`` control."""
    height, width = mask.shape
    return {
        "id": key,
        "from_name": "label",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]},
    }


def corrected_export(
    folder: Path,
    convention: Convention,
    count: int,
    *,
    label_of: Mapping[str, str],
    data: Sequence[Mapping[str, Any]] = (),
) -> tuple[Path, Path]:
    """Write images and export; returns the export's path and the folder of the images."""
    images = folder / "images"
    images.mkdir(parents=True)
    tasks = []
    for index in range(count):
        scene = annotated_scene(convention, index)
        name = f"scene-{index:03d}.png"
        Image.fromarray(scene.image).save(images / name)
        label = label_of[scene.task]
        result = [brush_region(mask, label, f"r{number}") for number, mask in enumerate(scene.masks)]
        annotation = {"id": 100 + index, "result": result, "lead_time": 12.5, "was_cancelled": False}
        more = data[index] if index < len(data) else {}
        values = {"image": f"/data/upload/1/{name}", **more}
        tasks.append({"id": index + 1, "data": values, "annotations": [annotation], "predictions": []})
    export = folder / "export.json"
    export.write_text(json.dumps(tasks))
    return export, images
