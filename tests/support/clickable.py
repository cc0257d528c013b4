"""A segmenter that any pixel tells the answer: the connected patch of one colour under a click, or what fills a box."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from int_model.core.types import Box, Image, Mask
from int_model.interactive.clicks import ClickSegmenter
from int_model.interactive.shared_segmenter import SharedSegmenter
from int_model.models.protocols import MaskPrompt, MaskProposal
from tests.support.harness import RedThings


@dataclass(frozen=True, eq=False)
class Encoded:
    image: Image

    @property
    def nbytes(self) -> int:
        return int(self.image.nbytes)


class ColourSegmenter:
    """Counts encodings, notes prompts; ``gate`` holds decoding up."""

    def __init__(self) -> None:
        self.encoded = 0
        self.prompts: list[MaskPrompt] = []
        self.gate = threading.Event()
        self.gate.set()
        self.at_work = threading.Event()
        self.broken = False

    def encode(self, images: Sequence[Image]) -> list[Any]:
        self.encoded += len(images)
        return [Encoded(image.copy()) for image in images]

    def decode(self, embedding: Any, prompts: Sequence[MaskPrompt], **_: Any) -> list[MaskProposal]:
        self.at_work.set()
        assert self.gate.wait(30)
        if self.broken:
            raise RuntimeError("out of\nmemory")
        self.prompts += prompts
        return [self._one(embedding.image, prompt) for prompt in prompts]

    @staticmethod
    def _one(image: Image, prompt: MaskPrompt) -> MaskProposal:
        mask: Mask = np.zeros(image.shape[:2], np.bool_)
        for (x, y), sign in zip(prompt.points, prompt.labels, strict=True):
            if sign == 1:
                alike = np.abs(image.astype(int) - image[int(y), int(x)]).max(axis=2) < 60
                _, parts = cv2.connectedComponents(alike.astype(np.uint8))
                mask |= parts == parts[int(y), int(x)]
        if prompt.box is not None and not len(prompt.labels):
            mask = prompt.box.to_mask(*image.shape[:2]) & (image[..., 1] < 100)
        for (x, _), sign in zip(prompt.points, prompt.labels, strict=True):
            if sign == 0:  # a point beside the object takes away its column
                mask &= ~Box(int(x), 0, int(x) + 1, image.shape[0]).to_mask(*image.shape[:2])
        logits = np.where(mask, 4.0, -4.0).astype(np.float32)[None]
        return MaskProposal(logits, logits, np.array([0.83]))


class Clickable(RedThings):
    """`RedThings` that take clicks too."""

    def __init__(self, cache_bytes: int = 1 << 20) -> None:
        super().__init__()
        self.segmenter = ColourSegmenter()
        self.clicks = ClickSegmenter(SharedSegmenter(self.segmenter).urgent, identity="c", cache_bytes=cache_bytes)
