"""What corrections cost people, by the version that they began with: seconds, and human correction efforts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from int_model.core.types import Mask
from int_model.evaluation.saliency import correction_efforts
from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.labelstudio.regions.decode import decode_region

NOTHING = "nothing"
"""Key of annotations that were drawn without a prediction."""

_LONGEST = 3600.0  # seconds: who took longer had left the desk
_MOST_PIXELS = 1 << 24  # of an image whose correction efforts are counted; the count takes seconds beyond


@dataclass(frozen=True, slots=True)
class Effort:
    """The cost of images that began with one version.

    Attributes:
        version: adapter of the predictions that people began with; "" for the base models, `NOTHING` for none.
        images: annotations that count.
        seconds: median of the seconds that people took, or None where Label Studio told none.
        efforts: mean of the human correction efforts (HCE) per image, or None where no prediction is known.
        compared: images behind ``efforts``.
    """

    version: str
    images: int
    seconds: float | None
    efforts: float | None
    compared: int


def efforts_of(
    annotations: Iterable[Annotation],
    adapters: Mapping[str, str],
    known: Mapping[int, float] | None = None,
) -> list[Effort]:
    """The cost by version, versions in the order in which they were first used.

    Args:
        annotations: of one project; skipped tasks do not count.
        adapters: the adapter behind each version string; strings that are not in it are those of the base models.
        known: correction efforts by the annotations' ids, as far as they are known; see `correction_efforts_of`.
    """
    return [_effort(version, own, known or {}) for version, own in _groups(annotations, adapters).items()]


def newest_of_each(annotations: Iterable[Annotation], adapters: Mapping[str, str], most: int) -> list[Annotation]:
    """The newest annotations of each version that began with a prediction, at most ``most`` of a version."""
    groups = _groups(annotations, adapters)
    return [one for own in groups.values() for one in own[-most:] if one.parent_prediction is not None]


def _groups(annotations: Iterable[Annotation], adapters: Mapping[str, str]) -> dict[str, list[Annotation]]:
    groups: dict[str, list[Annotation]] = {}
    for one in sorted((one for one in annotations if not one.was_cancelled), key=lambda one: one.created_at):
        groups.setdefault(_version(one, adapters), []).append(one)
    return groups


def _version(annotation: Annotation, adapters: Mapping[str, str]) -> str:
    if annotation.model_version:
        return adapters.get(annotation.model_version, "")
    return NOTHING


def _effort(version: str, own: Sequence[Annotation], known: Mapping[int, float]) -> Effort:
    seconds = [one.lead_time for one in own if one.lead_time is not None and 0 < one.lead_time <= _LONGEST]
    values = [known[one.id] for one in own if one.id in known]
    mean = float(np.mean(values)) if values else None
    return Effort(version, len(own), median(seconds) if seconds else None, mean, len(values))


def correction_efforts_of(shown: Sequence[Any], final: Sequence[Any]) -> float | None:
    """Clicks and polygon points that turn a prediction's regions into an annotation's, summed over labels.

    None where the two are of different sizes, very large, or hold a region that cannot be decoded.
    """
    before, after = _masks(shown), _masks(final)
    if before is None or after is None:
        return None
    sizes = {mask.shape for mask in (*before.values(), *after.values())}
    if len(sizes) > 1:
        return None
    total = 0.0
    for label in {*before, *after}:
        empty = np.zeros(next(iter(sizes)), dtype=np.bool_)
        total += correction_efforts(before.get(label, empty), after.get(label, empty))
    return total


def _masks(result: Sequence[Any]) -> dict[str, Mask] | None:
    """All pixels of each label of a result's regions on its first image; None where a region cannot be decoded."""
    found: dict[str, Mask] = {}
    for region in result:
        if not isinstance(region, Mapping) or region.get("item_index") not in (None, 0):
            continue
        label = label_of(region)
        if label is None:
            continue
        try:
            if int(region["original_height"]) * int(region["original_width"]) > _MOST_PIXELS:
                return None
            mask = decode_region(region)
        except (KeyError, TypeError, ValueError):
            return None
        known = found.get(label)
        if known is not None and known.shape != mask.shape:
            return None
        found[label] = mask if known is None else known | mask
    return found


def label_of(region: Mapping[str, Any]) -> str | None:
    """The first label of a region that has labels, else None."""
    value = region.get("value")
    items = value.items() if isinstance(value, Mapping) else ()
    names = next((entry for key, entry in items if str(key).lower().endswith("labels")), None)
    return str(names[0]) if isinstance(names, list) and names else None
