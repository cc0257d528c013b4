"""Annotated tasks of a Label Studio export as examples to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from int_model.learning.examples import Example, Target
from ml_backend.labelstudio.exports import AnnotatedImage, Area, ExportedExamples

UNCHANGED_WEIGHT = 0.3
"""What a prediction counts that a person accepted as it was: it mostly repeats the model."""

_GLANCE = 1.0  # seconds: a prediction that was accepted faster was not looked at


@dataclass(slots=True)
class Corrections:
    """Examples of an export, with what was left out.

    Args:
        export: the annotated tasks.
        prompts: the task prompt of each label; regions with other labels are left out.
        group_field: field of the task's data by which images belong together (a series, a patient); "" for none.
        tell: gets a line for each task that is left out.
    """

    export: ExportedExamples
    prompts: Mapping[str, str]
    group_field: str = ""
    tell: Callable[[str], None] = lambda _: None
    left_out: list[str] = field(default_factory=list)

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
        weight = UNCHANGED_WEIGHT if unchanged else 1.0
        targets = tuple(
            Target(prompt, area.mask, weight) for area in entry.areas if (prompt := self._prompt(area)) is not None
        )
        return Example(entry.image, targets, self._group(entry), entry.name)

    def _prompt(self, area: Area) -> str | None:
        return next((self.prompts[label] for label in area.labels if label in self.prompts), None)

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


def _shown_prediction(entry: AnnotatedImage) -> Mapping[str, Any] | None:
    """The prediction that the annotator began with; None if the annotation was made without one."""
    number = entry.annotation.get("parent_prediction")
    inline = entry.annotation.get("prediction")
    if isinstance(inline, Mapping) and inline.get("result"):
        return inline
    listed: Sequence[Any] = entry.task.content.get("predictions") or ()
    return next((p for p in listed if isinstance(p, Mapping) and p.get("id") == number), None) if number else None
