"""Words of referring expressions: the head noun, and which words say where, which colour, which size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

ARTICLES = frozenset({"a", "an", "the", "one", "this", "that"})
POSITIONS = frozenset(
    {"left", "right", "top", "bottom", "upper", "lower", "middle", "centre", "center"}
    | {"leftmost", "rightmost", "topmost", "bottommost", "first", "second", "third", "last"}
)
COLOURS = frozenset(
    {"red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown", "black", "white", "grey", "gray"}
)
SIZES = frozenset({"big", "bigger", "biggest", "large", "larger", "largest", "small", "smaller", "smallest", "tiny"})
_RELATION = re.compile(
    r"\b(?:next to|beside|near(?:est)?(?: to)?|close(?:st)? to|on|in|at|under|below|above|over|behind|"
    r"in front of|between|with|to the|that|which|who|of|from|wearing|holding)\b"
)


def head_noun(expression: str) -> str:
    """The expression without what only tells its referent from others of its kind: ``the left fish`` -> ``fish``.

    A rule list for English, no parser: articles, colours, sizes and positions go, and all from the first relation on.
    Where nothing would be left, the expression stays as it is (lower case).
    """
    lowered = " ".join(expression.lower().replace(",", " ").rstrip(".").split())
    words = [word for word in re.findall(r"[^\s]+", lowered) if word not in ARTICLES]
    head = _RELATION.split(" ".join(words), maxsplit=1)[0].split()
    kept = [word for word in head if word not in POSITIONS | COLOURS | SIZES]
    return " ".join(kept or head) or lowered


def colour_of(expression: str) -> str:
    """The first colour word in the expression, or an empty text."""
    return next((word for word in re.findall(r"[a-z]+", expression.lower()) if word in COLOURS), "")


Kind = Literal["name", "attribute", "place", "size", "neighbour"]


@dataclass(frozen=True, slots=True)
class Described:
    """A thing as expressions see it: noun, attribute or "", centre (x, y) in [0, 1], share of the image's area."""

    noun: str
    attribute: str
    centre: tuple[float, float]
    area: float


def singling_out(number: int, things: Sequence[Described]) -> Iterator[tuple[Kind, str]]:
    """Expressions that are true of ``things[number]`` and of no other: name, attribute, place, size, neighbour."""
    thing = things[number]
    others = [other for i, other in enumerate(things) if i != number]
    alike = [other for other in others if other.noun == thing.noun]
    if not alike:
        yield "name", f"the {thing.noun}"
    if thing.attribute and not any(other.attribute in ("", thing.attribute) for other in alike):
        yield "attribute", f"the {thing.attribute} {thing.noun}"
    if not alike:
        return
    for axis, before, after in ((0, "left", "right"), (1, "top", "bottom")):
        offsets = [thing.centre[axis] - other.centre[axis] for other in alike]
        if max(offsets) < -0.18:
            yield "place", f"the {before} {thing.noun}"
        elif min(offsets) > 0.18:
            yield "place", f"the {after} {thing.noun}"
    sizes = [thing.area / other.area for other in alike]
    if min(sizes) > 1.7:
        yield "size", f"the big {thing.noun}"
    elif max(sizes) < 1 / 1.7:
        yield "size", f"the small {thing.noun}"
    for other in others:
        if sum(o.noun == other.noun for o in things) == 1:
            reach = math.dist(thing.centre, other.centre)
            if reach < 0.65 * min(math.dist(o.centre, other.centre) for o in alike):
                yield "neighbour", f"the {thing.noun} next to the {other.noun}"
