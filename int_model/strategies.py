"""One interface for every way from a task prompt to masks: ``int``, its ancestor, and baselines without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from int_model.baselines import GroundedSam, VlmBox
from int_model.config import IntConfig
from int_model.pipeline import IntPipeline
from int_model.promac import ProMaC
from int_model.prompts import TaskPrompt
from int_model.sam3 import Sam3Text
from int_model.tiling import Tiled
from int_model.types import Image, Progress, Segmentation

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

STRATEGIES: tuple[str, ...] = ("int", "vlm_box", "grounded_sam", "promac", "sam3")


class Strategy(Protocol):
    """Segments lists of images for one task prompt."""

    @property
    def name(self) -> str:
        """One of ``STRATEGIES``."""
        ...

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """One segmentation per image (``uint8 [H, W, 3]``, sizes may differ), in order.

        Raises ``ValueError`` if an entry is not such an image; the message names its position.
        """
        ...


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
