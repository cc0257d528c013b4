"""Folders of pictures and a strategy without models, for tests of everything that makes data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Mask, Segmentation, Trace
from int_model.datasets.collect import collect, make_plan
from int_model.datasets.contents import Contents, Item, LabelPlan, Selection, survey
from int_model.datasets.store import DatasetStore

SIZE = (48, 64)
LABELS = (LabelPlan("Ring", "rings", "key-rings"), LabelPlan("Pair", "pairs", "key-pairs"))


def shapes(task: str, size: tuple[int, int] = SIZE) -> list[Mask]:
    """For ``rings`` a ring (a hole) and a disc that overlaps it, for ``pairs`` one object of three parts."""
    canvas = [np.zeros(size, np.uint8) for _ in range(2)]
    if task == "rings":
        cv2.circle(canvas[0], (22, 24), 14, 1, -1)
        cv2.circle(canvas[0], (22, 24), 6, 0, -1)
        cv2.circle(canvas[1], (38, 24), 8, 1, -1)
        return [mask.astype(bool) for mask in canvas]
    cv2.rectangle(canvas[0], (3, 3), (14, 10), 1, -1)
    cv2.circle(canvas[0], (52, 12), 7, 1, -1)
    cv2.circle(canvas[0], (50, 38), 6, 1, -1)
    return [canvas[0].astype(bool)]


def picture(path: Path, value: int, size: tuple[int, int] = SIZE) -> Path:
    """A picture whose first pixel is ``value``; its structure differs from any other value's."""
    rng = np.random.default_rng(value)
    noise = cv2.resize(rng.integers(30, 256, (6, 8, 3), dtype=np.uint8), (size[1], size[0]))
    noise[0, 0] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(noise).save(path)
    return path.parent.resolve() / path.name


class Shapes:
    """A strategy by the first pixel: 0 finds nothing, 1 fails, others find ``shapes`` with scores that fall with it."""

    def __init__(self, before: Callable[[list[int]], None] | None = None) -> None:
        self.seen: list[tuple[str, int]] = []
        self.batches: list[list[int]] = []
        self._before = before

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        values = [int(image[0, 0, 0]) for image in images]
        if self._before is not None:
            self._before(values)
        if 1 in values:
            raise RuntimeError("CUDA out of memory")
        self.batches.append(values)
        self.seen += [(task.text, value) for value in values]
        return [self._one(image.shape[:2], value, task.text) for image, value in zip(images, values, strict=True)]

    def _one(self, size: tuple[int, int], value: int, task: str) -> Segmentation:
        masks = [] if value == 0 else shapes(task, size)
        objects = tuple(
            Instance.of_mask(mask, f"{task}-{i}", 1 - value / 300 - 0.1 * i) for i, mask in enumerate(masks)
        )
        return Segmentation(size, task, objects, 0.5, Trace(task, "shapes"), reason="" if objects else "nothing there")


def fill(
    store: DatasetStore, paths: Sequence[Path], strategy: Shapes | None = None, *, retry: bool = False
) -> list[str]:
    """Collect all that is missing; returns the errors."""
    plan = make_plan(store, paths, LABELS, retry_failed=retry)
    done = collect(store, plan.todo, strategy or Shapes(), LABELS, batch_size=2, version="test", retry_failed=retry)
    return [error for _, error in done]


@contextmanager
def filled(
    folder: Path, values: Sequence[int], selection: Selection | None = None
) -> Iterator[tuple[DatasetStore, Contents]]:
    """A store with pictures of those values done, and its contents (no splits unless asked for)."""
    paths = [picture(folder / "in" / f"{i % 2}" / f"p{i}.png", value) for i, value in enumerate(values)]
    with DatasetStore(folder / "store" / "results.sqlite") as store:
        fill(store, paths)
        yield store, survey(store, (folder / "in").resolve(), paths, LABELS, selection or Selection())


def items(store: DatasetStore, contents: Contents) -> list[Item]:
    return list(contents.items(store))
