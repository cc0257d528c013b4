"""One image's segmentation as what the page shows of it: small pictures, short texts, rounded numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from int_model.core.types import Box, Candidate, Image, Instance, IterationTrace, Patch, Segmentation, Trace
from int_model.html import pictures
from int_model.html.charts import Chart
from int_model.io.drawing import colour_of, hex_colour, overlay
from int_model.report import contrast
from int_model.report.chart import running_scores

_THUMB, _PHOTO, _PATCH, _MASK, _MAP = 224, 640, 112, 256, 160


@dataclass(frozen=True, slots=True)
class Shape:
    """A box to draw: its corners in image pixels, a text, a colour as CSS, and whether it is one of the chosen."""

    box: Box
    text: str
    colour: str
    chosen: bool = True


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One object of the result. ``part`` is its share of the image area in ``[0, 1]``."""

    label: str
    score: float
    area: int
    part: float
    shape: Shape
    mask: str = ""


@dataclass(frozen=True, slots=True)
class PatchView:
    """One view with what the VLM said about it; ``said`` is None where it named nothing."""

    number: int
    place: str
    patch: Patch
    said: Candidate | None
    box: Box | None
    won: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """The mask that one box gave, with the CLIP score of what it shows."""

    picture: str
    score: float
    selected: bool


@dataclass(frozen=True, slots=True)
class IterationView:
    """One iteration. ``inpainted`` has a picture per row or none; ``reused`` says they are the previous ones."""

    index: int
    mode: str
    measured: bool
    explanation: contrast.Explanation | None
    names: tuple[str, ...]
    rows: list[contrast.Row]
    inpainted: list[str]
    reused: bool
    removed: str
    name: str
    background: str
    boxes: list[Shape]
    box_source: str
    positives: list[tuple[float, float]]
    negatives: list[tuple[float, float]]
    similarity: str
    pieces: list[Piece]
    soft: str
    mask: str
    area: float
    distance: float
    chosen: bool
    closest: bool


@dataclass(frozen=True, slots=True)
class ImageView:
    """Everything that the page shows of one image; with ``error`` there is nothing else but the title."""

    number: int
    title: str
    error: str = ""
    height: int = 0
    width: int = 0
    frame: tuple[int, int] = (1, 1)
    thumb: str = ""
    photo: str = ""
    task: str = ""
    strategy: str = ""
    name: str = ""
    score: float = 0.0
    reason: str = ""
    seconds: float = 0.0
    instances: list[InstanceView] = field(default_factory=list)
    proposals: list[tuple[str, int]] = field(default_factory=list)
    asked: bool = False
    patches: list[PatchView] = field(default_factory=list)
    iterations: list[IterationView] = field(default_factory=list)
    explanation: contrast.Explanation | None = None
    chosen: IterationView | None = None
    measured: bool = False
    by_name: bool = False
    chart: Chart | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)
    role_seconds: list[tuple[str, float]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    detail_file: str = ""

    @property
    def nbytes(self) -> int:
        """About how much the pictures add to the page, in bytes."""
        cells = sum(len(row.cells) for item in self.iterations for row in item.rows)
        texts = [self.thumb, self.photo, *(item.mask for item in self.instances)]
        for item in self.iterations:
            texts += [*item.inpainted, item.removed, item.similarity, item.soft, item.mask]
            texts += [piece.picture for piece in item.pieces]
        return sum(map(len, texts)) + 340 * cells + 4000 * (1 + len(self.iterations)) + 900 * len(self.patches)


def failed(number: int, title: str, error: str) -> ImageView:
    """The entry of an image that could not be done."""
    return ImageView(number, title, error=error)


def brief(
    number: int, title: str, image: Image, segmentation: Segmentation, seconds: float, detail_file: str = ""
) -> ImageView:
    """The entry with the result alone, for a page that is already large; ``detail_file`` says where the rest is."""
    labels = [instance.label for instance in segmentation.instances]
    return ImageView(
        number,
        title,
        height=segmentation.size[0],
        width=segmentation.size[1],
        thumb=pictures.photo(overlay(image, segmentation.instances), _THUMB),
        task=segmentation.task,
        strategy=segmentation.trace.strategy,
        name=segmentation.name or next(iter(labels), ""),
        score=segmentation.score,
        reason=segmentation.reason,
        seconds=seconds,
        instances=[_instance(i, item) for i, item in enumerate(segmentation.instances)],
        detail_file=detail_file,
    )


def full(
    number: int,
    title: str,
    image: Image,
    segmentation: Segmentation,
    seconds: float,
    key: contrast.ScoreKey = "patch",
) -> ImageView:
    """The entry with everything that the trace tells."""
    trace = segmentation.trace
    frame = trace.size or segmentation.size
    iterations = _iterations(trace, frame, key)
    chosen = next((item for item in iterations if item.chosen), None)
    explained = chosen or (iterations[-1] if iterations else None)
    explanation = explained.explanation if explained else None
    result = brief(number, title, image, segmentation, seconds)
    masks = [pictures.mask(item.mask, colour_of(i), _PHOTO, 0.45) for i, item in enumerate(segmentation.instances)]
    return replace(
        result,
        frame=frame,
        photo=pictures.photo(image, _PHOTO),
        instances=[replace(item, mask=mask) for item, mask in zip(result.instances, masks, strict=True)],
        proposals=Counter(candidate.name for candidate in trace.candidates).most_common(),
        asked=any(candidate.answers or candidate.caption for candidate in trace.candidates),
        patches=_patches(trace, frame, explanation),
        iterations=iterations,
        explanation=explanation,
        chosen=chosen,
        measured=any(item.measured for item in iterations),
        by_name=key == "name",
        chart=running_scores(trace, key) if any(item.measured for item in iterations) else None,
        calls=[(role, count) for role, count in trace.calls.items() if count],
        role_seconds=sorted(((r, s) for r, s in trace.seconds.items() if s > 0), key=lambda item: -item[1]),
        notes=trace.notes,
    )


def _instance(index: int, instance: Instance) -> InstanceView:
    return InstanceView(
        label=instance.label,
        score=instance.score,
        area=instance.area,
        part=instance.area / instance.mask.size,
        shape=Shape(instance.box, f"{instance.label} {instance.score:.2f}", hex_colour(index)),
    )


def _patches(trace: Trace, size: tuple[int, int], explanation: contrast.Explanation | None) -> list[PatchView]:
    said: dict[int, Candidate] = {}
    for candidate in trace.candidates:
        said.setdefault(candidate.patch, candidate)
    views = []
    for k, patch in enumerate(trace.patches):
        answer = said.get(patch.index)
        box = answer.box.intersect(patch.box) if answer and answer.box else None
        won = explanation is not None and explanation.view == k
        views.append(PatchView(k + 1, contrast.place_of(patch, size), patch, answer, box, won))
    return views


def _iterations(trace: Trace, frame: tuple[int, int], key: contrast.ScoreKey) -> list[IterationView]:
    views: list[IterationView] = []
    inpainted: list[str] = []
    nearest = min((iteration.distance for iteration in trace.iterations), default=0.0)
    for iteration in trace.iterations:
        fresh = bool(iteration.inpainted)
        if fresh:
            inpainted = [pictures.photo(item, _PATCH, 72) for item in iteration.inpainted]
        rows = contrast.rows_of(trace, iteration, frame, key)
        views.append(
            IterationView(
                index=iteration.index,
                mode=iteration.inpaint_mode.replace("_", " "),
                measured=iteration.inpaint_mode != "none" and iteration.p_original.size > 0,
                explanation=contrast.explain(trace, iteration, rows, key),
                names=trace.names[: len(rows[0].cells)] if rows else (),
                rows=rows,
                inpainted=inpainted if len(inpainted) == len(rows) else [],
                reused=not fresh and bool(inpainted),
                removed=pictures.mask(iteration.inpaint_mask, (230, 60, 60), _MASK) if inpainted else "",
                name=iteration.winner_name,
                background=iteration.background,
                boxes=_boxes(iteration),
                box_source=iteration.box_source.replace("_", " "),
                positives=_points(iteration, 1),
                negatives=_points(iteration, 0),
                similarity="" if iteration.similarity is None else pictures.heat(iteration.similarity, _MAP),
                pieces=_pieces(iteration),
                soft=pictures.heat(iteration.soft_mask, _MAP),
                mask=pictures.mask(iteration.mask, colour_of(0), _MASK),
                area=float(iteration.mask.mean()),
                distance=float(iteration.distance),
                chosen=iteration.index == trace.final_iteration,
                closest=iteration.distance <= nearest,
            )
        )
    return views


def _boxes(iteration: IterationTrace) -> list[Shape]:
    return [
        Shape(item.box, f"{item.phrase or iteration.winner_name} {item.score:.2f}", hex_colour(i), _at(iteration, i))
        for i, item in enumerate(iteration.boxes)
    ]


def _pieces(iteration: IterationTrace) -> list[Piece]:
    scores: Sequence[float] = iteration.mask_scores.tolist()
    return [
        Piece(
            picture=pictures.mask(item, colour_of(i), _MAP),
            score=scores[i] if i < len(scores) else math.nan,
            selected=_at(iteration, i),
        )
        for i, item in enumerate(iteration.instance_masks)
    ]


def _at(iteration: IterationTrace, index: int) -> bool:
    return bool(iteration.selected[index]) if index < iteration.selected.size else True


def _points(iteration: IterationTrace, label: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in iteration.points[iteration.point_labels == label]]
