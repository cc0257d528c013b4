"""Clicks, boxes and strokes to masks: one encoding per image, one decoding per click; no vision-language model.

Knows no torch: works with any ``Segmenter``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from int_model.core.caches import LruCache
from int_model.core.types import Image, Instance, Mask, check_image
from int_model.interactive.prompts import ClickPrompt, mask_prompts
from int_model.models.decoding import decode_in_chunks
from int_model.models.protocols import Embedding, MaskPrompt, MaskProposal, PromptAdapter, Segmenter

CACHE_BYTES = 512 * 1024 * 1024
_Encoded = tuple[Embedding, tuple[int, int]]  # and the (H, W) of its image


class NotEncodedError(LookupError):
    """The image is not (or no longer) in the cache: ask again with its pixels."""


class ClickSegmenter:
    """Answers clicks with masks. An image is encoded at its first click (or ``prewarm``) and kept by its content.

    Args:
        segmenter: encodes and decodes.
        identity: of the segmenter; a part of the cache's keys.
        cache_bytes: most bytes of kept embeddings (they lie where the segmenter puts them, e.g. on the GPU).
        learned: the segmenter under a version of what was learned, over the same embeddings; called by the thread that
            answers. None: there are no versions.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        identity: str = "",
        cache_bytes: int = CACHE_BYTES,
        learned: Callable[[str], Segmenter] | None = None,
    ) -> None:
        self._learned = learned
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

    def answer(
        self,
        key: str,
        image: Image | None,
        prompt: ClickPrompt,
        label: str = "",
        adapter: PromptAdapter | None = None,
        *,
        version: str = "",
        task: str = "",
    ) -> tuple[Instance, ...]:
        """One instance per object that the prompt shows, scored with the segmenter's predicted IoU; () for none.

        Of the segmenter's alternatives the one that agrees with most points is taken, among equals the one with the
        highest predicted IoU.

        Args:
            key: hash of the image's content.
            image: ``uint8 [H, W, 3]``; None if it should be in the cache.
            prompt: in pixels of that image.
            label: the instances' label.
            adapter: see ``Segmenter.decode``.
            version: of what was learned, "" for the models as they are.
            task: the task prompt that something may have been learned for; the label if "".

        Raises:
            NotEncodedError: ``image`` is None and the cache does not hold it.
        """
        embedding, size = self._embedding(key, image)
        prompts = mask_prompts(prompt)
        segmenter = self._learned(version) if version and self._learned is not None else self._segmenter
        proposals = decode_in_chunks(
            segmenter, embedding, prompts, size, multimask=True, adapter=adapter, label=task or label
        )
        found: list[Instance] = []
        for question, proposal in zip(prompts, proposals, strict=True):
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
