"""Stage 3: which proposal each real expression means, judged by CLIP and by the teacher; only clear cases are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from int_model.core.types import Floats, Image
from int_model.learning.ppt.gallery import Gallery, Step
from int_model.learning.ppt.pairs import Pair
from int_model.learning.ppt.proposals import Clicking, Proposals, crop_features, propose
from int_model.learning.ppt.soft_points import decode_points, strongest
from int_model.point_prompting.generator.network import PointGenerator


@dataclass(frozen=True, slots=True)
class Selection:
    """When a pair is believed.

    Attributes:
        margin: by how much the best proposal's score must exceed the second's (scores are about 0 to 2).
        agreement: least IoU of the teacher's mask with the best proposal.
        temperature: of CLIP's scores.
        apart: two proposals with a greater IoU are one thing: two referents cannot share them.
    """

    margin: float = 0.1
    agreement: float = 0.5
    temperature: float = 0.1
    apart: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Referring:
    """One image of stage 3: its number, its proposals with their CLIP features ``[n, D]``, and its pairs."""

    image: int
    proposals: Proposals
    crops: NDArray[np.float32]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A pair that is believed: which image of the pool, which of its pairs, which proposal."""

    entry: int
    pair: int
    proposal: int


def pool_of(
    gallery: Gallery,
    pictures: Sequence[Image],
    pairs: Sequence[Sequence[Pair]],
    how: Clicking,
    step: Step | None = None,
) -> list[Referring]:
    """Encode the images of stage 3 and propose masks in them; images without a proposal are left out."""
    numbers = gallery.add(pictures, step)
    proposed = propose(gallery, list(numbers), how)

    def shown() -> Iterator[tuple[int, Image, Proposals]]:
        yield from zip(numbers, pictures, proposed, strict=True)

    features = crop_features(gallery.clip, gallery, shown())
    entries = zip(numbers, proposed, features, pairs, strict=True)
    return [
        Referring(number, proposals, crops, tuple(own))
        for number, proposals, crops, own in entries
        if len(proposals.masks)
    ]


def accept(
    gallery: Gallery, teacher: PointGenerator, pool: Sequence[Referring], how: Selection, most: int, batch: int = 128
) -> list[Accepted]:
    """The pairs that CLIP and the teacher agree on, with the proposal meant.

    A proposal's score is CLIP's (its crop's likelihood under the expression, less the most that other referents'
    expressions claim of it) plus its IoU with the teacher's mask. Expressions of one referent share their scores;
    different referents of an image take different proposals, the clearest first (the constraint that S+S+C gains by).

    Args:
        gallery: of the pool's images.
        teacher: the moving average of the generator.
        pool: images with proposals.
        how: when a pair is believed.
        most: points of a sign that the segmenter is given.
        batch: pairs per forward pass.
    """
    overlaps = _teacher_overlaps(gallery, teacher, pool, most, batch)
    accepted = []
    for number, entry in enumerate(pool):
        for pair, proposal in believed(_scores(gallery, entry, how), overlaps[number], entry, how):
            accepted.append(Accepted(number, pair, proposal))
    return accepted


def _teacher_overlaps(
    gallery: Gallery, teacher: PointGenerator, pool: Sequence[Referring], most: int, batch: int
) -> list[Floats]:
    """IoU of the teacher's mask of every pair with every proposal of its image: ``float64 [pairs, n]`` per image."""
    asked = [(number, pair) for number, entry in enumerate(pool) for pair in range(len(entry.pairs))]
    found: list[Floats] = [np.zeros((len(entry.pairs), len(entry.proposals.masks))) for entry in pool]
    for start in range(0, len(asked), batch):
        some = asked[start : start + batch]
        images = [pool[number].image for number, _ in some]
        with torch.no_grad():
            points = teacher(gallery.seen(images, [pool[number].pairs[pair].text for number, pair in some]))
            xy, share = points.flat()
            xy, share = strongest(xy, share, most)
            logits, _ = decode_points(gallery, images, xy, share)
        masks = ((logits[:, 0] > 0) & (gallery.inside(images) > 0)).cpu().numpy()
        for mask, (number, pair) in zip(masks, some, strict=True):
            others = pool[number].proposals.masks
            common, either = (mask & others).sum((1, 2)), (mask | others).sum((1, 2))
            found[number][pair] = common / np.maximum(either, 1)
    return found


def _scores(gallery: Gallery, entry: Referring, how: Selection) -> Floats:
    """CLIP's scores ``float64 [pairs, n]``."""
    texts = gallery.texts([pair.text for pair in entry.pairs])
    cosines = np.stack([(entry.crops @ text.maps.mean(axis=0)).astype(np.float64) for text in texts])
    likely = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / how.temperature)
    words = [text.maps[1].tobytes() for text in texts]
    claims = np.zeros_like(likely)
    for row, pair in enumerate(entry.pairs):
        rivals = [
            likely[other]
            for other, rival in enumerate(entry.pairs)
            if _differs(pair, rival) and words[other] != words[row]
        ]
        if rivals:
            claims[row] = np.max(rivals, axis=0)
    return np.asarray(likely - claims)


def _differs(pair: Pair, other: Pair) -> bool:
    """Whether the source says that two expressions of one image mean different things."""
    return bool(pair.referent and other.referent and pair.referent != other.referent)


def believed(clip: Floats, teacher: Floats, entry: Referring, how: Selection) -> list[tuple[int, int]]:
    """(pair, proposal) of one image: the greedy assignment of referents to proposals, then the filters."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, pair in enumerate(entry.pairs):
        groups[pair.referent or f"\0{row}"].append(row)
    total = clip + teacher
    shared = {name: total[rows].mean(axis=0) for name, rows in groups.items()}
    free = np.ones(total.shape[1], dtype=np.bool_)
    found: list[tuple[int, int]] = []
    for name in sorted(shared, key=lambda name: -float(shared[name].max())):
        known = bool(entry.pairs[groups[name][0]].referent)
        scores = np.where(free, shared[name], -np.inf) if known else shared[name]
        best = int(scores.argmax())
        rest = np.delete(scores, best)
        clear = not len(rest) or float(scores[best] - rest.max()) > how.margin
        agreed = float(teacher[groups[name], best].mean()) > how.agreement
        if np.isfinite(scores[best]) and clear and agreed:
            found += [(row, best) for row in groups[name]]
            if known:
                free &= ~_same_thing(entry.proposals.masks, best, how.apart)
    return found


def _same_thing(masks: NDArray[np.bool_], best: int, apart: float) -> NDArray[np.bool_]:
    common = (masks & masks[best]).sum((1, 2))
    either = (masks | masks[best]).sum((1, 2))
    return np.asarray(common / np.maximum(either, 1) > apart)
