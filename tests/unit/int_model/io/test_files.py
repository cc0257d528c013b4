"""Finding images, and running a strategy that may fail over files that may be broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Segmentation, Trace
from int_model.io.files import find_images, segment_files

TASK = TaskPrompt("thing")


def picture(path: Path, value: int = 7, size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.new("RGB", size, (value, value, value)).save(path)
    return path


class Recording:
    """A strategy that finds everything, notes its batches, and fails on images of one gray value."""

    def __init__(self, fails_on: int | None = None, error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self._fails_on, self._error = fails_on, error or RuntimeError("boom\nboom")

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        values = [int(image[0, 0, 0]) for image in images]
        self.batches.append(values)
        if self._fails_on in values:
            raise self._error
        return [
            Segmentation(
                image.shape[:2],
                task.text,
                (Instance.of_mask(np.ones(image.shape[:2], bool), str(value), 1.0),),
                1.0,
                Trace(task.text, "recording"),
            )
            for image, value in zip(images, values, strict=True)
        ]


def test_folders_are_searched_with_everything_below_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpg", "a/deep/x.webp", ".hidden/y.png", "b/._2.png", "out/masks/m.png", "z.png"):
        picture(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("no image")
    found = find_images([tmp_path], skip=[tmp_path / "out" / "masks"])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["z.png", "a/deep/x.webp", "b/10.jpg", "b/2.PNG"]


def test_a_named_file_may_have_any_ending_and_is_listed_once(tmp_path: Path) -> None:
    odd = picture(tmp_path / "scan.png").rename(tmp_path / "scan.dat")
    link = tmp_path / "link.png"
    link.symlink_to(odd)
    assert find_images([odd, link, tmp_path / "." / "scan.dat"]) == [odd]


def test_missing_and_empty_places_are_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file or folder '.*nowhere'; check"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"holds no image; images end in"):
        find_images([tmp_path])


def test_batches_are_full_in_spite_of_broken_files_and_outcomes_stay_in_order(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    paths.insert(1, tmp_path / "broken.png")
    paths[1].write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    strategy, started = Recording(), []
    outcomes = list(segment_files(paths, strategy, TASK, batch_size=2, started=lambda b: started.append(len(b))))
    assert [o.path for o in outcomes] == paths
    assert strategy.batches == [[0, 1], [2, 3], [4]]
    assert started == [2, 2, 1]
    assert [bool(o.error) for o in outcomes] == [False, True, False, False, False, False]
    assert [o.segmentation.instances[0].label for o in outcomes if o.segmentation] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("boom\nboom"), "RuntimeError: boom boom"),
        (ValueError("too small;  use more"), "too small; use more"),
        (RuntimeError("CUDA out of memory. Tried"), "limits.max_side"),
        (MemoryError(), "limits.max_side"),
        (IndexError(), "IndexError"),
    ],
)
def test_an_image_that_breaks_a_model_harms_no_other(tmp_path: Path, error: Exception, sentence: str) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(4)]
    strategy = Recording(fails_on=2, error=error)
    outcomes = list(segment_files(paths, strategy, TASK, batch_size=4))
    assert strategy.batches == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert [bool(o.segmentation) for o in outcomes] == [True, True, False, True]
    assert sentence in outcomes[2].error
    assert "\n" not in outcomes[2].error


def test_a_file_that_vanishes_is_one_error(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "a.png"), tmp_path / "gone.png"]
    outcomes = list(segment_files(paths, Recording(), TASK))
    assert outcomes[0].segmentation is not None
    assert outcomes[1].error
