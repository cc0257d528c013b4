"""From what the generator says to the points that the segmenter gets: signs, thinning, "not present" (spec B.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Floats


@dataclass(frozen=True, slots=True)
class PointFilter:
    """Which points are given to the segmenter.

    Attributes:
        positive: least confidence of a positive point; below it for all of them, the object is not present.
        negative: highest confidence of a negative point. What lies between the two is neither.
        most: points of a sign.
        apart: least distance between points of a sign, as a share of the image's diagonal.
        negatives: whether negative points are given at all.
    """

    positive: float = 0.5
    negative: float = 0.3
    most: int = 8
    apart: float = 0.02
    negatives: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.negative <= self.positive <= 1:
            raise ValueError("confidences lie in [0, 1], and negative points have the lower ones")


@dataclass(frozen=True, slots=True, eq=False)
class SignedPoints:
    """Points that passed, positives first, best first.

    Attributes:
        points: ``float64 [P, 2]`` (x, y) in pixels.
        labels: ``int64 [P]``, 1 on the object, 0 beside it.
        confidence: ``float64 [P]``, each point's probability of being on the object.
        left_out: how many of the generator's points are not among them, by reason.
        presence: the highest confidence of all points: how sure the generator is that the object is there.
    """

    points: Floats
    labels: NDArray[np.int64]
    confidence: Floats
    left_out: dict[str, int]
    presence: float

    @property
    def present(self) -> bool:
        """Whether any point is positive."""
        return bool((self.labels == 1).any())


def signed_points(xy: Floats, confidence: Floats, size: tuple[int, int], how: PointFilter) -> SignedPoints:
    """The points for the segmenter.

    Positives are taken by confidence, then as far apart as possible; negatives nearest to the positives first. Every
    point that is not taken is counted under its reason, so that no negative vanishes silently.

    Args:
        xy: ``[N, 2]`` in [0, 1] of the image.
        confidence: ``[N]`` in [0, 1].
        size: height and width of the image.
        how: the filter.
    """
    pixels = np.asarray(xy, dtype=np.float64) * np.array([size[1], size[0]], dtype=np.float64)
    shares = np.asarray(confidence, dtype=np.float64)
    reach = how.apart * float(np.hypot(*size))
    sure, against = np.flatnonzero(shares >= how.positive), np.flatnonzero(shares <= how.negative)
    left_out = {"undecided": len(shares) - len(sure) - len(against)}
    distinct = _apart(pixels, sure[np.argsort(-shares[sure], kind="stable")], reach)
    positives = _farthest(pixels, distinct, how.most)
    left_out |= {"close": len(sure) - len(distinct), "too many": len(distinct) - len(positives)}
    negatives: list[int] = []
    if not positives:
        left_out["no positive beside"] = len(against)
    elif not how.negatives:
        left_out["negatives are off"] = len(against)
    else:
        away = np.linalg.norm(pixels[against][:, None] - pixels[positives][None], axis=-1).min(axis=1)
        apart = _apart(pixels, against[np.argsort(away, kind="stable")], reach)
        negatives = apart[: how.most]
        left_out["close"] += len(against) - len(apart)
        left_out["too many"] += len(apart) - len(negatives)
    chosen = [*positives, *negatives]
    return SignedPoints(
        pixels[chosen],
        np.repeat(np.array([1, 0], dtype=np.int64), [len(positives), len(negatives)]),
        shares[chosen],
        {reason: count for reason, count in left_out.items() if count},
        float(shares.max()) if len(shares) else 0.0,
    )


def _apart(pixels: Floats, order: NDArray[np.int64], reach: float) -> list[int]:
    """Points in order, without those nearer than ``reach`` to an earlier one."""
    kept: list[int] = []
    for index in order:
        if all(np.linalg.norm(pixels[index] - pixels[other]) >= reach for other in kept):
            kept.append(int(index))
    return kept


def _farthest(pixels: Floats, order: list[int], most: int) -> list[int]:
    """At most ``most`` points: the first, then each time the one farthest from those taken."""
    if len(order) <= most:
        return order
    kept = [order[0]]
    reach = np.linalg.norm(pixels[order] - pixels[kept[0]], axis=1)
    while len(kept) < most:
        kept.append(order[int(reach.argmax())])
        reach = np.minimum(reach, np.linalg.norm(pixels[order] - pixels[kept[-1]], axis=1))
    return kept
