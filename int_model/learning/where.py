"""Where a label's objects are: a linear probe on the segmenter's own embedding (self-prompting, arXiv 2308.07624).

Trained in seconds from one image on. Its heat map gives boxes that are added to the detector's, so that what the
detector misses is found; it does not replace the detector.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Detection, SoftMask
from int_model.learning.adaptation import Probe
from int_model.learning.sam import Encoded, TrainableSam, shrink
from int_model.learning.training import Sample

_STRENGTH = 0.03  # C of the logistic regression: strong regularisation, as there are few images and many features
_MOST_CELLS = 24_000
_LEAST_AREA = 0.002  # of the image: smaller components are noise


def cell_features(features: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Features of the cells that show the image, with their means over 3 x 3 and 7 x 7: ``float32 [rows, cols, 3 D]``.

    ``features`` is ``float32 [D, h, w]`` over the padded square.
    """
    own = np.ascontiguousarray(features[:, :rows, :columns].transpose(1, 2, 0))
    means = [
        np.stack(
            [cv2.blur(own[..., i], (size, size), borderType=cv2.BORDER_REFLECT_101) for i in range(own.shape[-1])], -1
        )
        for size in (3, 7)
    ]
    return np.asarray(np.concatenate([own, *means], axis=-1), dtype=np.float32)


def cells_of(encoded: Encoded, side: int) -> tuple[int, int]:
    """Rows and columns of the embedding that show the image."""
    grid = encoded.features.shape[-1]
    return max(1, round(encoded.inner[0] * grid / side)), max(1, round(encoded.inner[1] * grid / side))


def fit_probe(sam: TrainableSam, views: Sequence[tuple[Encoded, NDArray[np.bool_]]], *, seed: int = 0) -> Probe | None:
    """A probe from encoded views with all pixels of a label; None where cells of one kind are missing."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows, truths = [], []
    for encoded, mask in views:
        high, wide = cells_of(encoded, sam.side)
        grid = encoded.features.shape[-1]
        share = shrink(mask, encoded, sam.side, grid)[:high, :wide]
        clear = (share <= 0.25) | (share >= 0.5)  # cells on the outline teach nothing
        rows.append(cell_features(encoded.features.cpu().numpy(), high, wide)[clear])
        truths.append(share[clear] >= 0.5)
    x, y = np.concatenate(rows), np.concatenate(truths)
    if y.all() or not y.any():
        return None
    if len(y) > _MOST_CELLS:
        chosen = np.random.default_rng(seed).choice(len(y), _MOST_CELLS, replace=False)
        x, y = x[chosen], y[chosen]
        if y.all() or not y.any():
            return None
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=_STRENGTH, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((x - mean) / scale, y)
    weights = model.coef_[0].astype(np.float32)
    return Probe(weights, float(model.intercept_[0]), mean.astype(np.float32), scale.astype(np.float32))


def views_of_label(samples: Sequence[Sample], label: str) -> list[tuple[Encoded, NDArray[np.bool_]]]:
    """Every encoded view among samples with all pixels of a label in it."""
    found: dict[int, tuple[Encoded, NDArray[np.bool_]]] = {}
    for sample in samples:
        key = id(sample.encoded)
        encoded, mask = found.get(key, (sample.encoded, np.zeros(sample.target.mask.shape, dtype=np.bool_)))
        found[key] = (encoded, mask | sample.target.mask if sample.target.label == label else mask)
    return list(found.values())


def heat_map(probe: Probe, encoded: Encoded, side: int) -> SoftMask:
    """Probability of the label at every pixel, ``float32 [H, W]``."""
    rows, columns = cells_of(encoded, side)
    features = cell_features(encoded.features.cpu().numpy(), rows, columns)
    logits = ((features - probe.mean) / probe.scale) @ probe.weights + probe.bias
    cells = (1 / (1 + np.exp(-logits))).astype(np.float32)
    height, width = encoded.size
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def boxes_of(heat: SoftMask, threshold: float) -> list[Detection]:
    """Boxes of the heat map's components with their mean probability as score, best first."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats((heat >= threshold).astype(np.uint8), connectivity=4)
    found = []
    for index in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[index])
        if area >= max(16, _LEAST_AREA * heat.size):
            inside = heat[y : y + height, x : x + width][parts[y : y + height, x : x + width] == index]
            found.append(Detection(Box(x, y, x + width, y + height), float(inside.mean())))
    return sorted(found, key=lambda detection: -detection.score)
