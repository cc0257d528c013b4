"""Files that a run leaves: names, contents, and what is left when something goes wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage

from int_model.core.types import Segmentation, Trace
from int_model.io.drawing import overlay
from int_model.io.outputs import (
    OutputWriter,
    assign_stems,
    describe_instances,
    to_json,
    write_atomic,
)
from tests.support.made_up import made_up


def stems(*paths: str) -> list[str]:
    return assign_stems([Path("/data") / path for path in paths])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/cat.jpg", "a/dog.jpg"], ["cat", "dog"]),
        (["a/cat.jpg", "b/cat.jpg", "b/cat.png"], ["cat", "b-cat", "b-cat-2"]),
        (["a/Cat.jpg", "b/cat.jpg"], ["Cat", "b-cat"]),
        (["a/cat.jpg", "a/cat_1.jpg"], ["cat", "a-cat_1"]),
        (["a/cat_1.jpg", "a/cat.jpg"], ["cat_1", "a-cat"]),
        (["a/cat_1.jpg", "a/cat_2.jpg", "a/cat_10.jpg"], ["cat_1", "cat_2", "cat_10"]),
        (["a/con.jpg", "a/ .jpg", 'a/x:y"z.png', "a/two words.png"], ["imagecon", "image", "x_y_z", "two words"]),
    ],
)
def test_stems(paths: list[str], expected: list[str]) -> None:
    assert stems(*paths) == expected


def test_a_very_long_name_and_bytes_that_are_no_utf8_become_names_that_can_be_written(tmp_path: Path) -> None:
    paths = [tmp_path / ("ä" * 120 + ".png"), tmp_path / os.fsdecode(b"caf\xe9.png")]
    for stem in assign_stems(paths):
        (tmp_path / f"{stem}_10.png").write_bytes(b"")
        assert stem.encode()


names = st.text(alphabet="aA_1ü. -", min_size=1, max_size=6)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=12, unique=True))
def test_no_two_images_ever_write_the_same_file(pairs: list[tuple[str, str]]) -> None:
    given_stems = assign_stems([Path("/d") / f"f{folder}" / f"{name}.png" for folder, name in pairs])
    files = [f"{stem}{tail}.png".casefold() for stem in given_stems for tail in ("", "_0", "_1", "_11")]
    assert len(set(files)) == len(files)


def read_mask(path: Path) -> np.ndarray:
    with PilImage.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def test_the_files_hold_the_segmentation(tmp_path: Path) -> None:
    image, segmentation = made_up()
    files = OutputWriter(tmp_path).write("cat", image, segmentation, {"score": 0.5, "bad": float("nan")})

    assert sorted(files) == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    union = read_mask(tmp_path / "masks/cat.png")
    assert set(np.unique(union)) == {0, 255}
    np.testing.assert_array_equal(union == 255, segmentation.mask)
    for i, instance in enumerate(segmentation.instances):
        np.testing.assert_array_equal(read_mask(tmp_path / f"masks/cat_{i}.png") == 255, instance.mask)
    with PilImage.open(tmp_path / "overlay/cat.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), overlay(image, segmentation.instances))
    record = json.loads((tmp_path / "trace/cat.json").read_bytes())
    assert record == {"score": 0.5, "bad": None, "files": list(files)}


def test_a_second_run_with_fewer_objects_leaves_no_stale_mask_but_foreign_files(tmp_path: Path) -> None:
    image, segmentation = made_up()
    writer = OutputWriter(tmp_path)
    writer.write("cat", image, segmentation, {})
    foreign = tmp_path / "masks" / "cat_7.png"
    foreign.write_bytes(b"not ours")

    nothing = Segmentation(segmentation.size, "x", (), 0.0, Trace("x", "int"), reason="looked, found nothing")
    writer.write("cat", image, nothing, {})

    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == ["cat.png", "cat_7.png"]
    assert not read_mask(tmp_path / "masks/cat.png").any()


def test_a_forged_list_of_files_cannot_make_the_writer_delete_others(tmp_path: Path) -> None:
    image, segmentation = made_up()
    victim = tmp_path / "precious.png"
    victim.write_bytes(b"x")
    (tmp_path / "trace").mkdir()
    forged = ["../precious.png", "precious.png", "masks/cat_1/../../precious.png", 3]
    (tmp_path / "trace/cat.json").write_text(json.dumps({"files": forged}))
    OutputWriter(tmp_path).write("cat", image, segmentation, {})
    assert victim.exists()


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    write_atomic(target, b"old")

    def full(self: Path, other: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert target.read_bytes() == b"old"


def test_described_instances_are_plain_json() -> None:
    _, segmentation = made_up()
    described = json.loads(to_json(describe_instances(segmentation)))
    assert [item["label"] for item in described] == ["chameleon", "chameleon"]
    for item, instance in zip(described, segmentation.instances, strict=True):
        x1, y1, x2, y2 = (int(v) for v in item["box_xyxy"])
        assert item["area"] == instance.mask.sum() == instance.mask[y1:y2, x1:x2].sum()
        assert instance.mask[y1].any()
        assert instance.mask[y2 - 1].any()
