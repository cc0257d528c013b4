"""Clicks, boxes and strokes to masks: one encoding per image, one decoding per click; no vision-language model.

Knows no torch: works with any ``Segmenter``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.caches import LruCache
from int_model.core.types import Box, Floats, Image, Instance, Mask, check_image
from int_model.models.protocols import Embedding, MaskPrompt, MaskProposal, Segmenter

CACHE_BYTES = 512 * 1024 * 1024
_DECODE_BUDGET = 1 << 26  # logits (float32) asked of the segmenter at once: 256 MiB
_STROKE_POINTS = 6
_STROKE_PARTS = 8
_STROKE_MARGIN = 0.1  # a stroke covers its object roughly: its box grows by this part of its sides
_SAMPLES = 4096
_Encoded = tuple[Embedding, tuple[int, int]]  # and the (H, W) of its image


class NotEncodedError(LookupError):
    """The image is not (or no longer) in the cache: ask again with its pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class ClickPrompt:
    """What a person pointed at, in pixels of the image.

    Attributes:
        points: ``float64 [P, 2]`` (x, y); ``labels`` ``int64 [P]``: 1 on the object, 0 beside it.
        boxes: each around one object.
        stroke: painted over the object, ``bool [H, W]``, or None.
        avoid: painted over what does not belong to it, or None.

    Raises ``ValueError`` where nothing shows the object, e.g. only points beside it.
    """

    points: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes: tuple[Box, ...] = ()
    stroke: Mask | None = None
    avoid: Mask | None = None

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.labels), 2):
            raise ValueError(f"{len(self.labels)} labels need points of shape [{len(self.labels)}, 2]")
        painted = self.stroke is not None and bool(self.stroke.any())
        if not self.boxes and not painted and not (self.labels == 1).any():
            raise ValueError("nothing shows the object: click on it, draw a box around it, or paint over it")


def mask_prompts(prompt: ClickPrompt) -> list[MaskPrompt]:
    """The questions to the segmenter, one per object.

    Each box is an object, with the points inside it; a single box takes all points. Positive points outside all boxes,
    or without any, are one more object. A stroke is one object: points along it and its box.
    """
    points, labels = _with_painted(prompt.points, prompt.labels, prompt.avoid, 0)
    out: list[MaskPrompt] = []
    if prompt.stroke is not None and prompt.stroke.any():
        painted, signs = _with_painted(points, labels, prompt.stroke, 1)
        around = Box.of_mask(prompt.stroke)
        box = None if around is None else around.enlarge(_STROKE_MARGIN).clip(*prompt.stroke.shape)
        if not prompt.boxes:
            return [MaskPrompt(box, painted, signs)]
        out.append(MaskPrompt(box, *_with_painted(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), prompt.stroke, 1)))
    if len(prompt.boxes) == 1:
        return [MaskPrompt(prompt.boxes[0], points, labels), *out]
    inside = np.array([[box.contains(x, y) for x, y in points] for box in prompt.boxes], dtype=np.bool_)
    inside = inside.reshape(len(prompt.boxes), len(points))
    for box, own in zip(prompt.boxes, inside, strict=True):
        out.append(MaskPrompt(box, points[own], labels[own]))
    free = ~inside.any(axis=0)
    if (labels[free] == 1).any():
        out.append(MaskPrompt(None, points[free], labels[free]))
    return out


def stroke_points(stroke: Mask, count: int = _STROKE_POINTS) -> Floats:
    """At most ``count`` points ``float64 [P, 2]`` (x, y) well inside a stroke and far from one another."""
    box = Box.of_mask(stroke)
    if box is None:
        return np.zeros((0, 2))
    x0, y0, x1, y1 = (int(v) for v in box.as_tuple())
    crop = np.pad(stroke[y0:y1, x0:x1].astype(np.uint8), 1)
    depth = cv2.distanceTransform(crop, cv2.DIST_L2, 3)
    number, parts, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=8)
    largest = sorted(range(1, number), key=lambda i: -int(stats[i, cv2.CC_STAT_AREA]))[:_STROKE_PARTS]
    core: NDArray[np.bool_] = np.zeros(crop.shape, dtype=np.bool_)
    for index in largest:
        own = parts == index
        core |= own & (depth >= 0.5 * float(depth[own].max()))
    rows, columns = np.nonzero(core)
    step = max(1, len(rows) // _SAMPLES)
    spots = np.stack([columns[::step], rows[::step]], axis=1).astype(np.float64)
    first = int(depth[rows[::step], columns[::step]].argmax())
    chosen = [first]
    distance = np.linalg.norm(spots - spots[first], axis=1)
    while len(chosen) < min(count, len(spots)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(spots - spots[chosen[-1]], axis=1))
    return np.asarray(spots[chosen] + (x0 - 0.5, y0 - 0.5))  # the padding's pixel, and a pixel's centre


class SharedSegmenter:
    """One segmenter for two threads: one call at a time, and calls through ``urgent`` go before all others.

    So a click waits for a single call of the segmenter at most, whatever the other models of the suite are doing.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._condition = threading.Condition()
        self._busy = False
        self._urgent_waiting = 0

    @property
    def urgent(self) -> Segmenter:
        """The same segmenter for those who must not wait."""
        return _Urgent(self)

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        return self.call_encode(images, urgent=False)

    def decode(
        self, embedding: Embedding, prompts: Sequence[MaskPrompt], *, multimask: bool = True
    ) -> list[MaskProposal]:
        return self.call_decode(embedding, prompts, multimask, urgent=False)

    def call_encode(self, images: Sequence[Image], *, urgent: bool) -> list[Embedding]:
        """``encode`` when it is this caller's turn."""
        with self._turn(urgent):
            return self._segmenter.encode(images)

    def call_decode(
        self, embedding: Embedding, prompts: Sequence[MaskPrompt], multimask: bool, *, urgent: bool
    ) -> list[MaskProposal]:
        """``decode`` when it is this caller's turn."""
        with self._turn(urgent):
            return self._segmenter.decode(embedding, prompts, multimask=multimask)

    @contextmanager
    def _turn(self, urgent: bool) -> Iterator[None]:
        with self._condition:
            self._urgent_waiting += urgent
            try:
                self._condition.wait_for(lambda: not self._busy and (urgent or self._urgent_waiting == 0))
            finally:
                self._urgent_waiting -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()


class _Urgent:
    """The view of a ``SharedSegmenter`` that goes first."""

    def __init__(self, shared: SharedSegmenter) -> None:
        self._shared = shared

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        return self._shared.call_encode(images, urgent=True)

    def decode(
        self, embedding: Embedding, prompts: Sequence[MaskPrompt], *, multimask: bool = True
    ) -> list[MaskProposal]:
        return self._shared.call_decode(embedding, prompts, multimask, urgent=True)


class ClickSegmenter:
    """Answers clicks with masks. An image is encoded at its first click (or ``prewarm``) and kept by its content.

    Args:
        segmenter: encodes and decodes.
        identity: of the segmenter; a part of the cache's keys.
        cache_bytes: most bytes of kept embeddings (they lie where the segmenter puts them, e.g. on the GPU).
    """

    def __init__(self, segmenter: Segmenter, *, identity: str = "", cache_bytes: int = CACHE_BYTES) -> None:
        self.cache: LruCache[str, _Encoded] = LruCache(cache_bytes, lambda kept: max(0, int(kept[0].nbytes)))
        self._lock = threading.Lock()  # one thread may drop entries while another uses them
        self._segmenter = segmenter
        self._identity = identity

    def prewarm(self, key: str, image: Image) -> None:
        """Encode the image ``uint8 [H, W, 3]`` with that content hash, unless it is kept already."""
        self._embedding(key, image)

    def release(self, key: str) -> None:
        """Forget an image. From any thread."""
        with self._lock:
            self.cache.pop(self._full(key), None)

    def release_all(self) -> None:
        """Forget all images. From any thread."""
        with self._lock:
            self.cache.clear()

    def answer(self, key: str, image: Image | None, prompt: ClickPrompt, label: str = "") -> tuple[Instance, ...]:
        """One instance per object that the prompt shows, scored with the segmenter's predicted IoU; () for none.

        Of the segmenter's alternatives the one that agrees with most points is taken, among equals the one with the
        highest predicted IoU.

        Args:
            key: hash of the image's content.
            image: ``uint8 [H, W, 3]``; None if it should be in the cache.
            prompt: in pixels of that image.
            label: the instances' label.

        Raises:
            NotEncodedError: ``image`` is None and the cache does not hold it.
        """
        embedding, (height, width) = self._embedding(key, image)
        prompts = mask_prompts(prompt)
        chunk = max(1, _DECODE_BUDGET // (3 * height * width))
        found: list[Instance] = []
        for start in range(0, len(prompts), chunk):
            part = prompts[start : start + chunk]
            proposals = self._segmenter.decode(embedding, part, multimask=True)
            for question, proposal in zip(part, proposals, strict=True):
                best = _best(proposal, question)
                if best is not None:
                    found.append(Instance.of_mask(best[0], label, best[1]))
        return tuple(found)

    def _embedding(self, key: str, image: Image | None) -> _Encoded:
        with self._lock:
            kept = self.cache.get(self._full(key))
        if kept is not None:
            return kept
        if image is None:
            raise NotEncodedError("the image is no longer in the embedding cache")
        check_image(image)
        (embedding,) = self._segmenter.encode([image])
        size = (int(image.shape[0]), int(image.shape[1]))
        with self._lock:
            self.cache[self._full(key)] = embedding, size
        return embedding, size

    def _full(self, key: str) -> str:
        return f"{self._identity}:{key}"


def _with_painted(
    points: Floats, labels: NDArray[np.int64], painted: Mask | None, sign: int
) -> tuple[Floats, NDArray[np.int64]]:
    if painted is None:
        return points, labels
    more = stroke_points(painted)
    return np.concatenate([points, more]), np.concatenate([labels, np.full(len(more), sign, dtype=np.int64)])


def _best(proposal: MaskProposal, question: MaskPrompt) -> tuple[Mask, float] | None:
    """The best alternative's mask and predicted IoU in ``[0, 1]``; None if all are empty."""
    masks = proposal.logits > 0
    height, width = masks.shape[1:]
    iou = np.nan_to_num(proposal.iou.astype(np.float64), nan=0.0).clip(0.0, 1.0)
    columns = question.points[:, 0].astype(np.int64).clip(0, width - 1)
    rows = question.points[:, 1].astype(np.int64).clip(0, height - 1)
    agree = (masks[:, rows, columns] == (question.labels == 1)).sum(axis=1)
    usable = [index for index in range(len(masks)) if masks[index].any()]
    if not usable:
        return None
    best = max(usable, key=lambda index: (int(agree[index]), float(iou[index])))
    return np.ascontiguousarray(masks[best]), float(iou[best])
