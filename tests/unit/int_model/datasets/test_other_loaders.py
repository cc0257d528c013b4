"""Data sets as supervision loads them: images found, classes named, masks as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import supervision as sv

from int_model.datasets.coco import CocoWriter, Shape
from int_model.datasets.contents import Contents, Item, Selection
from int_model.datasets.lists import ImagesWriter
from int_model.datasets.yolo import YoloWriter
from tests.unit.int_model.datasets.folders import LABELS, filled, items

VALUES = (10, 0, 60, 90, 0, 120)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Contents, list[Item]]:
    with filled(tmp_path, VALUES, Selection(shares={"val": 0.4})) as (store, contents):
        return contents, items(store, contents)


def with_images(folder: Path, contents: Contents, found: list[Item], mode: Literal["link", "copy"]) -> None:
    images = ImagesWriter(folder, contents.splits, mode)
    for item in found:
        images.add(item)


def compare(loaded: sv.DetectionDataset, found: list[Item], least: float) -> int:
    """Hold the masks of every image to those that were written; how many there were."""
    assert loaded.classes == [plan.label for plan in LABELS]
    by_name = {item.entry.file_name: item for item in found}
    assert {Path(path).name for path in loaded.image_paths} == set(by_name)
    count = 0
    for path, image, detections in loaded:
        item = by_name[Path(path).name]
        assert image.shape[:2] == item.entry.size
        assert len(detections) == len(item.objects)
        for row, wanted in enumerate(item.objects):
            assert detections.class_id is not None
            assert detections.class_id[row] == wanted.category - 1
            assert detections.mask is not None
            ours, theirs = item.mask(wanted), np.asarray(detections.mask[row])
            assert (ours & theirs).sum() >= least * (ours | theirs).sum()
            count += 1
    return count


@pytest.mark.parametrize("mode", ["link", "copy"])
@pytest.mark.parametrize(("shape", "least"), [("rle", 1.0), ("polygon", 0.6)])  # this reader's polygons know no holes
def test_supervision_loads_the_coco_export(
    tmp_path: Path, made: tuple[Contents, list[Item]], shape: Shape, least: float, mode: Literal["link", "copy"]
) -> None:
    (contents, found), out = made, tmp_path / "out"
    writer = CocoWriter(out, contents.labels, contents.splits, {}, shape=shape)
    for item in found:
        writer.add(item)
    writer.close()
    with_images(out, contents, found, mode)
    count = 0
    for split in contents.splits:
        own = [item for item in found if item.entry.split == split]
        file = out / "annotations" / f"instances_{split}.json"
        loaded = sv.DetectionDataset.from_coco(str(out / "images"), str(file), force_masks=True)
        count += compare(loaded, own, least)
    assert count == sum(len(item.objects) for item in found) > 0


def test_supervision_loads_the_yolo_export(tmp_path: Path, made: tuple[Contents, list[Item]]) -> None:
    (contents, found), out = made, tmp_path / "out"
    writer = YoloWriter(out, contents.labels, contents.splits)
    for item in found:
        writer.add(item)
    writer.close()
    with_images(out, contents, found, "link")
    count = 0
    for split in contents.splits:
        own = [item for item in found if item.entry.split == split]
        folders = (str(out / "images" / split), str(out / "labels" / split))
        loaded = sv.DetectionDataset.from_yolo(*folders, str(out / "data.yaml"), force_masks=True)
        count += compare(loaded, own, 0.7)  # it rounds to whole pixels, and a ring is eight of them wide
    assert count == sum(len(item.objects) for item in found) > 0
