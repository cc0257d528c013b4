"""What annotators clicked, call by call: Label Studio keeps the final mask only."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select

from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import ClickRow

_PART = 500
_MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class LoggedClick:
    """One interactive call.

    Attributes:
        task: Label Studio's id.
        label: that was clicked with.
        size: (H, W) of the image.
        points: (x, y) in pixels; ``signs`` 1 on the object, 0 beside it.
        boxes: (x1, y1, x2, y2) in pixels.
        mask: digest of the mask that was answered, "" for none.
        model_version: of the answer.
    """

    task: int
    label: str
    size: tuple[int, int]
    points: tuple[tuple[float, float], ...]
    signs: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: str = ""
    model_version: str = ""


class ClickLog:
    """The clicks of all projects. Blocking and safe between threads; every method may raise ``StoreError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, project: int, click: LoggedClick) -> None:
        """Keep a call after those that were recorded before; of very many points the last ones count."""
        prompt = {
            "size": click.size,
            "points": click.points[-_MOST_POINTS:],
            "signs": click.signs[-_MOST_POINTS:],
            "boxes": click.boxes[-_MOST_POINTS:],
        }
        row = {
            "project": project,
            "task": click.task,
            "label": click.label.replace("\0", "").encode("utf-8", "replace").decode()[:200],
            "prompt": json.dumps(prompt),
            "mask": click.mask,
            "model_version": click.model_version,
            "at": epoch_now(),
        }
        with self._database.write() as connection:
            connection.execute(insert(ClickRow).values(row))

    def of_tasks(self, project: int, tasks: Collection[int]) -> dict[int, list[LoggedClick]]:
        """The calls on each task, in order; tasks without any are missing."""
        found: dict[int, list[LoggedClick]] = {}
        ordered = sorted(tasks)
        for start in range(0, len(ordered), _PART):
            mine = (ClickRow.project == project, ClickRow.task.in_(ordered[start : start + _PART]))
            with self._database.read() as connection:
                for row in connection.execute(select(ClickRow.__table__).where(*mine).order_by(ClickRow.id)):
                    found.setdefault(row.task, []).append(_click(row))
        return found

    def delete(self, project: int, tasks: Collection[int] | None = None) -> None:
        """Forget the calls on tasks, or on all tasks of a project."""
        with self._database.write() as connection:
            if tasks is None:
                connection.execute(delete(ClickRow).where(ClickRow.project == project))
                return
            ordered = sorted(tasks)
            for start in range(0, len(ordered), _PART):
                part = ClickRow.task.in_(ordered[start : start + _PART])
                connection.execute(delete(ClickRow).where(ClickRow.project == project, part))


def _click(row: Any) -> LoggedClick:
    prompt = json.loads(row.prompt)
    return LoggedClick(
        task=row.task,
        label=row.label,
        size=(prompt["size"][0], prompt["size"][1]),
        points=tuple((x, y) for x, y in prompt["points"]),
        signs=tuple(prompt["signs"]),
        boxes=tuple((a, b, c, d) for a, b, c, d in prompt["boxes"]),
        mask=row.mask,
        model_version=row.model_version,
    )
