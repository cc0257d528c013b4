"""The role of a point prompter, and the choice of one by name.

A module of this package with a function ``make(suite, config) -> PointPrompter`` is a source; its name is the module's.
Packages below this one are none.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from int_model import point_prompting
from int_model.core.config import IntConfig
from int_model.core.options import ConfigError
from int_model.core.types import Floats, Image, SoftMask
from int_model.models.calls import ModelCalls

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


@dataclass(frozen=True, slots=True, eq=False)
class PointQuery:
    """Where in ``image`` is ``name``, which stands out from ``background``? Asked for the image of that owner."""

    owner: int
    image: Image
    name: str
    background: str


@dataclass(frozen=True, slots=True, eq=False)
class PointPrompts:
    """Points for one image.

    Attributes:
        points: ``float64 [P, 2]`` (x, y) in pixels.
        labels: ``int64 [P]``, 1 on the object, 0 beside it.
        similarity: the map that they come from, ``float32 [h, w]`` in ``[0, 1]``, if they come from one.
    """

    points: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    similarity: SoftMask | None = None


class PointPrompter(Protocol):
    """Finds positive and negative points of named objects."""

    def prompt(self, calls: ModelCalls, queries: Sequence[PointQuery]) -> list[PointPrompts]:
        """The points for each query, in order; models are asked through ``calls``, which counts what they do."""
        ...


def point_sources() -> list[str]:
    """The names that ``sam.point_source`` may have."""
    here, found = __name__.rpartition(".")[2], pkgutil.iter_modules(point_prompting.__path__)
    return sorted(module.name for module in found if not module.ispkg and module.name != here)


def make_point_prompter(suite: ModelSuite, config: IntConfig) -> PointPrompter | None:
    """What ``sam.point_source`` names; None where the configuration wants no points. Raises ``ConfigError``."""
    source = config.sam.point_source
    if source not in point_sources():
        raise ConfigError(f"there is no sam.point_source '{source}'; choose one of: {', '.join(point_sources())}")
    if not config.switches.smg or config.sam.points == "none":
        return None
    made: PointPrompter = importlib.import_module(f"{point_prompting.__name__}.{source}").make(suite, config)
    return made
