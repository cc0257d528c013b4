"""Which task a person should look at next, from what Label Studio has: no models are asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from int_model.learning.active import RANDOM_SHARE, by_doubt
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.learning.effort import label_of

ReviewOrder = Literal["random", "doubt"]
ORDERS: tuple[ReviewOrder, ...] = ("random", "doubt")

NOTHING_FOUND = 0.5
"""Doubt of a task whose prediction is empty or missing: it may be right that there is nothing."""

_PAGE = 50


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task that nobody annotated.

    Attributes:
        id: in Label Studio.
        doubt: 1 minus the score of its newest prediction, `NOTHING_FOUND` without regions.
        stratum: the label of the prediction's first region, "" without any.
        prediction: id of the newest prediction, or None.
        score: of that prediction, or None.
    """

    id: int
    doubt: float
    stratum: str
    prediction: int | None
    score: float | None


def open_tasks(client: LabelStudioClient, project: int) -> Iterator[OpenTask]:
    """The tasks of a project without an annotation or a draft, by id. Blocking; raises ``LabelStudioError``."""
    last = 0
    while True:
        after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
        query = {"filters": {"conjunction": "and", "items": [after]}, "ordering": ["tasks:id"]}
        rows = client.tasks_page(project, 1, _PAGE, query=query, whole=True)
        fresh = [row for row in rows if isinstance(row.get("id"), int) and row["id"] > last]
        if not fresh:
            return
        for row in sorted(fresh, key=lambda row: int(row["id"])):
            if not any(row.get(name) for name in ("total_annotations", "annotations", "drafts", "draft_exists")):
                yield _open(row)
        last = max(row["id"] for row in fresh)


def in_order(
    tasks: Sequence[OpenTask],
    order: ReviewOrder,
    *,
    seed: int = 0,
    annotator: int = 1,
    annotators: int = 1,
    random_share: float = RANDOM_SHARE,
) -> list[OpenTask]:
    """The tasks in the order in which one annotator should look at them.

    Every task belongs to one annotator for good, by its id alone: two people are never sent to the same image, however
    many tasks are finished in between.

    Args:
        tasks: open ones.
        order: ``random``, or ``doubt``: most doubtful first, labels in turn, a share at random.
        seed: of the random draws.
        annotator: whose tasks, from 1.
        annotators: how many people there are.
        random_share: of the order by doubt.

    Raises:
        ValueError: there is no such annotator.
    """
    if not 1 <= annotator <= annotators:
        raise ValueError(f"of {annotators} annotators there is no number {annotator}; count from 1")
    if order == "random":
        places = sorted(range(len(tasks)), key=lambda i: _draw(seed, "order", tasks[i].id))
    else:
        doubts, strata = [task.doubt for task in tasks], [task.stratum for task in tasks]
        places = by_doubt(doubts, strata, seed=seed, random_share=random_share)
    mine = [tasks[i] for i in places]
    return [task for task in mine if _draw(0, "annotator", task.id) % annotators == annotator - 1]


def write_scores(
    client: LabelStudioClient, tasks: Sequence[OpenTask], done: Callable[[int], object] = lambda _: None
) -> int:
    """Write the order as scores of the tasks' predictions, lowest first, as uncertainty sampling takes them.

    Returns:
        How many predictions have their score now; tasks without a prediction have none.

    Raises:
        LabelStudioError: Label Studio refused; the scores that were written stay.
    """
    ranked = [task for task in tasks if task.prediction is not None]
    for place, task in enumerate(ranked):
        score = round((place + 0.5) / len(ranked), 6)
        if task.score != score:
            client.request("PATCH", f"/api/predictions/{task.prediction}", body={"score": score})
        done(place + 1)
    return len(ranked)


def _open(row: Mapping[str, Any]) -> OpenTask:
    listed = row.get("predictions")
    predictions = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, (list, tuple)) else []
    newest = max(predictions, key=lambda one: one.get("id") or 0, default=None)
    if newest is None:
        return OpenTask(row["id"], NOTHING_FOUND, "", None, None)
    result = newest.get("result")
    regions = [part for part in result if isinstance(part, Mapping)] if isinstance(result, list) else []
    label = next((found for part in regions if (found := label_of(part)) is not None), "")
    given = newest.get("score")
    score = float(given) if isinstance(given, (int, float)) and np.isfinite(given) else None
    doubt = NOTHING_FOUND if score is None or not regions else float(np.clip(1.0 - score, 0.0, 1.0))
    return OpenTask(row["id"], doubt, label if regions else "", newest.get("id"), score)


def _draw(seed: int, what: str, task: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{what}\0{task}".encode()).digest()[:8], "big")
