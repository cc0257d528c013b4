"""Micro-batches through a strategy that may fail, over files that may be broken; what is kept is not made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Segmentation, Trace
from int_model.runner.isolation import Failure
from int_model.runner.runner import Made, Pass, run, segment_files
from int_model.runner.store import Entry, ResultKey, ResultStore

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


def test_batches_are_full_in_spite_of_broken_files_and_outcomes_stay_in_order(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    paths.insert(1, tmp_path / "broken.png")
    paths[1].write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    strategy, begun = Recording(), []
    outcomes = list(segment_files(paths, strategy, TASK, batch_size=2, begun=lambda b: begun.append(len(b))))
    assert [source.path for source, _ in outcomes] == paths
    assert strategy.batches == [[0, 1], [2, 3], [4]]
    assert begun == [2, 2, 1]
    assert [isinstance(outcome, Failure) for _, outcome in outcomes] == [False, True, False, False, False, False]
    made = [outcome.segmentation for _, outcome in outcomes if isinstance(outcome, Made)]
    assert [segmentation.instances[0].label for segmentation in made] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (RuntimeError("boom"), [[0, 1, 2, 3], [0], [1], [2], [3]]),
        (RuntimeError("CUDA out of memory. Tried"), [[0, 1, 2, 3], [0, 1], [2, 3], [2], [2], [3]]),
    ],
)
def test_an_image_that_breaks_a_model_harms_no_other(tmp_path: Path, error: Exception, tried: list[list[int]]) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(4)]
    strategy = Recording(fails_on=2, error=error)
    outcomes = [outcome for _, outcome in segment_files(paths, strategy, TASK, batch_size=4)]
    assert strategy.batches == tried
    assert [isinstance(outcome, Made) for outcome in outcomes] == [True, True, False, True]


def test_a_file_that_vanishes_is_one_error(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "a.png"), tmp_path / "gone.png"]
    (_, first), (_, second) = segment_files(paths, Recording(), TASK)
    assert isinstance(first, Made)
    assert isinstance(second, Failure)
    assert "not a file" in second.explain()


def test_files_are_read_when_their_batch_is_due_and_ctrl_c_comes_through(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(4)]
    strategy = Recording(fails_on=2, error=KeyboardInterrupt())  # type: ignore[arg-type]
    outcomes = segment_files(paths, strategy, TASK, batch_size=1)
    assert isinstance(next(outcomes)[1], Made)
    paths[1].unlink()
    assert isinstance(next(outcomes)[1], Failure)
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)


@dataclass(frozen=True)
class Thing:
    """An item of a group."""

    name: str
    value: int | None

    @property
    def image(self) -> Image | None:
        return None if self.value is None else np.full((2, 2, 3), self.value, np.uint8)


class Labels(Pass[Thing, str]):
    """Keeps labels; those of failures are tried again."""

    def key(self, item: Thing) -> ResultKey:
        return ResultKey(str(item.value), self.prompt.text, "labels")

    def conclude(self, item: Thing, outcome: Made | Failure) -> str:
        return "failed" if isinstance(outcome, Failure) else f"{item.name} {outcome.segmentation.instances[0].label}"

    def entry(self, result: str) -> Entry | None:
        return None if result == "failed" else Entry(result.encode())

    def recall(self, entry: Entry) -> str:
        return entry.payload.decode()


def test_what_is_kept_is_not_made_again_equal_work_is_done_once_and_groups_share_no_batch() -> None:
    things = [Thing("a", 1), Thing("b", 2), Thing("a", 1), Thing("b", None), Thing("a", 3), Thing("b", 4)]
    strategy = Recording(fails_on=4)
    with ResultStore(None) as store:

        def done(strategy: Recording) -> list[list[tuple[str, list[str]]]]:
            batches = run(
                things, lambda _: [Labels(strategy, TASK)], batch_size=2, store=store, group=lambda item: item.name
            )
            return [[(item.name, results) for item, results in batch] for batch in batches]

        assert done(strategy) == [
            [("a", ["a 1"]), ("a", ["a 1"])],
            [("b", ["b 2"]), ("b", []), ("b", ["failed"])],
            [("a", ["a 3"])],
        ]
        assert strategy.batches == [[1], [2, 4], [2], [4], [3]]
        again = Recording()
        assert done(again)[1][2] == ("b", ["b 4"])
        assert again.batches == [[4]]
