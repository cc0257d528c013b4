"""How the log-probabilities of an answer's tokens become one number. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable

from int_model.core.types import Floats
from int_model.models.protocols import Reduce

REDUCERS: dict[Reduce, Callable[[Floats], float]] = {
    "mean": lambda logs: math.exp(float(logs.mean())),
    "prod": lambda logs: math.exp(float(logs.sum())),
    "first": lambda logs: math.exp(float(logs[0])),
    "max": lambda logs: math.exp(float(logs.max())),
}
"""By the names of ``AnswerScoring.score``; each takes ``float64 [T]``, T >= 1."""
