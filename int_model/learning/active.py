"""Which image a person should look at next: spread first, then doubt, stratified, with a share drawn at random.

Pure functions on features and figures; nothing here runs a model. No order is known to win everywhere, so a random
share always stays: it keeps the sample fair, and shows whether the order earns anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Segmentation

RANDOM_SHARE = 0.3
_MOST_CLUSTERS = 50


def cold_start(features: NDArray[np.float32], *, seed: int = 0) -> list[int]:
    """An order in which any beginning is spread over the images in proportion to how many of a kind there are.

    Args:
        features: one row per image, ``float32 [N, D]``.
        seed: of the clustering.

    Returns:
        All N indices. Clusters take turns in proportion to their sizes; within one the most typical image comes first.
    """
    from sklearn.cluster import KMeans

    count = len(features)
    if count < 3:
        return list(range(count))
    number = int(np.clip(round(np.sqrt(count / 2)), 2, _MOST_CLUSTERS))
    wide = np.asarray(features, dtype=np.float64)
    scaled = (wide - wide.mean(axis=0)) / (wide.std(axis=0) + 1e-9)
    model = KMeans(number, n_init=4, random_state=seed).fit(scaled)
    distance = np.linalg.norm(scaled - model.cluster_centers_[model.labels_], axis=1)
    members = [sorted(np.flatnonzero(model.labels_ == i), key=lambda k: (distance[k], k)) for i in range(number)]
    queue = sorted(
        ((place + 0.5) / len(own), cluster, int(index))
        for cluster, own in enumerate(members)
        for place, index in enumerate(own)
    )
    return [index for _, _, index in queue]


def by_doubt(
    doubt: Sequence[float],
    strata: Sequence[str],
    *,
    seed: int = 0,
    random_share: float = RANDOM_SHARE,
) -> list[int]:
    """An order by doubt, most doubtful first, in which every stratum takes its turn and a share is drawn at random.

    Args:
        doubt: how doubtful each image is; larger comes earlier.
        strata: what takes turns, e.g. the label that was found, "" where nothing was.
        seed: of the random draws.
        random_share: part of the places that are filled at random, in [0, 1].

    Raises:
        ValueError: the lists differ in length, or the share lies outside [0, 1].
    """
    if len(doubt) != len(strata):
        raise ValueError(f"{len(doubt)} doubts need as many strata, not {len(strata)}")
    if not 0 <= random_share <= 1:
        raise ValueError(f"the random share lies between 0 and 1, not at {random_share}")
    rng = np.random.default_rng(seed)
    names = sorted(set(strata))
    ranked = {
        name: sorted((i for i, own in enumerate(strata) if own == name), key=lambda i: (-doubt[i], i)) for name in names
    }
    turns = [own.pop(0) for _ in range(max(map(len, ranked.values()), default=0)) for own in ranked.values() if own]
    drawn = [int(i) for i in rng.permutation(len(doubt))]
    order: list[int] = []
    taken: set[int] = set()
    while len(order) < len(doubt):
        source = drawn if rng.random() < random_share else turns
        while source and source[0] in taken:
            source.pop(0)
        if source:
            order.append(source[0])
            taken.add(source.pop(0))
    return order


def doubt_of(result: Segmentation) -> float:
    """How doubtful a result is, in [0, 1]: low scores, and iterations that do not agree on the mask.

    A result without instances is half in doubt: it may be right that there is nothing.
    """
    if not result.instances:
        return 0.5
    weakest = 1.0 - min(instance.score for instance in result.instances)
    masks = [entry.soft_mask for entry in result.trace.iterations]
    if len(masks) < 2:
        return weakest
    final = masks[-1]
    apart = [float(np.abs(mask - final).mean() / max(1e-6, np.maximum(mask, final).mean())) for mask in masks[:-1]]
    return float(np.clip(0.5 * weakest + 0.5 * np.mean(apart), 0.0, 1.0))


def disagreement(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """1 minus the IoU of two versions' masks; 0 if both are empty."""
    union = int((one | other).sum())
    return 0.0 if union == 0 else 1.0 - int((one & other).sum()) / union
