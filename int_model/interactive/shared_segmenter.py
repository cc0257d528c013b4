"""One segmenter for two threads, so that a click does not wait for a batch. Knows no torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image
from int_model.models.protocols import (
    BestMask,
    DecodesBest,
    Embedding,
    ImageFeatures,
    MaskPrompt,
    MaskProposal,
    PromptAdapter,
    Segmenter,
)


class SharedSegmenter:
    """One segmenter for two threads: one call at a time, and calls through ``urgent`` go before all others.

    So a click waits for a single call of the segmenter at most, whatever the other models of the suite are doing.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._turns = _Turns()
        self._is_urgent = False

    @property
    def wrapped(self) -> Segmenter:
        """The segmenter itself, for what takes no turn: its class, and copies of its weights."""
        return self._segmenter

    @property
    def urgent(self) -> SharedSegmenter:
        """The same segmenter for those who must not wait."""
        view = SharedSegmenter(self._segmenter)
        view._turns, view._is_urgent = self._turns, True
        return view

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """See ``Segmenter.encode``."""
        with self._turns.take(urgent=self._is_urgent):
            return self._segmenter.encode(images)

    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        """See ``Segmenter.decode``."""
        with self._turns.take(urgent=self._is_urgent):
            return self._segmenter.decode(embedding, prompts, multimask=multimask, adapter=adapter, label=label)

    def decode_best(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[BestMask]:
        """See ``DecodesBest.decode_best``."""
        own = self._segmenter
        with self._turns.take(urgent=self._is_urgent):
            if isinstance(own, DecodesBest):
                return own.decode_best(embedding, prompts, multimask=multimask, adapter=adapter, label=label)
            proposals = own.decode(embedding, prompts, multimask=multimask, adapter=adapter, label=label)
        return [proposal.chosen for proposal in proposals]

    def features(self, embedding: Embedding) -> NDArray[np.float32]:
        """See ``ImageFeatures.features``. Raises ``TypeError`` if the segmenter does not show its features."""
        if not isinstance(self._segmenter, ImageFeatures):
            raise TypeError(f"{type(self._segmenter).__name__} does not show its image features")
        with self._turns.take(urgent=self._is_urgent):
            return self._segmenter.features(embedding)


class _Turns:
    """A lock that urgent callers get first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy = False
        self.urgent_waiting = 0

    @contextmanager
    def take(self, *, urgent: bool) -> Iterator[None]:
        with self._condition:
            self.urgent_waiting += urgent
            try:
                self._condition.wait_for(lambda: not self._busy and (urgent or self.urgent_waiting == 0))
            finally:
                self.urgent_waiting -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
