"""From what models propose to what a person sees: pure steps, in the order in which they are used.

1. ``select_boxes``: which of a detector's boxes are segmented.
2. ``distinct_masks``: which masks are objects of their own.
3. ``trusted``: which objects reach the score below which nothing is shown.
4. ``same_objects``: which of them are one object, found twice or in pieces.
5. ``share_pixels``: which object keeps the pixels that several claim.
6. ``remove_small_components``: specks go.

Strategies use 1 to 3, tiles of a large image 2 and 3 again for the whole, and Label Studio's regions 4 to 6.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from int_model.core.config import DetectorConfig
from int_model.core.types import Box, Detection, Instance, Mask, union
from int_model.masks.components import linked_groups, remove_small_components

NESTED = 0.8
"""A mask of which this share lies in a larger one is a piece of that one, or the same object again."""

FILLED = 0.5
"""A mask of which this share is filled by several others is a group of objects."""

LEAST_VISIBLE = 0.1
"""An object of which less than this share is left is dropped, and so are such parts of what is left of it."""


def select_boxes(
    detections: Sequence[Detection], size: tuple[int, ...], config: DetectorConfig
) -> tuple[Detection, ...]:
    """Non-maximum suppression, at most ``max_boxes``, and no box over ``max_area`` of the image if others exist."""
    ordered = sorted(detections, key=lambda d: d.score, reverse=True)
    limit = config.max_area * size[0] * size[1]
    smaller = [d for d in ordered if d.box.area <= limit]
    kept: list[Detection] = []
    for detection in smaller or ordered:
        if all(detection.box.iou(other.box) <= config.nms_iou for other in kept):
            kept.append(detection)
    return tuple(kept[: config.max_boxes])


def distinct_masks(masks: Sequence[Mask], scores: Sequence[float], max_iou: float, max_cover: float) -> list[int]:
    """Indices of the masks that are instances of their own, best score first; empty masks are none.

    Going down the scores, a mask is dropped if its IoU with a kept one exceeds ``max_iou`` or if the kept ones cover
    it to ``max_cover``. If it swallows (to ``max_cover``) exactly one kept mask, that was a part of the same object
    and the larger mask takes its place; if it swallows several, it is a group and is dropped.
    """
    kept: list[int] = []
    areas = [int(mask.sum()) for mask in masks]
    for i in sorted((i for i in range(len(masks)) if areas[i]), key=lambda i: -scores[i]):
        common = {j: int((masks[i] & masks[j]).sum()) for j in kept}
        if any(shared > max_iou * (areas[i] + areas[j] - shared) for j, shared in common.items()):
            continue
        covered = int((masks[i] & union(masks[i].shape, [masks[j] for j in kept])).sum())  # type: ignore[arg-type]
        swallowed = [j for j, shared in common.items() if shared >= max_cover * areas[j]]
        if covered >= max_cover * areas[i] or len(swallowed) > 1:
            continue
        kept = [i if j in swallowed else j for j in kept] if swallowed else [*kept, i]
    return sorted(kept, key=lambda i: -scores[i])


def trusted(instances: Sequence[Instance], min_score: float) -> tuple[tuple[Instance, ...], float]:
    """The instances that reach ``min_score``, and the score of the whole: the area-weighted mean of theirs.

    If none does, the score is that of the best one (0 without instances).
    """
    kept = tuple(instance for instance in instances if instance.score >= min_score)
    if not kept:
        return (), max((instance.score for instance in instances), default=0.0)
    areas = np.array([instance.area for instance in kept], dtype=np.float64)
    mean = float(np.average([instance.score for instance in kept], weights=areas))
    return kept, min(1.0, mean)


def same_objects(masks: Sequence[Mask], runs: Sequence[Hashable]) -> list[list[int]]:
    """Groups of indices that are one object each, the largest mask first; most groups have one member.

    A mask that lies in a larger one (`NESTED`) belongs to it. A mask that several others fill (`FILLED`), none of which
    lies in another of them, is a group of objects and no object: it joins none of them.

    Args:
        masks: ``bool [H, W]`` each.
        runs: which run found each, and for which question; masks of different runs stay apart.
    """
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    boxes = [Box.of_mask(mask) for mask in masks]
    order = sorted(range(len(masks)), key=lambda i: (-areas[i], i))

    def lies_in(i: int, j: int) -> bool:
        first, second = boxes[i], boxes[j]
        if first is None or second is None or first.intersect(second) is None:
            return False
        rows, columns = slice(int(first.y1), int(first.y2)), slice(int(first.x1), int(first.x2))
        return bool(np.count_nonzero(masks[i][rows, columns] & masks[j][rows, columns]) >= NESTED * areas[i])

    links: list[tuple[int, int]] = []
    for place, large in enumerate(order):
        inside = [i for i in order[place + 1 :] if runs[i] == runs[large] and lies_in(i, large)]
        separate: list[int] = []
        for i in inside:
            if not any(lies_in(i, j) for j in separate):
                separate.append(i)
        size = (masks[large].shape[0], masks[large].shape[1])
        filled = np.count_nonzero(masks[large] & union(size, [masks[i] for i in separate]))
        if len(separate) < 2 or filled < FILLED * areas[large]:
            links += [(large, i) for i in inside]
    if not links:
        return [[i] for i in order]
    numbers = linked_groups(len(masks), [a for a, _ in links], [b for _, b in links])
    groups: dict[int, list[int]] = {}
    for i in order:
        groups.setdefault(int(numbers[i]), []).append(i)
    return list(groups.values())


def share_pixels(
    masks: Sequence[Mask], scores: Sequence[float], questions: Sequence[Hashable], runs: Sequence[Hashable]
) -> dict[int, Mask]:
    """What every object keeps where objects overlap: a pixel goes to the highest score; by index, best first.

    An object that loses pixels also loses the parts that are small beside what is left; one that is hidden almost
    wholly (``LEAST_VISIBLE``) is missing from the answer.

    Args:
        masks: ``bool [H, W]`` each.
        scores: one per mask; among equals the earlier one is the better.
        questions: what each mask answers.
        runs: which run found it. Different runs' answers to one question do not compete.
    """
    visible: dict[int, Mask] = {}
    taken: dict[tuple[Hashable, Hashable], Mask] = {}
    for index in sorted(range(len(masks)), key=lambda i: (-scores[i], i)):
        mask, own = masks[index], (questions[index], runs[index])
        rivals = [other for key, other in taken.items() if key == own or key[0] != own[0]]
        kept = mask & ~union((mask.shape[0], mask.shape[1]), rivals)
        area = np.count_nonzero(kept)
        if area < max(1.0, LEAST_VISIBLE * np.count_nonzero(mask)):
            continue
        visible[index] = remove_small_components(kept, LEAST_VISIBLE * area) if (kept != mask).any() else mask
        taken[own] = taken.get(own, np.zeros_like(mask)) | visible[index]
    return visible
