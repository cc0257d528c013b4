"""What an annotator pointed at: the context of an interactive request, read tolerantly. Pure functions.

Coordinates come in percent of the upright image. A group of prompts has one label; of mixed ones the last counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from int_model.core.types import Box, Mask
from int_model.interactive.prompts import ClickPrompt
from ml_backend.labelstudio.label_config import PRIORITY, Control, ImageObject, Label, LabelingConfig, Target
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.regions.rectangle import rectangle_corners
from ml_backend.labelstudio.task_prompt import ConnectionParams, group_by_prompt
from ml_backend.labelstudio.wire import clean_text

Kind = Literal["point", "box", "painted"]
MAX_BOXES = 64
MAX_POINTS = 256
MAX_PAINTED = 64
_SKETCHED = 64


class ClickError(ValueError):
    """The prompts cannot be answered; the message says why."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One prompt.

    Attributes:
        kind: what was drawn.
        positive: whether it shows the object, or what is beside it.
        region: as it came.
        sketch: of its id, sign and value: the same for a prompt that comes again.
    """

    kind: Kind
    positive: bool
    region: Mapping[str, Any]
    sketch: int


@dataclass(frozen=True, slots=True)
class Click:
    """A group of prompts.

    Attributes:
        control: name of the control they were drawn with; "" in the protocol of 2026.
        to_name: the image's name, or "".
        label: the label that was clicked with, or "".
        item_index: which image of a list.
        shapes: at least one.
        notes: what was left out, and why.
    """

    control: str
    to_name: str
    label: str
    item_index: int
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...] = ()

    def continues(self, older: Click) -> bool:
        """Whether these are the prompts of an older click, of each kind in order, and perhaps more."""
        if (self.label, self.to_name, self.item_index) != (older.label, older.to_name, older.item_index):
            return False
        return all(_starts_with(self._of(kind), older._of(kind)) for kind in get_args(Kind))

    def _of(self, kind: Kind) -> list[int]:
        return [shape.sketch for shape in self.shapes if shape.kind == kind]

    def image(self, config: LabelingConfig) -> ImageObject:
        """The image they were drawn on. Raises ``ClickError`` if the config has none of that name."""
        named = config.images.get(self.to_name)
        if named is None and self.to_name:
            raise ClickError(f"the labeling config has no image '{self.to_name}'")
        return named or next(iter(config.images.values()))


def _starts_with(newer: list[int], older: list[int]) -> bool:
    """Whether the prompts of an older click come first; two people's have different ids, even at the same place."""
    return newer[: len(older)] == older


def _sketch(value: Any, depth: int = 5) -> Any:
    """What a value is compared by, hashable: of a long list some entries, as megabytes must not be compared."""
    if isinstance(value, list):
        step = 1 + len(value) // _SKETCHED
        return len(value), tuple(_sketch(entry, depth - 1) for entry in value[::step]) if depth else ()
    if isinstance(value, dict):
        names = list(value)[:_SKETCHED] if depth else []
        return len(value), frozenset((name, _sketch(value[name], depth - 1)) for name in names)
    return value


def parse_click(context: Mapping[str, Any]) -> Click | None:
    """The prompts in a request's context, or None if there are none."""
    result = context.get("result")
    regions = [entry for entry in result if isinstance(entry, Mapping)] if isinstance(result, list) else []
    shapes: list[tuple[Shape, str, Any]] = []
    seen: dict[str, int] = {}
    for region in regions:
        kind = _kind(region)
        if kind is None:
            continue
        label = _label(region)
        name = region.get("id")
        if isinstance(name, str) and name in seen:  # the other half of a split pair
            shape, known, image = shapes[seen[name]]
            shapes[seen[name]] = (shape, known or label, image)
            continue
        if isinstance(name, str):
            seen[name] = len(shapes)
        sketch = hash(_sketch([region.get("id"), region.get("value"), region.get("is_positive")]))
        shapes.append((Shape(kind, _positive(region), region, sketch), label, region.get("to_name")))
    if not shapes:
        return None
    last, label, image = shapes[-1]
    own = [shape for shape, other, to_name in shapes if other == label and to_name == image]
    kept: list[Shape] = []
    for kind, most in (("point", MAX_POINTS), ("box", MAX_BOXES), ("painted", MAX_PAINTED)):
        kept += [shape for shape in own if shape.kind == kind][-most:]
    notes = (f"only the last {len(kept)} of {len(own)} prompts were used",) if len(kept) < len(own) else ()
    index = last.region.get("item_index")
    return Click(
        control=clean_text(last.region.get("from_name")),
        to_name=clean_text(image),
        label=label,
        item_index=index if isinstance(index, int) and not isinstance(index, bool) and index >= 0 else 0,
        shapes=tuple(kept),
        notes=notes,
    )


def to_prompt(click: Click, height: int, width: int) -> ClickPrompt:
    """The prompts in pixels of an image of that size; those that make no sense are left out.

    Raises:
        ClickError: none is left, or none shows the object.
    """
    points: list[tuple[float, float, int]] = []
    boxes: list[Box] = []
    painted: dict[bool, Mask] = {}
    problems: list[str] = []
    for shape in click.shapes:
        try:
            if shape.kind == "point":
                points.append((*_point(shape.region["value"], height, width), int(shape.positive)))
            elif shape.kind == "box":
                box = box_of(shape.region["value"], height, width)
                if shape.positive:
                    boxes.append(box)
                else:  # "not this": a segmenter knows no negative boxes
                    points.append(((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, 0))
            else:
                mask = _painted(shape.region, height, width)
                painted[shape.positive] = mask | painted[shape.positive] if shape.positive in painted else mask
        except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
            problems.append(str(error) or type(error).__name__)
    try:
        return ClickPrompt(
            points=np.array([point[:2] for point in points], dtype=np.float64).reshape(-1, 2),
            labels=np.array([point[2] for point in points], dtype=np.int64),
            boxes=tuple(boxes),
            stroke=painted.get(True),
            avoid=painted.get(False),
        )
    except ValueError as error:
        raise ClickError("; ".join(dict.fromkeys(problems)) or str(error)) from None


def target_of(config: LabelingConfig, click: Click, image: str) -> tuple[Target, str]:
    """The control and label that the answer belongs to, and a note where the label had to be another one.

    The control that was drawn with if it takes masks; else one with the same label, masks before rectangles; else the
    first that takes masks.

    Raises:
        ClickError: the config has no control to fill on that image.
    """
    controls = [control for control in config.controls if control.to_name == image and control.skip is not True]
    controls.sort(key=lambda control: (PRIORITY.index(control.geometry), control.order))
    masks = [control for control in controls if control.geometry != "rectangle"]
    own = [control for control in masks if click.control in (control.name, control.labels_name)]
    named = [c for c in (own or masks or controls) if _offered(c, click.label) is not None]
    chosen = (named or own or masks or controls)[:1]
    if not chosen:
        raise ClickError(f"the labeling config has no PolygonLabels, BitmaskLabels or BrushLabels on '{image}' to fill")
    control = chosen[0]
    if not control.labels:
        return Target(control, None), ""
    label = _offered(control, click.label)
    if label is not None:
        return Target(control, label), ""
    note = f"'{control.name}' has no label '{click.label}'" if click.label else ""
    return Target(control, control.labels[0]), note


def prompt_of_click(
    config: LabelingConfig, click: Click, params: ConnectionParams, default: str, data: Mapping[str, Any]
) -> str:
    """The task prompt that predictions of the clicked label are made with; "" where its control gets none.

    Raises:
        ClickError: the click fits no control.
        PromptError: a prompt is missing, or longer than allowed.
    """
    image = click.image(config)
    target, _ = target_of(config, click, image.name)
    groups = group_by_prompt(config.targets(image.name), params, default, data)
    label = target.label and target.label.value
    same = [g for g in groups if any((t.label and t.label.value) == label for t in g.targets)]
    exact = [g for g in same if target in g.targets]
    return (exact or same)[0].prompt.text if same else ""


def box_of(value: Mapping[str, Any], height: int, width: int) -> Box:
    """The axis-aligned hull, in pixels and clipped, of a rectangle in percent, turned about its top-left corner.

    Raises ``ValueError`` where it has no area inside the image.
    """
    corners = rectangle_corners(value, height, width)
    low, high = np.maximum(corners.min(axis=0), 0.0), np.minimum(corners.max(axis=0), [width, height])
    if not (low < high).all():
        raise ValueError("a box has no area inside the image")
    return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _kind(region: Mapping[str, Any]) -> Kind | None:
    value = region.get("value")
    if not isinstance(value, Mapping):
        return None
    kind = _type(region)
    if kind.startswith("keypoint"):
        return "point"
    if "rle" in value or "imageDataURL" in value or "points" in value:
        return "painted"
    if kind.startswith("rectangle") or ("width" in value and "height" in value):
        return "box"
    return "point" if "x" in value and "y" in value and "radiusX" not in value else None


def _type(region: Mapping[str, Any]) -> str:
    kind = region.get("type")
    return kind.lower() if isinstance(kind, str) else ""


def _label(region: Mapping[str, Any]) -> str:
    value = region["value"]
    names = [_type(region), "labels", *(key for key in value if str(key).endswith("labels"))]
    for name in names:
        labels = value.get(name)
        if isinstance(labels, Sequence) and not isinstance(labels, str) and labels and isinstance(labels[0], str):
            return clean_text(labels[0])
    return ""


def _positive(region: Mapping[str, Any]) -> bool:
    """Label Studio's classic sign is the region's ``is_positive``, that of 2026 the value's; absent is positive."""
    for sign in (region.get("is_positive"), region["value"].get("positive"), region["value"].get("is_positive")):
        if sign is not None:
            return not (sign in (False, 0) or (isinstance(sign, str) and sign.strip().lower() in ("false", "0", "no")))
    return True


def _point(value: Mapping[str, Any], height: int, width: int) -> tuple[float, float]:
    x, y = (_number(value.get(key), f"a point's {key}") for key in ("x", "y"))
    if not (0.0 <= x <= 100.0 and 0.0 <= y <= 100.0):
        raise ValueError("a point lies outside the image")
    return min(x * width / 100.0, width - 0.5), min(y * height / 100.0, height - 0.5)


def _painted(region: Mapping[str, Any], height: int, width: int) -> Mask:
    mask = decode_region({"original_height": height, "original_width": width, **region}, (height, width))
    if not mask.any():
        raise ValueError("a brush stroke is empty")
    return mask


def _offered(control: Control, name: str) -> Label | None:
    """The control's label of that name: as results carry it, else its value, else in another case."""
    ranks = [
        0 if label.output == name else 1 if label.value == name else 2 if name and label.means(name) else 3
        for label in control.labels
    ]
    best = min(ranks, default=3)
    return control.labels[ranks.index(best)] if best < 3 else None


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is not a finite number")
    return float(value)
