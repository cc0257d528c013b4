"""From what was found to the regions of a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from int_model.core.types import Box, Instance, Mask
from int_model.masks.components import components, remove_small_components
from int_model.masks.post_processing import same_objects, share_pixels
from int_model.runner.results import StoredObject, StoredResult
from ml_backend.labelstudio.label_config import Control, LabelingConfig, Target
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.regions.ellipse import encode_ellipse
from ml_backend.labelstudio.regions.polygon import encode_polygons
from ml_backend.labelstudio.regions.rectangle import encode_rectangle
from ml_backend.labelstudio.regions.rle import encode_mask
from ml_backend.labelstudio.regions.vector import encode_vector
from ml_backend.labelstudio.task_prompt import PromptGroup
from ml_backend.labelstudio.validation import only_valid
from ml_backend.labelstudio.wire import RegionOut, fresh_id

Options = Mapping[str, OutputOptions]


@dataclass(frozen=True, slots=True)
class ImageRegions:
    """Valid regions of one image, and the score of what they show (0 without regions)."""

    regions: tuple[RegionOut, ...]
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """An object that will be drawn: where it came from, which controls take it, its pixels."""

    found: StoredObject
    group: int
    targets: tuple[Target, ...]
    mask: Mask


@dataclass(frozen=True, slots=True)
class _About:
    """What a region says beside its shape: the score, the text to read, the image's place in a list of images."""

    score: float
    text: str
    item_index: int | None


def image_regions(
    config: LabelingConfig,
    results: Sequence[tuple[PromptGroup, StoredResult]],
    options: Options,
    max_regions: int,
    item_index: int | None = None,
) -> ImageRegions:
    """The regions of one image.

    Args:
        config: the labeling config.
        results: what each prompt's run found.
        options: by control name.
        max_regions: most regions; those with the lowest scores go.
        item_index: the image's place in a list of images.
    """
    found = [piece for index, _ in enumerate(results) for piece in _pieces(index, results, options)]
    pieces = _without_nested(found, options)
    visible = share_pixels(
        [piece.mask for piece in pieces],
        [piece.found.score for piece in pieces],
        questions=[results[piece.group][0].prompt.text.casefold() for piece in pieces],
        runs=[piece.group for piece in pieces],
    )
    regions: list[tuple[float, list[RegionOut]]] = []
    for index in sorted(visible):
        piece = pieces[index]
        about = _About(piece.found.score, _text(*results[piece.group], piece.found), item_index)
        for target in piece.targets:
            drawn = _regions(config, target, visible[index], options[target.control.name], about)
            regions += [(piece.found.score, items) for items in drawn]
    if len(regions) > max_regions:
        regions = sorted(regions, key=lambda entry: -entry[0])[:max_regions]
    shown = sorted({pieces[index].group for index in visible}) if regions else []
    score = sum(results[index][1].score for index in shown) / len(shown) if shown else 0.0
    return _valid((item for _, items in regions for item in items), score, config)


def clicked_regions(
    config: LabelingConfig,
    target: Target,
    objects: Sequence[Instance],
    options: OutputOptions,
    *,
    text: str,
    item_index: int | None = None,
) -> ImageRegions:
    """The regions of objects that a person pointed at: all for one target, whatever their scores.

    ``text`` is what ``meta.text`` says before the score.
    """
    regions: list[RegionOut] = []
    for found in objects:
        about = _About(found.score, f"{text}, predicted IoU {found.score:.2f}", item_index)
        for items in _regions(config, target, found.mask, options, about):
            regions += items
    score = sum(found.score for found in objects) / len(objects) if objects else 0.0
    return _valid(regions, score, config)


def _valid(regions: Iterable[RegionOut], score: float, config: LabelingConfig) -> ImageRegions:
    kept = tuple(only_valid(regions, config))
    return ImageRegions(kept, score if kept else 0.0)


def _pieces(index: int, results: Sequence[tuple[PromptGroup, StoredResult]], options: Options) -> list[_Piece]:
    group, result = results[index]
    pieces = []
    for found in result.objects:
        targets = tuple(
            target
            for target in group.chosen(found.name or result.name)
            if min(found.score, result.score) >= options[target.control.name].score_threshold
        )
        if targets:
            pieces.append(_Piece(found, index, targets, found.mask))
    return pieces


def _without_nested(pieces: Sequence[_Piece], options: Options) -> list[_Piece]:
    """The pieces with those that are one object joined, or its largest alone, as their first control wants it.

    What is joined has the best score, and the name that goes with it.
    """
    kept: list[_Piece] = []
    for members in same_objects([piece.found.mask for piece in pieces], [(p.group, p.targets) for p in pieces]):
        largest = pieces[members[0]]
        wanted = options[largest.targets[0].control.name].nested
        if wanted == "keep" or len(members) == 1:
            kept += [pieces[i] for i in members]
            continue
        best = max((pieces[i] for i in members), key=lambda piece: piece.found.score)
        masks = [pieces[i].mask for i in members] if wanted == "join" else [largest.mask]
        kept.append(replace(best, mask=np.logical_or.reduce(masks)))
    return sorted(kept, key=lambda piece: piece.group)


def _regions(
    config: LabelingConfig,
    target: Target,
    mask: Mask,
    options: OutputOptions,
    about: _About,
) -> list[list[RegionOut]]:
    """The regions of one object for one control: a list per drawn shape (two items where label and shape are split)."""
    height, width = mask.shape

    def items(control: Control, value: dict[str, Any]) -> list[RegionOut]:
        common: dict[str, Any] = {
            "id": fresh_id(),
            "to_name": control.to_name,
            "original_width": width,
            "original_height": height,
            "score": round(about.score, 4),
            "meta": {"text": [about.text]},
            "item_index": about.item_index,
        }
        label = None if target.label is None else target.label.output
        if label is None or not control.labels:
            return [RegionOut(from_name=control.name, type=control.geometry, value=value, **common)]
        if control.labels_name is None:
            kind = control.region_type
            return [RegionOut(from_name=control.name, type=kind, value={**value, kind: [label]}, **common)]
        shape = RegionOut(from_name=control.name, type=control.geometry, value=value, **common)
        named = RegionOut(from_name=control.labels_name, type="labels", value={**value, "labels": [label]}, **common)
        return [shape, named]

    control = target.control
    if options.min_part and (largest := next(components(mask), None)) is not None:
        mask = remove_small_components(mask, options.min_part * largest.area)
    if control.geometry in ("polygon", "vector"):
        brush = config.brush_for(target) if options.holes == "brush" else None
        shapes = []
        for points, part in encode_polygons(mask, options):
            if part.has_holes and brush is not None:
                shapes.append(items(brush, {"format": "rle", "rle": encode_mask(part.mask)}))
            elif control.geometry == "vector":
                shapes.append(items(control, encode_vector(points)))
            else:
                shapes.append(items(control, {"points": points, "closed": True}))
        return shapes
    mask = remove_small_components(mask, options.min_area)
    if control.geometry == "brush":
        return [items(control, {"format": "rle", "rle": encode_mask(mask)})]
    if control.geometry == "bitmask":
        return [items(control, {"imageDataURL": encode_bitmask(mask)})]
    if control.geometry == "ellipse":
        ellipse = encode_ellipse(mask)
        return [] if ellipse is None else [items(control, dict(ellipse))]
    box = Box.of_mask(mask)
    return [] if box is None else [items(control, dict(encode_rectangle(box, height, width)))]


def _text(group: PromptGroup, result: StoredResult, found: StoredObject) -> str:
    """What the annotator may read beside a region."""
    name = found.name or result.name
    text = (
        f"{group.prompt.text}: {name}"
        if name and name.casefold() != group.prompt.text.casefold()
        else group.prompt.text
    )
    if result.contrast is not None:
        text += f", contrast {result.contrast:+.2f}"
    return f"{text}, score {found.score:.2f}"
