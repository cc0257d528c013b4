"""From what was found to the regions of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from int_model.core.types import Box, Mask
from int_model.runner.results import StoredObject, StoredResult
from ml_backend.labelstudio.label_config import Control, LabelingConfig, Target
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.regions.polygon import mask_to_parts, without_specks
from ml_backend.labelstudio.regions.rectangle import encode_rectangle
from ml_backend.labelstudio.regions.rle import encode_mask
from ml_backend.labelstudio.task_prompt import PromptGroup
from ml_backend.labelstudio.wire import RegionOut, fresh_id

Options = Mapping[str, OutputOptions]
_LEAST_VISIBLE = 0.1  # an object that another prompt's better ones hide to less than this is dropped


@dataclass(frozen=True, slots=True)
class Drawn:
    """Regions of one image, and the score of what they show (0 without regions)."""

    regions: tuple[RegionOut, ...]
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """An object that will be drawn: visible mask, where it came from, which controls take it."""

    found: StoredObject
    mask: Mask
    group: int
    targets: tuple[Target, ...]


def draw(
    config: LabelingConfig,
    results: Sequence[tuple[PromptGroup, StoredResult]],
    options: Options,
    *,
    max_regions: int,
    item_index: int | None = None,
) -> Drawn:
    """The regions of one image.

    Args:
        config: the labeling config.
        results: what each prompt's run found.
        options: by control name.
        max_regions: most regions; those with the lowest scores go.
        item_index: the image's place in a list of images.
    """
    prompts = [group.prompt.text.casefold() for group, _ in results]
    found = [piece for index, _ in enumerate(results) for piece in _pieces(index, results, options)]
    pieces = _without_overlaps(found, [prompts.index(text) for text in prompts])
    regions: list[tuple[float, list[RegionOut]]] = []
    for piece in pieces:
        group, result = results[piece.group]
        meta = _meta(group, result, piece.found)
        for target in piece.targets:
            drawn = _regions(config, target, piece, options[target.control.name], meta, item_index)
            regions += [(piece.found.score, items) for items in drawn]
    if len(regions) > max_regions:
        regions = sorted(regions, key=lambda entry: -entry[0])[:max_regions]
    shown = sorted({piece.group for piece in pieces}) if regions else []
    score = sum(results[index][1].score for index in shown) / len(shown) if shown else 0.0
    return Drawn(tuple(item for _, items in regions for item in items), score)


def draw_clicked(
    config: LabelingConfig,
    target: Target,
    objects: Sequence[StoredObject],
    options: OutputOptions,
    *,
    text: str,
    item_index: int | None = None,
) -> Drawn:
    """The regions of objects that a person pointed at: all for one target, whatever their scores.

    ``text`` is what ``meta.text`` says before the score.
    """
    regions: list[RegionOut] = []
    for found in objects:
        meta = {"text": [f"{text}, predicted IoU {found.score:.2f}"]}
        piece = _Piece(found, found.mask, 0, (target,))
        for items in _regions(config, target, piece, options, meta, item_index):
            regions += items
    score = sum(found.score for found in objects) / len(objects) if objects else 0.0
    return Drawn(tuple(regions), score)


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
            pieces.append(_Piece(found, found.mask, index, targets))
    return pieces


def _without_overlaps(pieces: list[_Piece], question: Sequence[int]) -> list[_Piece]:
    """Where objects of different prompts overlap, the pixels go to the higher score; order is kept.

    ``question`` numbers the prompts of the groups: strategies that answer the same prompt do not compete.
    """
    if len({question[piece.group] for piece in pieces}) < 2:
        return pieces
    owner = np.full(pieces[0].mask.shape, -1, dtype=np.int32)
    visible: dict[int, Mask] = {}
    for index in sorted(range(len(pieces)), key=lambda i: (-pieces[i].found.score, i)):
        piece = pieces[index]
        mask = piece.mask & ((owner < 0) | (owner == question[piece.group]))
        if mask.sum() >= max(1.0, _LEAST_VISIBLE * piece.mask.sum()):
            visible[index] = mask
            owner[mask] = question[piece.group]
    return [
        _Piece(piece.found, visible[index], piece.group, piece.targets)
        for index, piece in enumerate(pieces)
        if index in visible
    ]


def _regions(
    config: LabelingConfig,
    target: Target,
    piece: _Piece,
    options: OutputOptions,
    meta: dict[str, list[str]],
    item_index: int | None,
) -> list[list[RegionOut]]:
    """The regions of one object for one control: a list per drawn shape (two items where label and shape are split)."""
    height, width = piece.mask.shape
    score = round(piece.found.score, 4)

    def items(control: Control, value: dict[str, Any]) -> list[RegionOut]:
        common: dict[str, Any] = {
            "id": fresh_id(),
            "to_name": control.to_name,
            "original_width": width,
            "original_height": height,
            "score": score,
            "meta": meta,
            "item_index": item_index,
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
    if control.geometry == "polygon":
        brush = config.brush_for(target) if options.holes == "brush" else None
        shapes = []
        for part in mask_to_parts(piece.mask, options.polygon):
            if part.has_holes and brush is not None:
                shapes.append(items(brush, {"format": "rle", "rle": encode_mask(part.mask)}))
            else:
                shapes.append(items(control, {"points": part.points.tolist(), "closed": True}))
        return shapes
    mask = without_specks(piece.mask, options.min_area)
    if control.geometry == "brush":
        return [items(control, {"format": "rle", "rle": encode_mask(mask)})]
    if control.geometry == "bitmask":
        return [items(control, {"imageDataURL": encode_bitmask(mask)})]
    box = Box.of_mask(mask)
    return [] if box is None else [items(control, dict(encode_rectangle(box, height, width)))]


def _meta(group: PromptGroup, result: StoredResult, found: StoredObject) -> dict[str, list[str]]:
    """What the annotator may read beside a region."""
    name = found.name or result.name
    text = (
        f"{group.prompt.text}: {name}"
        if name and name.casefold() != group.prompt.text.casefold()
        else group.prompt.text
    )
    if result.contrast is not None:
        text += f", contrast {result.contrast:+.2f}"
    return {"text": [f"{text}, score {found.score:.2f}"]}
