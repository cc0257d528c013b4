"""Annotated tasks of an export or a project as examples to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from int_model.core.types import Mask, union
from int_model.evaluation.examples import BrokenExample
from int_model.learning.examples import Clicks, Example, Target
from ml_backend.labelstudio.exports import AnnotatedImage, Area
from ml_backend.storage.clicks import LoggedClick

UNCHANGED_WEIGHT = 0.3
"""What a prediction counts that a person accepted as it was: it mostly repeats the model."""

LEAST_AGREEMENT = 0.7
"""IoU of two annotators below which an image teaches nothing: who of them is right is not known."""

_GLANCE = 1.0  # seconds: a prediction that was accepted faster was not looked at


class Annotated(Protocol):
    """What gives annotated images one by one."""

    def annotated(self) -> Iterable[AnnotatedImage | BrokenExample]:
        """The images with the annotation that counts."""
        ...


Prompts = Mapping[str, str] | Callable[[AnnotatedImage], Mapping[str, str]]
"""The task prompt of each label, for all images or for one."""


@dataclass(slots=True)
class Corrections:
    """Examples of annotated tasks, with what was left out.

    Args:
        export: the annotated tasks.
        prompts: the task prompt of each label; regions with other labels are left out.
        group_field: field of the task's data by which images belong together (a series, a patient); "" for none.
        tell: gets a line for each task that is left out.
        clicks: the interactive calls on tasks, by the tasks' ids, in their order.
    """

    export: Annotated
    prompts: Prompts
    group_field: str = ""
    tell: Callable[[str], None] = lambda _: None
    left_out: list[str] = field(default_factory=list)
    clicks: Mapping[int, Sequence[LoggedClick]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Example]:
        for entry in self.export.annotated():
            if not isinstance(entry, AnnotatedImage):
                self._leave_out(f"{entry.id}: {entry.error}")
            elif (example := self._example(entry)) is not None:
                yield example

    def _example(self, entry: AnnotatedImage) -> Example | None:
        unchanged = self._unchanged(entry)
        seconds = entry.annotation.get("lead_time")
        if unchanged and isinstance(seconds, (int, float)) and seconds < _GLANCE:
            self._leave_out(f"{entry.name}: the prediction was accepted within a second")
            return None
        agreement = _agreement(entry)
        if agreement < LEAST_AGREEMENT:
            self._leave_out(f"{entry.name}: its annotators disagree (IoU {agreement:.2f})")
            return None
        weight = UNCHANGED_WEIGHT if unchanged else 1.0
        prompts = self.prompts(entry) if callable(self.prompts) else self.prompts
        calls = self.clicks.get(entry.task.content.get("id") or 0, ())
        targets = tuple(
            Target(prompts[label], area.mask, weight, clicks_on(area, calls))
            for area in entry.areas
            if (label := next((name for name in area.labels if name in prompts), None)) is not None
        )
        return Example(entry.image, targets, self._group(entry), entry.name)

    def _group(self, entry: AnnotatedImage) -> str:
        value = entry.task.content["data"].get(self.group_field) if self.group_field else None
        return f"{self.group_field}={value}" if isinstance(value, (str, int)) else ""

    def _unchanged(self, entry: AnnotatedImage) -> bool:
        """Whether the annotation is the prediction that was shown, pixel for pixel."""
        shown = _shown_prediction(entry)
        if shown is None:
            return False
        areas = entry.task.areas(shown, (entry.image.shape[0], entry.image.shape[1]), lambda _: None)
        return len(areas) == len(entry.areas) and all(
            any(np.array_equal(area.mask, other.mask) for other in areas) for area in entry.areas
        )

    def _leave_out(self, line: str) -> None:
        self.left_out.append(line)
        self.tell(line)


def clicks_on(area: Area, calls: Sequence[LoggedClick]) -> tuple[Clicks, ...]:
    """The clicks that an object was made with: the last call of each session with all its points, in order.

    A call belongs to the object if its label is the object's and every point of it lies on the side of the outline
    that its sign says. A session is one object's: each call repeats the points of the one before and adds some.
    """
    fitting = [call for call in calls if call.label in area.labels and call.size == area.mask.shape and call.points]
    ended = [
        call
        for call, following in pairwise([*fitting, None])
        if call is not None and (following is None or following.points[: len(call.points)] != call.points)
    ]
    found = []
    for call in ended:
        x, y = np.array(call.points).T
        rows = np.clip(y.astype(np.int64), 0, area.mask.shape[0] - 1)
        columns = np.clip(x.astype(np.int64), 0, area.mask.shape[1] - 1)
        signs = np.array(call.signs, dtype=np.int64)
        if (signs == 1).any() and np.array_equal(area.mask[rows, columns], signs == 1):
            found.append(Clicks(np.array(call.points, dtype=np.float64), signs))
    return tuple(found)


def _agreement(entry: AnnotatedImage) -> float:
    """The lowest IoU of what two people drew for a label; 1 where one person did, or one is the ground truth."""
    if entry.annotation.get("ground_truth"):
        return 1.0
    by_person: dict[str, Mapping[str, Any]] = {}
    for annotation in sorted(entry.task.annotations(every=True), key=lambda one: str(one.get("updated_at") or "")):
        by_person[str(annotation.get("completed_by"))] = annotation
    if len(by_person) < 2:
        return 1.0
    size = (entry.image.shape[0], entry.image.shape[1])
    drawn = [_by_label(entry.task.areas(one, size, lambda _: None), size) for one in by_person.values()]
    labels = {label for masks in drawn for label in masks}
    empty = np.zeros(size, dtype=np.bool_)
    pairs = [(one, other) for index, one in enumerate(drawn) for other in drawn[index + 1 :]]
    shares = [_iou(one.get(label, empty), other.get(label, empty)) for one, other in pairs for label in labels]
    return min(shares, default=1.0)


def _by_label(areas: Sequence[Area], size: tuple[int, int]) -> dict[str, Mask]:
    labels = {label for area in areas for label in area.labels}
    return {label: union(size, [area.mask for area in areas if label in area.labels]) for label in labels}


def _iou(one: Mask, other: Mask) -> float:
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def _shown_prediction(entry: AnnotatedImage) -> Mapping[str, Any] | None:
    """The prediction that the annotator began with; None if the annotation was made without one."""
    number = entry.annotation.get("parent_prediction")
    inline = entry.annotation.get("prediction")
    if isinstance(inline, Mapping) and inline.get("result"):
        return inline
    listed: Sequence[Any] = entry.task.content.get("predictions") or ()
    return next((p for p in listed if isinstance(p, Mapping) and p.get("id") == number), None) if number else None
