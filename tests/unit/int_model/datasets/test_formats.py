"""Every format, read back by its consumers or by an independent reader of the same rules."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from int_model.datasets.coco import CocoWriter, Shape
from int_model.datasets.contents import Contents, Item, LabelPlan, Selection
from int_model.datasets.lists import ImagesWriter, ListWriter
from int_model.datasets.names import common_root, flat_names, relative_name
from int_model.datasets.png import PngWriter
from int_model.datasets.store import DatasetStore
from int_model.datasets.yolo import YoloWriter
from tests.unit.int_model.datasets.folders import LABELS, filled, items

VALUES = (10, 0, 60, 90, 0, 120, 150, 180)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def everything(store: DatasetStore, contents: Contents) -> list[Item]:
    found = items(store, contents)
    assert len(found) == len(VALUES)
    return found


def write_coco(folder: Path, contents: Contents, found: list[Item], shape: Shape = "rle", licence: str = "") -> None:
    writer = CocoWriter(folder, contents.labels, contents.splits, {"year": 2000}, licence=licence, shape=shape)
    for item in found:
        writer.add(item)
    writer.close()


def test_coco_is_what_pycocotools_reads_mask_for_mask(tmp_path: Path) -> None:
    with filled(tmp_path, VALUES, Selection(shares={"val": 0.3})) as (store, contents):
        found = everything(store, contents)
        write_coco(tmp_path / "out", contents, found, licence="CC0-1.0")
    by_name = {item.entry.relative: item for item in found}
    seen = set()
    for split in ("train", "val"):
        coco = COCO(tmp_path / "out" / "annotations" / f"instances_{split}.json")
        assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == [(1, "Ring"), (2, "Pair")]
        assert coco.dataset["info"] == {"year": 2000}
        assert coco.dataset["licenses"] == [{"id": 1, "name": "CC0-1.0", "url": ""}]
        assert all({image["license"] for image in coco.loadImgs(i)} == {1} for i in coco.getImgIds())
        for image in coco.loadImgs(coco.getImgIds()):
            item = by_name[image["source"]]
            seen.add(image["source"])
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            assert (image["height"], image["width"]) == item.entry.size
            assert image["file_name"] == f"{item.entry.split}/{item.entry.file_name}"
            assert item.entry.split == split
            assert image["negative"] == (not annotations)
            assert image["abstained"] == ([] if annotations else ["Ring", "Pair"])
            for annotation, wanted in zip(annotations, item.objects, strict=True):
                mask = coco.annToMask(annotation).astype(bool)
                np.testing.assert_array_equal(mask, item.mask(wanted))
                rows, cols = np.nonzero(mask)
                box = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
                assert (annotation["area"], annotation["bbox"]) == (mask.sum(), [int(v) for v in box])
                assert (annotation["score"], annotation["name"]) == (wanted.score, wanted.name)
    assert seen == set(by_name)
    ids = [json.loads(path.read_text()) for path in (tmp_path / "out" / "annotations").iterdir()]
    for kind in ("images", "annotations"):
        numbers = [entry["id"] for part in ids for entry in part[kind]]
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), "unique over the splits"


def test_the_scores_can_be_evaluated_by_cocoeval(tmp_path: Path) -> None:
    with filled(tmp_path, VALUES) as (store, contents):
        write_coco(tmp_path, contents, everything(store, contents))
    truth = COCO(tmp_path / "annotations" / "instances_train.json")
    detections = truth.loadRes([dict(annotation) for annotation in truth.dataset["annotations"]])
    evaluation = COCOeval(truth, detections, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_coco_polygons_cover_the_masks_holes_included(tmp_path: Path) -> None:
    with filled(tmp_path, VALUES) as (store, contents):
        found = everything(store, contents)
        write_coco(tmp_path, contents, found, "polygon")
    coco = COCO(tmp_path / "annotations" / "instances_train.json")
    wanted = [(item, wanted) for item in found for wanted in item.objects]
    assert len(coco.dataset["annotations"]) == len(wanted)
    for annotation, (item, mine) in zip(coco.dataset["annotations"], wanted, strict=True):
        mask = item.mask(mine)
        assert iou(coco.annToMask(annotation).astype(bool), mask) > 0.85
        assert annotation["area"] == mask.sum(), "the exact mask's"
        assert len(annotation["segmentation"]) == (3 if mine.label == "Pair" else 1)
        assert all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in annotation["segmentation"])


def read_yolo(text: str, height: int, width: int) -> list[tuple[int, np.ndarray]]:
    """Ultralytics' reading: class, then points in 0..1; truncated to pixels and filled."""
    out = []
    for line in text.splitlines():
        number, *coordinates = line.split(" ")
        points = np.array([float(value) for value in coordinates]).reshape(-1, 2)
        assert len(points) >= 3
        assert points.min() >= 0.0
        assert points.max() <= 1.0
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [(points * (width, height)).astype(np.int32)], 1)
        out.append((int(number), canvas.astype(bool)))
    return out


def test_yolo_labels_are_what_training_reads(tmp_path: Path) -> None:
    with filled(tmp_path, VALUES, Selection(shares={"val": 0.3})) as (store, contents):
        found = everything(store, contents)
        writers = [YoloWriter(tmp_path, LABELS, contents.splits), ImagesWriter(tmp_path, contents.splits, "link")]
        for item in found:
            for writer in writers:
                writer.add(item)
        for writer in writers:
            writer.close()
    told = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert told == {"train": "images/train", "val": "images/val", "names": {0: "Ring", 1: "Pair"}}
    for item in found:
        image = tmp_path / told[item.entry.split] / item.entry.file_name
        assert image.read_bytes() == item.entry.path.read_bytes()
        labels = Path(str(image.parent).replace("/images/", "/labels/")) / f"{image.stem}.txt"
        objects = read_yolo(labels.read_text(), *item.entry.size)
        assert [number for number, _ in objects] == [wanted.category - 1 for wanted in item.objects]
        for (_, mask), wanted in zip(objects, item.objects, strict=True):
            # One pixel of border is filled too, and the lines that join parts: Ultralytics does so to every polygon.
            assert iou(mask, item.mask(wanted)) > 0.7
            assert iou(cv2.erode(mask.astype(np.uint8), np.ones((2, 2)), anchor=(0, 0)) > 0, item.mask(wanted)) > 0.85
    assert len(list((tmp_path / "labels").rglob("*.txt"))) == len(VALUES), "an empty file is a negative"


def test_yolo_without_validation_still_names_one(tmp_path: Path) -> None:
    YoloWriter(tmp_path, [LabelPlan('a: "b" # ü', "x", "k")], ["train"]).close()
    told = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert told == {"train": "images/train", "val": "images/train", "names": {0: 'a: "b" # ü'}}


def test_png_masks_hold_classes_and_objects(tmp_path: Path) -> None:
    with filled(tmp_path, VALUES) as (store, contents):
        found = everything(store, contents)
        writer = PngWriter(tmp_path, LABELS, contents.splits)
        for item in found:
            writer.add(item)
        writer.close()
    assert json.loads((tmp_path / "masks/classes.json").read_text()) == {"0": "background", "1": "Ring", "2": "Pair"}
    rows = list(csv.DictReader((tmp_path / "masks/instances.csv").open()))
    for item in found:
        name = f"train/{item.entry.name}.png"
        with PilImage.open(tmp_path / "masks/semantic" / name) as picture:
            assert picture.mode == "P", "a palette for eyes, class numbers for programs"
            classes = np.asarray(picture)
        with PilImage.open(tmp_path / "masks/instances" / name) as picture:
            assert picture.mode == "I;16"
            numbers = np.asarray(picture)
        assert classes.shape == numbers.shape == item.entry.size
        owner = np.zeros(item.entry.size, int)
        for i in sorted(range(len(item.objects)), key=lambda i: item.objects[i].score):
            owner[item.mask(item.objects[i])] = i + 1
        np.testing.assert_array_equal(numbers, owner)
        category = np.array([0, *(wanted.category for wanted in item.objects)])
        np.testing.assert_array_equal(classes, category[owner])
        own = [row for row in rows if row["mask"] == name]
        assert [(row["value"], row["label"]) for row in own] == [
            (str(i), wanted.label) for i, wanted in enumerate(item.objects, 1)
        ]
        assert [int(row["visible_pixels"]) for row in own] == [int((owner == i + 1).sum()) for i in range(len(own))]


def test_png_masks_end_at_255_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave png out"):
        PngWriter(tmp_path, [LabelPlan(str(i), str(i), str(i)) for i in range(256)], ["train"])


def test_lists_name_abstentions_and_failures(tmp_path: Path) -> None:
    with filled(tmp_path, (10, 0, 1, 200), Selection(min_score=0.5)) as (store, contents):
        writer = ListWriter(tmp_path, contents.failures)
        for item in items(store, contents):
            writer.add(item)
        writer.close()
    splits = list(csv.DictReader((tmp_path / "splits.csv").open()))
    assert [(row["image"], row["objects"]) for row in splits] == [
        ("0/p0.png", "3"),
        ("1/p1.png", "0"),
        ("1/p3.png", "0"),
    ]
    abstained = list(csv.DictReader((tmp_path / "abstained.csv").open()))
    assert [(row["image"], row["label"], row["reason"]) for row in abstained] == [
        ("1/p1.png", "Ring", "nothing there"),
        ("1/p1.png", "Pair", "nothing there"),
        ("1/p3.png", "Ring", "the best score, 0.33, is below 0.50"),
        ("1/p3.png", "Pair", "the best score, 0.33, is below 0.50"),
    ]
    (failed,) = csv.DictReader((tmp_path / "failed.csv").open())
    assert failed["image"] == "0/p2.png"
    assert "out of memory" in failed["reason"]


def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    with filled(tmp_path, (10,)) as (store, contents):
        (item,) = items(store, contents)
    ImagesWriter(tmp_path / "c", ["train"], "copy").add(item)
    place = tmp_path / "c" / "images" / "train" / item.entry.file_name
    assert not place.is_symlink()
    assert place.read_bytes() == item.entry.path.read_bytes()


def test_every_image_of_the_coco_file_lies_inside_the_folder_as_loaders_ask(tmp_path: Path) -> None:
    with filled(tmp_path, VALUES, Selection(shares={"val": 0.3})) as (store, contents):
        real = tmp_path / "elsewhere.png"
        found = everything(store, contents)
        found[0].entry.path.rename(real)
        found[0].entry.path.symlink_to(real)
        write_coco(tmp_path / "out", contents, found)
        images = ImagesWriter(tmp_path / "out", contents.splits, "link")
        for item in found:
            images.add(item)
    folder = (tmp_path / "out" / "images").resolve()
    for split in contents.splits:
        listed = COCO(tmp_path / "out" / "annotations" / f"instances_{split}.json").dataset["images"]
        assert listed
        for entry in listed:
            place = (folder / entry["file_name"]).resolve()
            assert place.is_relative_to(folder), "symbolic links led outside the images directory"
            with PilImage.open(place) as picture:
                assert picture.size == (entry["width"], entry["height"])
    assert found[1].entry.path.samefile(folder / found[1].entry.split / found[1].entry.file_name)


def test_images_are_copied_where_no_hard_link_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with filled(tmp_path, (10,)) as (store, contents):
        (item,) = items(store, contents)
    monkeypatch.setattr(os, "link", refuse)
    images = ImagesWriter(tmp_path / "out", ["train"], "link")
    images.add(item)
    place = tmp_path / "out/images/train" / item.entry.file_name
    assert place.read_bytes() == item.entry.path.read_bytes()
    assert not place.samefile(item.entry.path)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.png", "b/x.png", "x.png"], ["a-x", "b-x", "x"]),
        (["a/x.png", "a-x.jpg", "A/X.bmp"], ["a-x", "a-x-01234567", "A-X-01234567-2"]),
        (["sp ace/q?#%.png", "con.png", "....png", "ü/ß.tif"], ["sp_ace-q_", "image-con", "image", "ü-ß"]),
    ],
)
def test_flat_names_are_unique_and_safe(paths: list[str], names: list[str]) -> None:
    assert flat_names(paths, ["0123456789"] * len(paths)) == names


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=200), max_size=20))
def test_flat_names_never_collide(paths: list[str]) -> None:
    names = flat_names(paths, [f"{i:08d}" for i in range(len(paths))])
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name and len(name.encode()) < 200 and "/" not in name for name in names)


def test_names_are_relative_to_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    assert common_root([tmp_path / "a"]) == (tmp_path / "a").resolve()
    assert common_root([tmp_path / "a" / "b", tmp_path / "c"]) == tmp_path.resolve()
    assert relative_name(tmp_path.resolve() / "a" / "b" / "x.png", tmp_path.resolve()) == "a/b/x.png"
