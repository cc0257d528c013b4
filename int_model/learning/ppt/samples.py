"""What the three stages draw from, made once: pseudo-masks, composites, the pool of referring images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from int_model.core.types import Mask
from int_model.learning.ppt.composites import Cutting, compose
from int_model.learning.ppt.gallery import Gallery
from int_model.learning.ppt.pairs import PairsError, PairSet
from int_model.learning.ppt.plan import Plan
from int_model.learning.ppt.pseudo_masks import label_objects
from int_model.learning.ppt.rounds import Accepted, Referring, pool_of
from int_model.point_prompting.generator.expressions import head_noun

Tell = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One pair with a pseudo-mask: what a step is made of.

    Attributes:
        key: tells samples apart; the draws of its targets depend on it.
        image: number in the gallery.
        text: the expression.
        mask: ``bool [4h, 4w]``, or None where the expression means nothing in this image.
        others: masks of other objects, for negatives.
    """

    key: tuple[int, ...]
    image: int
    text: str
    mask: Mask | None
    others: tuple[Mask, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The samples of stage 1 and 2, and the pool that stage 3 selects from."""

    objects: tuple[Sample, ...]
    composites: tuple[Sample, ...]
    pool: tuple[Referring, ...]
    nouns: tuple[str, ...]


def prepare(gallery: Gallery, objects: PairSet, referring: PairSet | None, plan: Plan, tell: Tell) -> Material:
    """Look at all images with the frozen models and make the stages' samples; no file with masks is read.

    Args:
        gallery: takes the images.
        objects: object-centric pairs, for stages 1 and 2.
        referring: pairs of stage 3; None where no step of the plan draws from it.
        plan: the training.
        tell: progress.

    Raises:
        PairsError: no object-centric image has a pseudo-mask that passes the filters.
    """
    offset = len(gallery)
    pictures = [objects.images[pair.image]() for pair in objects.pairs]
    texts = [pair.text for pair in objects.pairs]
    labelled = label_objects(
        gallery, pictures, texts, plan.filters, lambda done, total: tell("pseudo-masks", done, total)
    )
    if not labelled:
        raise PairsError(
            f"none of the {len(pictures)} object-centric images has a mask that passes the filters: give images with "
            "one large object, or loosen the filters"
        )
    first = [Sample((1, i), item.image, item.text, item.mask, ()) for i, item in enumerate(labelled)]
    cuttings = [
        Cutting(pictures[item.image - offset], gallery.fine(item.mask, item.image), item.text) for item in labelled
    ]
    second = _compose(gallery, cuttings, plan, tell) if plan.order != "first" and plan.composites else []
    pool: Sequence[Referring] = ()
    if referring is not None and plan.order != "first" and plan.steps[2]:
        of_image = referring.of_image()
        shown = [referring.images[key]() for key in of_image]
        pool = pool_of(
            gallery, shown, list(of_image.values()), plan.clicking, lambda done, total: tell("proposals", done, total)
        )
    nouns = tuple(sorted({head_noun(text) for text in texts}))
    return Material(tuple(first), tuple(second), tuple(pool), nouns)


def _compose(gallery: Gallery, cuttings: Sequence[Cutting], plan: Plan, tell: Tell) -> list[Sample]:
    samples: list[Sample] = []
    for start in range(0, plan.composites, 64):
        numbers = range(start, min(start + 64, plan.composites))
        made = [compose(cuttings, number, seed=plan.seed) for number in numbers]
        images = gallery.add([composite.image for composite in made])
        for number, image, composite in zip(numbers, images, made, strict=True):
            coarse = [gallery.coarse(mask, image) for mask in composite.masks]
            for row, (text, thing) in enumerate(composite.expressions):
                mask = None if thing < 0 else coarse[thing]
                if mask is None or mask.any():
                    others = tuple(other for i, other in enumerate(coarse) if i != thing)
                    samples.append(Sample((2, number, row), image, text, mask, others))
        tell("composites", numbers.stop, plan.composites)
    return samples


def selected(pool: Sequence[Referring], accepted: Sequence[Accepted], most_others: int = 4) -> list[Sample]:
    """Samples of stage 3 from the pairs that are believed; other proposals apart from the chosen give negatives."""
    samples = []
    for choice in accepted:
        entry = pool[choice.entry]
        masks = entry.proposals.masks
        own = masks[choice.proposal]
        shared = (masks & own).sum((1, 2)) / np.maximum(np.minimum(masks.sum((1, 2)), own.sum()), 1)
        others = tuple(masks[i] for i in np.flatnonzero(shared < 0.2)[:most_others])
        key = (3, choice.entry, choice.pair, choice.proposal)
        samples.append(Sample(key, entry.image, entry.pairs[choice.pair].text, own, others))
    return samples
