"""One result: a variant on an example with a seed. Plain data, to and from JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from int_model.core.types import Floats
from int_model.io.outputs import to_json

THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU thresholds of instance metrics: .50, .55, ... .95."""


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _hits(text: str) -> tuple[bool, ...]:
    return tuple(bool(int(character)) for character in text)


def _curve(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)


Figure = Annotated[float | None, PlainSerializer(_finite)]
Hits = Annotated[
    tuple[bool, ...],
    PlainValidator(_hits),
    PlainSerializer(lambda row: "".join("1" if hit else "0" for hit in row)),
]
Curve = Annotated[
    Floats,
    PlainValidator(_curve),
    PlainSerializer(lambda curve: base64.b64encode(np.asarray(curve, dtype="<f8").tobytes()).decode("ascii")),
]


@dataclass(frozen=True, slots=True)
class Detections:
    """One image's predicted objects, best first: ``scores [D]``, ``matched [10][D]`` per threshold, ``truths`` many."""

    scores: tuple[float, ...]
    matched: tuple[Hits, ...]
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
    metrics: Mapping[str, Figure] = field(default_factory=dict)
    detections: Detections | None = None
    calls: Mapping[str, int] = field(default_factory=dict)
    name: str | None = None
    score: float = 0.0
    reason: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict, compare=False)
    picture: str = ""
    page: str = ""

    @property
    def done(self) -> bool:
        """Whether there are figures."""
        return not self.error

    def under(self, *, example: str, task: str, group: str, variant: str) -> Record:
        """The same result under another variant's name, or of the same image under another id."""
        return replace(self, example=example, task=task, group=group, variant=variant)


_RECORD = TypeAdapter(Record)


def pack_record(record: Record) -> bytes:
    """As JSON, with the curves."""
    return to_json(_RECORD.dump_python(record, mode="json"))


def unpack_record(payload: bytes) -> Record:
    """The inverse of `pack_record`. Raises ``ValueError`` if the bytes are not such a record."""
    return _RECORD.validate_python(json.loads(payload))
