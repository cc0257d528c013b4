"""An expression and an image to points and masks: generator, filters, segmenter, the k best hypotheses (spec B.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from int_model.core.types import Floats, Image
from int_model.models.calls import ModelCalls
from int_model.models.protocols import Embedding, ImageFeatures, MaskPrompt
from int_model.point_prompting.generator.bundle import GeneratorError, TrainedGenerator
from int_model.point_prompting.generator.features import see_images, see_texts, seen_of, stacked
from int_model.point_prompting.generator.filters import PointFilter, SignedPoints, signed_points

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """One thing that may be meant.

    Attributes:
        points: that the segmenter was given.
        logits: ``float32 [H, W]``, the mask where they are > 0.
        iou: the segmenter's own prediction of the mask's quality.
        score: mean confidence of its positive points, times ``iou``, in [0, 1].
    """

    points: SignedPoints
    logits: NDArray[np.float32]
    iou: float
    score: float


class PointGrounder:
    """A trained generator over a suite's frozen models. Raises ``GeneratorError`` if it was trained on others."""

    def __init__(self, suite: ModelSuite, generator: TrainedGenerator, how: PointFilter) -> None:
        generator.check(suite.text_image, suite.segmenter)
        self._suite = suite
        self._network = generator.network
        self._how = replace(how, most=min(how.most, generator.most), negatives=how.negatives and generator.negatives)
        self._sees = bool(generator.network.settings.segmenter_width)
        if self._sees and not isinstance(suite.segmenter, ImageFeatures):
            raise GeneratorError(
                "this point generator reads the segmenter's features, which the segmenter of the profile "
                f"'{suite.profile}' does not show: train one with --sees clip"
            )

    def points(
        self, calls: ModelCalls, owners: Sequence[int], images: Sequence[Image], expressions: Sequence[str]
    ) -> tuple[list[SignedPoints], list[Embedding | None]]:
        """Points for each image and expression, and the embeddings where the generator needed them."""
        if not images:
            return [], []
        embeddings: list[Embedding | None] = [None] * len(images)
        features = None
        segmenter = self._suite.segmenter
        if self._sees and isinstance(segmenter, ImageFeatures):
            encoded = calls.encode(owners, images)
            features = [segmenter.features(embedding) for embedding in encoded]
            embeddings = list(encoded)
        seen = see_images(calls.embed_patches(owners, images, "token"), images, features)
        with torch.inference_mode():
            batch = seen_of(*stacked(seen, "cpu"), see_texts(self._suite.text_image, expressions))
            xy, share = self._network(batch).flat()
        rows = zip(images, xy.double().numpy(), share.double().numpy(), strict=True)
        return [signed_points(xy, share, (i.shape[0], i.shape[1]), self._how) for i, xy, share in rows], embeddings

    def hypotheses(
        self,
        calls: ModelCalls,
        owner: int,
        embedding: Embedding,
        found: SignedPoints,
        size: tuple[int, int],
        *,
        most: int = 1,
        label: str = "",
    ) -> list[Hypothesis]:
        """The ``most`` best things that the points may mean, best first; none where nothing is present.

        The first is the mask of all points. Positives that do not lie on it may belong to other things: each is tried
        alone, against the negatives, and kept where its mask is another one.
        """
        if not found.present:
            return []
        best = self._decode(calls, owner, embedding, found, size, label)
        kept = [best]
        for index in np.flatnonzero(found.labels == 1):
            if len(kept) >= most:
                break
            if any(_covers(other.logits, found.points[index]) for other in kept):
                continue
            alone = np.flatnonzero((found.labels == 0) | (np.arange(len(found.labels)) == index))
            part = replace(
                found, points=found.points[alone], labels=found.labels[alone], confidence=found.confidence[alone]
            )
            other = self._decode(calls, owner, embedding, part, size, label)
            if (other.logits > 0).any() and all(_iou(other.logits, known.logits) < 0.5 for known in kept):
                kept.append(other)
        return [best, *sorted(kept[1:], key=lambda hypothesis: -hypothesis.score)]

    def _decode(
        self,
        calls: ModelCalls,
        owner: int,
        embedding: Embedding,
        found: SignedPoints,
        size: tuple[int, int],
        label: str,
    ) -> Hypothesis:
        """The segmenter's single mask for several points, as it recommends; the best of three for a single one."""
        prompt = MaskPrompt(points=found.points, labels=found.labels)
        logits, iou = calls.decode_best(owner, embedding, [prompt], size, multimask=len(found.labels) == 1, label=label)
        quality = float(np.clip(iou[0], 0, 1))
        confidence = float(found.confidence[found.labels == 1].mean())
        return Hypothesis(found, logits[0], quality, confidence * quality)


def _covers(logits: NDArray[np.float32], point: Floats) -> bool:
    height, width = logits.shape
    x, y = min(int(point[0]), width - 1), min(int(point[1]), height - 1)
    return bool(logits[y, x] > 0)


def _iou(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    both, either = int(((one > 0) & (other > 0)).sum()), int(((one > 0) | (other > 0)).sum())
    return both / either if either else 0.0
