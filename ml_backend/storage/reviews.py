"""What people thought of a run's images, and the order in which to look at them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import and_, case, delete, func, insert, or_, select
from sqlalchemy.orm import aliased

from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import ReviewRow, TaskRow

LONGEST_NOTE = 500
_ANNOTATED = ("done", "abstained")


class Verdict(StrEnum):
    """What a person thought of an image. None of them changes anything in Label Studio."""

    ACCEPT = "accept"
    SKIP = "skip"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An image of a run with what was thought of it.

    Attributes:
        task: Label Studio's id.
        state: ``done``, or ``abstained`` where nothing was found.
        score: the lowest of its objects, in 0..1, or None.
        verdict: None where nobody has said anything yet.
        note: in words, or "".
        who: said so, or "".
        other: score of the run that it is compared with, or None.
    """

    task: int
    state: str
    score: float | None
    verdict: Verdict | None
    note: str
    who: str
    other: float | None = None


class Reviews:
    """The verdicts of all runs. Blocking and safe between threads; every method may raise ``StoreError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run: int, task: int, verdict: Verdict | None, note: str, who: str) -> bool:
        """Keep a verdict in place of the one before, or (None) take it back; False if the run has no such image."""
        text = note.replace("\0", "").encode("utf-8", "replace").decode()[:LONGEST_NOTE]
        row = {"run": run, "task": task, "verdict": verdict, "note": text, "who": who[:200], "at": epoch_now()}
        there = select(TaskRow.task).where(TaskRow.run == run, TaskRow.task == task, TaskRow.state.in_(_ANNOTATED))
        with self._database.write() as connection:
            if connection.execute(there).one_or_none() is None:
                return False
            connection.execute(delete(ReviewRow).where(ReviewRow.run == run, ReviewRow.task == task))
            if verdict is not None:
                connection.execute(insert(ReviewRow).values({**row, "verdict": verdict.value}))
        return True

    def counts(self, run: int) -> dict[str, int]:
        """How many images have each verdict; under "" those without one."""
        wanted = _joined(select(func.coalesce(ReviewRow.verdict, ""), func.count()), run).group_by(ReviewRow.verdict)
        with self._database.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(wanted)}
        return {key: found.get(key, 0) for key in ("", *(verdict.value for verdict in Verdict))}

    def page(self, run: int, skip: int, limit: int, against: int | None = None) -> list[Reviewed]:
        """Images to look at: what looks wrong, then what nobody judged, then what was skipped, then what was accepted.

        Within each by doubt, the lowest scores first; with another run ``against`` it by disagreement: first what only
        one of both found, then the largest differences of their scores.
        """
        other = aliased(TaskRow)
        columns = (TaskRow.task, TaskRow.state, TaskRow.score, ReviewRow.verdict, ReviewRow.note, ReviewRow.who)
        rank = case({"wrong": 0, "skip": 2, "accept": 3}, value=ReviewRow.verdict, else_=1)
        if against is None:
            wanted = _joined(select(*columns), run)
            order: list[Any] = [TaskRow.score.is_not(None), TaskRow.score]
        else:
            wanted = _joined(select(*columns, other.score.label("other")), run).join(
                other, and_(other.run == against, other.task == TaskRow.task, other.state.in_(_ANNOTATED))
            )
            difference = func.abs(func.coalesce(TaskRow.score, 0.0) - func.coalesce(other.score, 0.0))
            order = [case((TaskRow.state != other.state, 0), else_=1), difference.desc()]
        wanted = wanted.order_by(rank, *order, TaskRow.task).offset(skip).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [
            Reviewed(
                row["task"],
                row["state"],
                row["score"],
                Verdict(row["verdict"]) if row["verdict"] else None,
                row["note"] or "",
                row["who"] or "",
                row.get("other"),
            )
            for row in rows
        ]

    def at_least(self, run: int, score: float, after: int, limit: int) -> list[tuple[int, float]]:
        """Tasks with objects and at least that score, ids beyond ``after``; none that looks wrong or was skipped."""
        wanted = (
            _joined(select(TaskRow.task, TaskRow.score), run)
            .where(TaskRow.state == "done", TaskRow.score >= score, TaskRow.task > after)
            .where(or_(ReviewRow.verdict.is_(None), ReviewRow.verdict == Verdict.ACCEPT.value))
            .order_by(TaskRow.task)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [(row[0], row[1]) for row in connection.execute(wanted)]


def _joined(wanted: Any, run: int) -> Any:
    return (
        wanted.select_from(TaskRow)
        .outerjoin(ReviewRow, and_(ReviewRow.run == TaskRow.run, ReviewRow.task == TaskRow.task))
        .where(TaskRow.run == run, TaskRow.state.in_(_ANNOTATED))
    )
