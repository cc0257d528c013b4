"""From files and folders to segmentations: finding images, running a strategy over them in micro-batches."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.io.errors import ImageError
from int_model.io.images import read_image
from int_model.io.outputs import display_name

_RASTER = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .avif"
_MEDICAL = ".dcm .dicom"
SUFFIXES = frozenset(f"{_RASTER} {_MEDICAL}".split())
"""File name endings (lower case) that are taken from a folder. A file that is named itself may have any."""

_log = logging.getLogger(__name__)


class Segments(Protocol):
    """What is needed of a strategy here."""

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """One segmentation per image."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one file: ``image`` and ``segmentation``, or ``error`` in one sentence.

    ``seconds`` is the wall time of its micro-batch divided by the number of images in it.
    """

    path: Path
    image: Image | None = None
    segmentation: Segmentation | None = None
    seconds: float = 0.0
    error: str = ""


def find_images(places: Sequence[Path], skip: Sequence[Path] = ()) -> list[Path]:
    """The image files that ``places`` name: files as they are, folders with everything below, sorted, hidden ones not.

    ``skip`` are folders that are left out, e.g. those that results are written to. A file is listed once. Links to
    folders are not followed. Raises ``ValueError`` for a place that does not exist or a folder without images.
    """
    skipped = {folder.resolve() for folder in skip}
    found: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            images = list(_in_folder(place, skipped))
            if not images:
                raise ValueError(f"the folder '{display_name(place)}' holds no image; images end in .jpg, .png, ...")
        elif place.exists():
            images = [place]
        else:
            raise ValueError(f"there is no file or folder '{display_name(place)}'; check its spelling")
        for image in images:
            found.setdefault(image.resolve(), image)
    return list(found.values())


def _in_folder(folder: Path, skipped: set[Path]) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        here = Path(top)
        if here.resolve() in skipped:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield here / name


def segment_files(
    paths: Iterable[Path],
    strategy: Segments,
    task: TaskPrompt,
    *,
    batch_size: int = 4,
    started: Callable[[Sequence[Path]], None] | None = None,
) -> Iterator[Outcome]:
    """Read and segment files, ``batch_size`` at a time; yields one outcome per file, in order.

    A file that cannot be read, or an image on which the strategy fails, becomes an outcome with an error; the others
    of its batch are not harmed. ``started`` is told the readable files of a batch before the strategy runs.
    """
    waiting: list[Outcome] = []
    readable = 0
    for path in paths:
        outcome = _read(path)
        waiting.append(outcome)
        readable += not outcome.error
        if readable == batch_size:
            yield from _flush(waiting, strategy, task, started)
            waiting, readable = [], 0
    yield from _flush(waiting, strategy, task, started)


def _read(path: Path) -> Outcome:
    try:
        return Outcome(path, image=read_image(path))
    except ImageError as error:
        return Outcome(path, error=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Outcome(path, error=f"the file cannot be read ({error.strerror or error}); check its permissions")


def _flush(
    waiting: Sequence[Outcome],
    strategy: Segments,
    task: TaskPrompt,
    started: Callable[[Sequence[Path]], None] | None,
) -> Iterator[Outcome]:
    ready = [item for item in waiting if item.image is not None]
    if ready and started is not None:
        started([item.path for item in ready])
    done = {item.path: item for item in _segment(ready, strategy, task)}
    for item in waiting:
        yield done.get(item.path, item)


def _segment(ready: Sequence[Outcome], strategy: Segments, task: TaskPrompt) -> list[Outcome]:
    """The batch together; if that fails, one by one, so that only the image at fault has an error."""
    images = [item.image for item in ready if item.image is not None]
    if not images:
        return []
    begun = time.perf_counter()
    try:
        segmentations = strategy.segment(images, task)
    except Exception as error:  # noqa: BLE001 whatever a model throws is this image's error, not the run's
        _log.debug("segmenting %s failed", [display_name(item.path) for item in ready], exc_info=True)
        if len(ready) > 1:
            return [outcome for item in ready for outcome in _segment([item], strategy, task)]
        return [Outcome(ready[0].path, error=explain_failure(error))]
    seconds = (time.perf_counter() - begun) / len(ready)
    return [
        Outcome(item.path, item.image, segmentation, seconds)
        for item, segmentation in zip(ready, segmentations, strict=True)
    ]


def explain_failure(error: Exception) -> str:
    """One sentence for a user: what a strategy's exception means for this image, and the cure if there is one."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        return "the models ran out of memory on this image; use a smaller --profile, or --set limits.max_side=1024"
    if isinstance(error, ValueError):
        return text
    return f"the models failed on this image ({type(error).__name__}: {text[:300]}); --debug shows where"
