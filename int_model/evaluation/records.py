"""One result: a variant on an example with a seed. Plain data, to and from JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from int_model.core.types import Floats

THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU thresholds of instance metrics: .50, .55, ... .95."""


@dataclass(frozen=True, slots=True)
class Detections:
    """One image's predicted objects, best first: ``scores [D]``, ``matched [10][D]`` per threshold, ``truths`` many."""

    scores: tuple[float, ...]
    matched: tuple[tuple[bool, ...], ...]
    truths: int

    def __post_init__(self) -> None:
        if len(self.matched) != len(THRESHOLDS) or any(len(row) != len(self.scores) for row in self.matched):
            raise ValueError(f"matches are {len(THRESHOLDS)} rows of {len(self.scores)} entries")


@dataclass(frozen=True, slots=True)
class Record:
    """What one variant did on one example with one seed.

    Attributes:
        example, task, group: as in ``Example``.
        variant, seed: which variant, and the seed of its models.
        key: name of the stored result; the same work has the same key under any variant's name.
        error: one sentence if it failed; then there are no figures. A broken file fails for every variant.
        metrics: figure by name; None where it is not defined.
        detections: for instance metrics; None where single true objects are not known.
        calls: model passes by role.
        name: the final name, if the strategy gives one; ``score``: the segmentation's own trust in ``[0, 1]``.
        curves: the threshold curves behind ``curve`` metrics; kept with stored results, not in the result's JSON.
        picture, page: files of the stored result, relative to the store's folder; "" if there is none.
    """

    example: str
    task: str
    group: str
    variant: str
    seed: int
    key: str = ""
    error: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    detections: Detections | None = None
    calls: Mapping[str, int] = field(default_factory=dict)
    name: str | None = None
    score: float = 0.0
    reason: str = ""
    curves: Mapping[str, Floats] = field(default_factory=dict, compare=False)
    picture: str = ""
    page: str = ""

    @property
    def done(self) -> bool:
        """Whether there are figures."""
        return not self.error

    def under(self, *, example: str, task: str, group: str, variant: str) -> Record:
        """The same result under another variant's name, or of the same image under another id."""
        return replace(self, example=example, task=task, group=group, variant=variant)


def record_to_dict(record: Record, *, curves: bool) -> dict[str, Any]:
    """Plain data for JSON; figures that are not finite become None."""
    out: dict[str, Any] = {
        "example": record.example,
        "task": record.task,
        "group": record.group,
        "variant": record.variant,
        "seed": record.seed,
        "key": record.key,
        "error": record.error,
        "metrics": {name: _finite(value) for name, value in record.metrics.items()},
        "detections": None if record.detections is None else _detections(record.detections),
        "calls": dict(record.calls),
        "name": record.name,
        "score": _finite(record.score),
        "reason": record.reason,
        "picture": record.picture,
        "page": record.page,
    }
    if curves:
        out["curves"] = {name: _packed(curve) for name, curve in record.curves.items()}
    return out


def record_from_dict(data: Mapping[str, Any]) -> Record:
    """The inverse of ``record_to_dict``. Raises ``ValueError`` if the data are not such a record."""
    try:
        found = data["detections"]
        detections = None
        if found is not None:
            rows = tuple(tuple(bool(int(c)) for c in row) for row in found["matched"])
            detections = Detections(tuple(float(s) for s in found["scores"]), rows, int(found["truths"]))
        return Record(
            example=str(data["example"]),
            task=str(data["task"]),
            group=str(data["group"]),
            variant=str(data["variant"]),
            seed=int(data["seed"]),
            key=str(data["key"]),
            error=str(data["error"]),
            metrics={str(k): None if v is None else float(v) for k, v in data["metrics"].items()},
            detections=detections,
            calls={str(k): int(v) for k, v in data["calls"].items()},
            name=data["name"],
            score=float(data["score"]),
            reason=str(data["reason"]),
            curves={str(k): _unpacked(v) for k, v in data.get("curves", {}).items()},
            picture=str(data["picture"]),
            page=str(data["page"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"this is not a result of an evaluation ({type(error).__name__}: {error})") from error


def _detections(found: Detections) -> dict[str, Any]:
    rows = ["".join("1" if hit else "0" for hit in row) for row in found.matched]
    return {"scores": list(found.scores), "matched": rows, "truths": found.truths}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _packed(curve: Floats) -> str:
    return base64.b64encode(np.asarray(curve, dtype="<f8").tobytes()).decode("ascii")


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
