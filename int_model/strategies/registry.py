"""One interface for every way from a task prompt to masks: ``int``, its ancestor, and baselines without a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from int_model.core.config import IntConfig
from int_model.core.types import Progress
from int_model.strategies.base import Strategy
from int_model.strategies.baselines import GroundedSam, VlmBox
from int_model.strategies.negative_mining.pipeline import IntPipeline
from int_model.strategies.promac import ProMaC
from int_model.strategies.sam3 import Sam3Text
from int_model.strategies.tiling import Tiled

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

STRATEGIES: tuple[str, ...] = ("int", "vlm_box", "grounded_sam", "promac", "sam3")


def make_strategy(
    name: str, suite: ModelSuite, config: IntConfig | None = None, progress: Progress | None = None
) -> Strategy:
    """The strategy of that name over a suite of models; without ``config`` the defaults with the suite's overrides.

    A given ``config`` is used as it is. With ``tiling.over_pixels`` set, larger images are worked on in tiles. Raises
    ``ValueError`` for an unknown name, and for ``sam3`` if the suite has no such model.
    """
    if config is None:
        config = IntConfig().merged(suite.int_overrides)
    strategy = _make(name, suite, config, progress)
    return Tiled(strategy, config) if config.tiling.over_pixels else strategy


def _make(name: str, suite: ModelSuite, config: IntConfig, progress: Progress | None) -> Strategy:
    if name == "int":
        return IntPipeline(suite, config, progress)
    if name == "vlm_box":
        return VlmBox(suite, config, progress)
    if name == "grounded_sam":
        return GroundedSam(suite, config, progress)
    if name == "promac":
        return ProMaC(suite, config, progress)
    if name == "sam3":
        return Sam3Text(suite, config, progress)
    raise ValueError(f"there is no strategy '{name}'; choose one of: {', '.join(STRATEGIES)}")
