"""How a segmentation is scored: which map, at which size, what counts as true; the published tables' way by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Floats, Mask, Segmentation, SoftMask, Trace
from int_model.evaluation.instances import match
from int_model.evaluation.records import Detections
from int_model.evaluation.regions import boundary_f, overlap
from int_model.evaluation.saliency import correction_efforts, saliency


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way of scoring.

    Attributes:
        name: as on the command line.
        map: what MAE, S, E and F are taken of: the ``soft`` map where the strategy gives one, or the binary ``mask``.
        side: both are resized to this square with nearest neighbour first; None keeps the truth's own size.
        truth_above: grey level of a mask file above which a pixel is sought.
        headline: the figures shown first.
        meaning: in words.
    """

    name: str
    map: Literal["soft", "mask"]
    side: int | None
    truth_above: int
    headline: tuple[str, ...]
    meaning: str


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "native",
            "soft",
            None,
            128,
            ("iou", "dice", "mae", "s", "e_mean", "wf_b1", "boundary_f", "ap"),
            "The soft map (all zero if there is no object) at the truth's own size; a mask file's pixel is sought "
            "above grey 128. Overlap, outline, instance and effort figures are of the binary mask.",
        ),
        Protocol(
            "mask",
            "mask",
            None,
            128,
            ("iou", "dice", "mae", "s", "e_mean", "wf_b1", "boundary_f", "ap"),
            "As native, but MAE, S, E and F are of the binary mask too.",
        ),
        Protocol(
            "promac",
            "mask",
            1024,
            0,
            ("mae", "wf_b03", "e_mean", "s"),
            "As the released ProMaC code scores, hence presumably the published tables M, F, E, S: the binary mask; "
            "mask and truth resized to 1024 x 1024 with nearest neighbour; any grey level but 0 is sought; F is the "
            "weighted F with beta squared 0.3 (the papers say adaptive F), E the mean over 256 thresholds, S with "
            "alpha 0.5. An empty mask is scored as a map of zeros. Instance figures stay at the image's size.",
        ),
    )
}
"""By name. Only grey mask files know levels: masks from JSON or generated scenes are the same under all."""


def chosen_protocol(protocol: Protocol | str) -> Protocol:
    """A protocol, or the one of that name. Raises ``ValueError`` for an unknown name."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol '{protocol}'; choose one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """All figures of one segmentation; see ``Record``."""

    metrics: dict[str, float | None]
    curves: dict[str, Floats]
    detections: Detections | None


def score(
    found: Segmentation,
    truth: Mask,
    instances: tuple[Mask, ...] | None = None,
    name: str | None = None,
    protocol: Protocol = PROTOCOLS["native"],
) -> Score:
    """Hold a segmentation against the truth ``bool [H, W]`` of its image.

    An empty prediction counts like any other: its map is all zero, whatever soft map it came from. Raises
    ``ValueError`` if sizes differ.
    """
    if truth.shape != found.size:
        raise ValueError(f"the truth is {list(truth.shape)}, the segmentation {list(found.size)}")
    mask = found.mask
    levels = _levels(found, mask, protocol)
    own, sought = _sized(mask, protocol), _sized(truth, protocol)
    maps = saliency(levels, sought)
    metrics: dict[str, float | None] = {**maps.values, **overlap(own, sought)}
    metrics["boundary_f"] = boundary_f(own, sought)
    metrics["hce"] = correction_efforts(own, sought)
    metrics["empty"] = float(not mask.any())
    # Strategies without a name of their own call everything what the task prompt says.
    own_name = None if found.name is None or found.name.lower() == found.task.lower() else found.name
    metrics["named"] = None if name is None or own_name is None else float(own_name == name)
    metrics["confidence"] = found.trace.witnesses.get("confidence")
    metrics["contrast"] = None if name is None else _contrast(found.trace, name)
    detections = None
    if instances is not None:
        detections = match([i.mask for i in found.instances], [i.score for i in found.instances], instances)
    return Score(metrics, maps.curves, detections)


def _contrast(trace: Trace, name: str) -> float | None:
    """Best D over the patches, in iteration 1: the true name's minus the strongest wrong one's; None without both."""
    if not trace.iterations:
        return None
    first = trace.iterations[0]
    change = (first.p_original - first.p_inpainted).max(axis=0)
    names = trace.names[: len(change)]  # later iterations may find more
    if name not in names or len(names) < 2:
        return None
    true = names.index(name)
    return float(change[true] - np.delete(change, true).max())


def grey_levels(soft: SoftMask) -> NDArray[np.uint8]:
    """A soft map in ``[0, 1]`` as the grey levels that it has in a PNG; values that are not finite count as 0."""
    scaled = np.clip(np.nan_to_num(soft, nan=0.0, posinf=0.0, neginf=0.0), 0.0, 1.0) * 255
    levels: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return levels


def _levels(found: Segmentation, mask: Mask, protocol: Protocol) -> NDArray[np.uint8]:
    if protocol.map == "soft" and found.soft_mask is not None and mask.any():
        levels = grey_levels(found.soft_mask)
        return levels if protocol.side is None else _nearest(levels, protocol.side)
    return _sized(mask, protocol).astype(np.uint8) * 255


def _sized(mask: Mask, protocol: Protocol) -> Mask:
    return mask if protocol.side is None else _nearest(mask.astype(np.uint8), protocol.side) > 0


def _nearest(levels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    resized: NDArray[np.uint8] = cv2.resize(levels, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized
