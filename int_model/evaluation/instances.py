"""Single objects: COCO's matching of predicted to true masks, F1 and average precision at IoU thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from int_model.core.types import Floats, Mask
from int_model.evaluation.records import THRESHOLDS, Detections

MAX_DETECTIONS = 100
"""The best so many predictions of an image count, as in COCO."""

_RECALLS = np.linspace(0.0, 1.0, 101)


def match(masks: Sequence[Mask], scores: Sequence[float], truths: Sequence[Mask]) -> Detections:
    """Match one image's predictions, best score first, each to the free true object with the highest IoU.

    A match at threshold t needs an IoU of at least t (``THRESHOLDS``: .50, .55, ... .95). This is COCO's rule for
    one class, all areas, without crowd regions; empty masks are left out. ``masks`` and ``truths`` are ``bool [H, W]``.
    """
    kept = [i for i, mask in enumerate(masks) if mask.any()]
    true = [mask for mask in truths if mask.any()]
    order = sorted(kept, key=lambda i: -scores[i])[:MAX_DETECTIONS]
    table = iou_table([masks[i] for i in order], true)
    rows = []
    for threshold in THRESHOLDS:
        taken: set[int] = set()
        hits = []
        for row in table:
            best = _best_free(row, taken, threshold)
            hits.append(best is not None)
            if best is not None:
                taken.add(best)
        rows.append(tuple(hits))
    return Detections(tuple(float(scores[i]) for i in order), tuple(rows), len(true))


def _best_free(row: Floats, taken: set[int], threshold: float) -> int | None:
    best, least = None, min(threshold, 1 - 1e-10)
    for j, iou in enumerate(row):
        if j not in taken and iou >= least:
            best, least = j, float(iou)
    return best


def iou_table(masks: Sequence[Mask], truths: Sequence[Mask]) -> Floats:
    """IoU of every mask with every true mask, ``float64 [len(masks), len(truths)]``."""
    if not masks or not truths:
        return np.zeros((len(masks), len(truths)))
    a = np.stack([mask.ravel() for mask in masks]).astype(np.float32)
    b = np.stack([mask.ravel() for mask in truths]).astype(np.float32)
    # float32 counts exactly up to 2^24 pixels; larger images are summed in double.
    if a.shape[1] >= 1 << 24:
        a, b = a.astype(np.float64), b.astype(np.float64)
    both = (a @ b.T).astype(np.float64)
    either = a.sum(axis=1, dtype=np.float64)[:, None] + b.sum(axis=1, dtype=np.float64) - both
    return np.asarray(both / either, dtype=np.float64)


def pooled_f1(images: Sequence[Detections], weights: Floats, threshold: float) -> Floats:
    """F1 of matched objects over all images; ``weights [R, n]`` counts how often each image is drawn.

    Returns ``[R]``; 1 where there is neither a prediction nor a true object.
    """
    level = THRESHOLDS.index(threshold)
    hits = weights @ np.array([sum(image.matched[level]) for image in images], dtype=np.float64)
    total = weights @ np.array([len(image.scores) + image.truths for image in images], dtype=np.float64)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)


def average_precision(images: Sequence[Detections], weights: Floats, threshold: float | None = None) -> Floats:
    """COCO's AP (101 recall levels) over all images, ``[R]`` for ``weights [R, n]``; NaN without true objects.

    ``threshold`` is one of ``THRESHOLDS``; None gives the mean over all of them.
    """
    if threshold is None:
        levels = [average_precision(images, weights, level) for level in THRESHOLDS]
        return np.asarray(np.mean(levels, axis=0), dtype=np.float64)
    level = THRESHOLDS.index(threshold)
    owner = np.array([i for i, image in enumerate(images) for _ in image.scores], dtype=np.int64)
    scores = np.array([score for image in images for score in image.scores])
    hit = np.array([h for image in images for h in image.matched[level]], dtype=np.float64)
    truths = weights @ np.array([image.truths for image in images], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    owner, hit = owner[order], hit[order]
    return _area(weights[:, owner], hit, truths)


def _area(drawn: Floats, hit: Floats, truths: Floats) -> Floats:
    """Area under the precision envelope, ``[R]``; ``drawn [R, D]`` counts each prediction, ``hit [D]`` is 0 or 1."""
    out = np.where(truths > 0, 0.0, np.nan)
    if hit.size == 0:
        return out
    cumulated = np.cumsum(drawn * hit, axis=1)
    precision = cumulated / np.maximum(np.cumsum(drawn, axis=1), 1e-12)
    envelope: Floats = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for r in np.flatnonzero(truths > 0):
        at = np.searchsorted(cumulated[r] / truths[r], _RECALLS, side="left")
        out[r] = envelope[r, at[at < hit.size]].sum() / _RECALLS.size
    return out
