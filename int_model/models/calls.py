"""The five models of a suite behind one counter: every pass is counted per image and timed per role."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from int_model.core.caches import LruCache
from int_model.core.types import Detection, Floats, Image, Mask
from int_model.models.decoding import best_in_chunks
from int_model.models.protocols import (
    AnswerScoring,
    ConceptMask,
    ContrastiveVisionLanguage,
    Embedding,
    MaskPrompt,
    Normalise,
    Reduce,
)

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

_T = TypeVar("_T")


class TextFeatures(LruCache[tuple[str, ...], NDArray[np.float32]]):
    """The mean feature ``[D]`` of sentences that say the same thing, kept between calls."""

    def __init__(self, capacity: int = 4096) -> None:
        super().__init__(capacity)


class ModelCalls:
    """The suite as one micro-batch uses it. ``owners[i]`` is the index of the image that input ``i`` is for.

    Every method passes its inputs on in one call and returns what the Protocol of the same name returns; a model
    that gives back another number of results than it was given inputs raises ``RuntimeError``.
    """

    def __init__(self, suite: ModelSuite, images: int, texts: TextFeatures | None = None) -> None:
        self._suite = suite
        self._counts: list[Counter[str]] = [Counter() for _ in range(images)]
        self._texts = TextFeatures() if texts is None else texts
        self.seconds: dict[str, float] = {}

    @property
    def suite(self) -> ModelSuite:
        """The models themselves."""
        return self._suite

    def counts(self, owner: int) -> dict[str, int]:
        """Passes spent on one image, by role."""
        return dict(sorted(self._counts[owner].items()))

    def dialogue(
        self,
        owners: Sequence[int],
        images: Sequence[Image],
        questions: Sequence[Sequence[str]],
        max_new_tokens: Sequence[int],
    ) -> list[tuple[str, ...]]:
        with self._role("vlm_generate", owners, passes=len(max_new_tokens)):
            answers = self._suite.vlm.dialogue(images, questions, max_new_tokens) if images else []
        return _complete(answers, images, "vision-language model")

    def contrast(
        self,
        owners: Sequence[int],
        images: Sequence[Image],
        others: Sequence[Image],
        questions: Sequence[Sequence[str]],
        max_new_tokens: Sequence[int],
        alpha: float,
        plausible: float,
    ) -> list[tuple[str, ...]]:
        """The strategy has checked that the suite's vision-language model is a ``ContrastiveVisionLanguage``."""
        vlm = cast(ContrastiveVisionLanguage, self._suite.vlm)
        with self._role("vlm_contrast", owners, passes=len(max_new_tokens)):
            answers = vlm.contrast(images, others, questions, max_new_tokens, alpha, plausible) if images else []
        return _complete(answers, images, "vision-language model")

    def score(
        self,
        owners: Sequence[int],
        images: Sequence[Image],
        questions: Sequence[str],
        names: Sequence[Sequence[str]],
        reduce: Reduce,
    ) -> list[Floats]:
        """The strategy has checked that the suite's vision-language model is an ``AnswerScoring``."""
        vlm = cast(AnswerScoring, self._suite.vlm)
        with self._role("vlm_score", owners):
            scores = vlm.score(images, questions, names, reduce) if images else []
        return _complete(scores, images, "vision-language model")

    def answer_distributions(
        self, owners: Sequence[int], images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """As ``score``."""
        vlm = cast(AnswerScoring, self._suite.vlm)
        with self._role("vlm_score", owners):
            rows = vlm.answer_distributions(images, questions, answers) if images else []
        return _complete(rows, images, "vision-language model")

    def inpaint(
        self,
        owners: Sequence[int],
        images: Sequence[Image],
        masks: Sequence[Mask],
        positive: Sequence[str],
        negative: Sequence[str],
    ) -> list[Image]:
        with self._role("inpaint", owners):
            filled = self._suite.inpainter.inpaint(images, masks, positive, negative) if images else []
        return _complete(filled, images, "inpainter")

    def detect(
        self,
        owners: Sequence[int],
        images: Sequence[Image],
        names: Sequence[str],
        *,
        box_threshold: float,
        text_threshold: float,
    ) -> list[list[Detection]]:
        with self._role("detect", owners):
            found = (
                self._suite.detector.detect(images, names, box_threshold=box_threshold, text_threshold=text_threshold)
                if images
                else []
            )
        return _complete(found, images, "detector")

    def find(
        self, owners: Sequence[int], images: Sequence[Image], names: Sequence[str], *, threshold: float
    ) -> list[list[ConceptMask]]:
        """Raises ``ValueError`` if the suite has no model for it."""
        if self._suite.concepts is None:
            raise ValueError(f"the profile '{self._suite.profile}' has no model for the role 'concepts'")
        with self._role("concepts", owners):
            found = self._suite.concepts.find(images, names, threshold=threshold) if images else []
        return _complete(found, images, "concept segmenter")

    def encode(self, owners: Sequence[int], images: Sequence[Image]) -> list[Embedding]:
        with self._role("segmenter_encode", owners):
            embeddings = self._suite.segmenter.encode(images) if images else []
        return _complete(embeddings, images, "segmenter")

    def decode_best(
        self,
        owner: int,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        size: tuple[int, int],
        *,
        multimask: bool,
        label: str,
    ) -> tuple[list[NDArray[np.float32]], Floats]:
        """Per prompt the logits ``float32 [H, W]`` of the best alternative, and its predicted IoU, ``[N]``.

        The suite's prompt adapter, if any, is told ``label``.
        """
        suite = self._suite
        found = best_in_chunks(
            suite.segmenter, embedding, prompts, size, multimask=multimask, adapter=suite.prompt_adapter, label=label
        )
        with self._role("segmenter_decode", [owner] * len(prompts)):
            best = list(found)
        return [mask.logits for mask in best], np.array([mask.iou for mask in best], dtype=np.float64)

    def embed_images(self, owners: Sequence[int], images: Sequence[Image]) -> NDArray[np.float32]:
        with self._role("clip_image", owners):
            return self._suite.text_image.embed_images(images)

    def embed_patches(
        self, owners: Sequence[int], images: Sequence[Image], normalise: Normalise
    ) -> NDArray[np.float32]:
        with self._role("clip_spatial", owners):
            return self._suite.text_image.embed_patches(images, normalise)

    def embed_text(self, owner: int, sentences: tuple[str, ...]) -> NDArray[np.float32]:
        """The mean feature ``float32 [D]`` (unit norm) of sentences that say the same thing; kept by string."""
        kept = self._texts.get(sentences)
        if kept is not None:
            return kept
        with self._role("clip_text", [owner]):
            mean = self._suite.text_image.embed_texts(sentences).mean(axis=0, dtype=np.float64)
        feature: NDArray[np.float32] = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
        self._texts[sentences] = feature
        return feature

    @contextmanager
    def _role(self, role: str, owners: Sequence[int], passes: int = 1) -> Iterator[None]:
        for owner in owners:
            self._counts[owner][role] += passes
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[role] = self.seconds.get(role, 0.0) + time.perf_counter() - start


def _complete(results: Sequence[_T], inputs: Sequence[object], model: str) -> list[_T]:
    if len(results) != len(inputs):
        raise RuntimeError(f"the {model} gave {len(results)} results for {len(inputs)} inputs")
    return list(results)
