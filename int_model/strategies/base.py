"""What every strategy offers: from one task prompt to the masks of a list of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation


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
