"""Data sets on disk: the layouts of the six benchmarks, COCO JSON, and one clear sentence for whatever does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from pycocotools import mask as coco

from int_model.evaluation.datasets import CocoImages, FolderPairs, Selected, read_mask
from int_model.evaluation.examples import BrokenExample, Example
from int_model.nano.examples import NanoScenes

LAYOUTS = {
    "COD10K, CAMO": ("Imgs/COD10K-CAM-1-Aquatic-1-Bat-1.jpg", "GT/COD10K-CAM-1-Aquatic-1-Bat-1.png"),
    "CHAMELEON": ("Image/animal-1.jpg", "GT/animal-1.png"),
    "CVC-ColonDB": ("images/1.png", "masks/1.png"),
    "CVC-ColonDB, TIFF": ("CVC-ColonDB/1.tiff", "masks/1.bmp"),
    "Kvasir-SEG": ("images/cju0qkwl35piu0993l0dewei2.jpg", "masks/cju0qkwl35piu0993l0dewei2.jpg"),
    "ISIC": (
        "ISIC2018_Task1-2_Test_Input/ISIC_0012169.jpg",
        "ISIC2018_Task1_Test_GroundTruth/ISIC_0012169_segmentation.png",
    ),
    "folders below": ("images/a/1.png", "masks/a/1_mask.PNG"),
}


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(array).save(path, **options)
    return path


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def drawn(height: int = 24, width: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[4:16, 8:24] = 255
    return mask


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_benchmarks_layouts_pair_up(layout: str, tmp_path: Path) -> None:
    image, mask = (tmp_path / part for part in LAYOUTS[layout])
    save(image, picture())
    save(mask, drawn(), **({"quality": 95} if mask.suffix == ".jpg" else {}))
    top = (tmp_path / LAYOUTS[layout][0].split("/")[0], tmp_path / LAYOUTS[layout][1].split("/")[0])
    pairs = FolderPairs.find(*top, "camouflaged animal")
    (example,) = pairs
    assert isinstance(example, Example)
    assert len(pairs) == 1
    assert example.instances is None
    np.testing.assert_array_equal(example.truth, drawn() > 0)  # also of the lossy mask: above grey 128


def test_any_grey_but_zero_is_sought_where_the_protocol_says_so(tmp_path: Path) -> None:
    levels = drawn()
    levels[0, :5] = [1, 64, 128, 129, 200]
    file = save(tmp_path / "m.png", levels)
    assert read_mask(file)[0, :5].tolist() == [False, False, False, True, True]
    assert read_mask(file, above=0)[0, :5].tolist() == [True] * 5


def test_masks_of_zeros_and_ones_bits_and_palettes_are_understood(tmp_path: Path) -> None:
    truth = drawn() > 0
    save(tmp_path / "ones.png", truth.astype(np.uint8))
    PilImage.fromarray(truth).save(tmp_path / "bits.png")
    palette = PilImage.fromarray(truth.astype(np.uint8))
    palette.putpalette([0, 0, 0, 60, 0, 0])
    palette.save(tmp_path / "palette.png")
    empty = np.zeros_like(truth)
    save(tmp_path / "empty.png", empty.astype(np.uint8))
    for name in ("ones", "bits", "palette"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), truth, err_msg=name)
    np.testing.assert_array_equal(read_mask(tmp_path / "empty.png"), empty)


def test_images_and_masks_may_share_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.jpg", picture())
        save(tmp_path / f"{name}_mask.png", drawn())
    assert [name for name, _, _ in FolderPairs.find(tmp_path, tmp_path, "polyp").pairs] == ["a", "b"]
    save(tmp_path / "x" / "images" / "1.png", picture())
    save(tmp_path / "x" / "1.png", drawn())
    assert len(FolderPairs.find(tmp_path / "x" / "images", tmp_path / "x", "polyp")) == 1


@pytest.mark.parametrize(
    ("images", "masks", "sentence"),
    [
        (["a.png", "b.png"], ["a.png"], "1 of 2 images have no mask in"),
        (["a.png"], ["a.png", "c.png"], "1 of 2 masks have no image in"),
        (["a.png"], ["a.png", "a_mask.png"], "the image 'a' has two masks"),
        (["a.png", "a.jpg"], ["a.png"], "which have one name"),
        ([], ["a.png"], "holds no image"),
    ],
)
def test_what_cannot_be_paired_is_one_sentence(
    images: list[str], masks: list[str], sentence: str, tmp_path: Path
) -> None:
    for folder, names in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for name in names:
            save(tmp_path / folder / name, picture() if folder == "images" else drawn())
    with pytest.raises(ValueError, match=sentence):
        FolderPairs.find(tmp_path / "images", tmp_path / "masks", "polyp")
    with pytest.raises(ValueError, match="is not a folder"):
        FolderPairs.find(tmp_path / "images", tmp_path / "nowhere", "polyp")


def test_a_broken_file_or_another_size_harms_its_own_example_only(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", picture())
        save(tmp_path / "masks" / f"{name}.png", drawn() if name != "b" else drawn(20, 30))
    (tmp_path / "images" / "c.png").write_bytes(b"not an image")
    a, b, c = FolderPairs.find(tmp_path / "images", tmp_path / "masks", "polyp")
    assert isinstance(a, Example)
    assert isinstance(b, BrokenExample)
    assert "is 30 x 20 pixels, the image 32 x 24" in b.error
    assert isinstance(c, BrokenExample)
    assert "not an image" in c.error


def coco_file(path: Path, annotations: list[dict[str, object]], **more: object) -> Path:
    data = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "polyp"}, {"id": 2, "name": "tool"}],
        "annotations": [{"id": i, "image_id": 7, "category_id": 1, **a} for i, a in enumerate(annotations)],
    }
    path.write_text(json.dumps({**data, **more}))
    return path


def test_coco_polygons_runs_and_packed_runs_become_the_same_objects(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", picture())
    truth = drawn() > 0
    packed = coco.encode(np.asfortranarray(truth.astype(np.uint8)))
    flat = truth.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = {"size": [24, 32], "counts": np.diff([0, *edges, flat.size]).tolist()}
    polygon = [[8, 4, 24, 4, 24, 16, 8, 16]]
    shapes: list[dict[str, object]] = [
        {"segmentation": polygon},
        {"segmentation": runs},
        {"segmentation": {"size": packed["size"], "counts": packed["counts"].decode()}, "category_id": 2},
    ]
    data = CocoImages.read(coco_file(tmp_path / "t.json", shapes), tmp_path, "polyp")
    a, b = data
    assert isinstance(a, Example)
    assert isinstance(b, Example)
    assert a.instances is not None
    for mask in a.instances:
        np.testing.assert_array_equal(mask, truth)
    assert (b.instances, b.truth.any()) == ((), False)
    (only, _) = CocoImages.read(tmp_path / "t.json", tmp_path, "polyp", ["tool"])
    assert isinstance(only, Example)
    assert only.name == "tool"
    assert len(only.instances or ()) == 1


def test_a_crowd_is_sought_but_is_no_single_object(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", picture())
    shape = {"segmentation": [[8, 4, 24, 4, 24, 16, 8, 16]], "iscrowd": 1}
    a, _ = CocoImages.read(coco_file(tmp_path / "t.json", [shape]), tmp_path, "polyp")
    assert isinstance(a, Example)
    assert a.truth.any()
    assert a.instances is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "is no COCO instance file"),
        ("[1]", "is no COCO instance file"),
        ("nonsense", "is no COCO instance file"),
        ('{"images": [], "annotations": []}', "lists no images"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 9, "category_id": 1}]}', "is no COCO"),
    ],
)
def test_files_that_are_no_coco_are_one_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        CocoImages.read(tmp_path / "t.json", tmp_path, "polyp")
    with pytest.raises(ValueError, match="cannot be read"):
        CocoImages.read(tmp_path / "none.json", tmp_path, "polyp")


def test_coco_objects_that_do_not_fit_are_that_image_s_failure(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    shapes: list[dict[str, object]] = [{"segmentation": {"size": [9, 9], "counts": [81]}}]
    a, b = CocoImages.read(coco_file(tmp_path / "t.json", shapes), tmp_path, "polyp")
    assert isinstance(a, BrokenExample)
    assert "is 9 x 9 pixels, the image 32 x 24" in a.error
    assert isinstance(b, BrokenExample)  # its file is missing
    with pytest.raises(ValueError, match="has no category 'cat'; choose among: polyp, tool"):
        CocoImages.read(tmp_path / "t.json", tmp_path, "polyp", ["cat"])


def test_scenes_are_the_same_again_differ_by_seed_and_can_be_divided() -> None:
    scenes = NanoScenes(3, seeds=(1, 2))
    first, again = list(scenes), list(scenes)
    assert len(scenes) == len(first) == 6
    digests = [e.digests() for e in first if isinstance(e, Example)]
    assert digests == [e.digests() for e in again if isinstance(e, Example)]
    assert len(set(digests)) == 6
    assert {e.group for e in first} == {"scenes of seed 1", "scenes of seed 2"}
    parts = [Selected(scenes, range(i, len(scenes), 4)) for i in range(4)]
    assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in first)
    assert [len(part) for part in parts] == [2, 2, 1, 1]
