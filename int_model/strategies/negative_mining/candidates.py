"""From the VLM's answers to candidate names, environments and boxes (paper, module HCG)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Candidate, Patch
from int_model.models.protocols import CoordinateFrame
from int_model.strategies.negative_mining.patches import from_square, square_frame

NO_ENVIRONMENT = "background"
"""The environment where the VLM gave none, or named the object itself."""

_ARTICLES = frozenset({"a", "an", "the", "some", "this", "that", "its", "one"})
_NEGATIVE = frozenset({"none", "unknown", "unclear", "unsure", "n/a", "na", "null", "invisible", "empty"})
_GENERIC = frozenset({"object", "thing", "image", "picture", "photo", "patch", "yes", "something", "it", "item"})
_CLAUSE = re.compile(
    r"[.,;:!?()\[\]\n]|\s(?:in|on|at|with|that|which|who|near|among|amongst|under|behind|by|of|from|against|inside|"
    r"sitting|hiding|standing|lying|resting|camouflaged|hidden|blending|or|and|is|are|was|has)\s",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"\b(?:is|are|it's|was|be|called|named)\s+(?:an?|the|called|likely|probably)\s+|\bnamed?\b[^.]*?\bis\s+",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"\b(?:no|not|none|nothing|cannot|can't|unable)\b", re.IGNORECASE)
_UNSEEN = frozenset({"camouflaged", "hidden", "concealed", "disguised", "blending"})  # says nothing about what it is
_QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]+)[\"“”«»]")
_NUMBER = r"(?<![\w.])-?(?:\d+(?:\.\d*)?|\.\d+)(?!\.?\w|%)"
_GROUP = re.compile(rf"[\[(<{{]\s*({_NUMBER}(?:[\s,;]+{_NUMBER}){{3}})\s*[\])>}}]")
_TRIM = " \t\n'`*_.,;:!?()[]"
_MAX_WORDS = 3
_THINNEST = 0.5  # pixels: what is thinner is no box


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """What the dialogues with all K patches gave.

    Attributes:
        candidates: one per patch that has a usable name, in patch order.
        names: the U distinct names, in order of first appearance.
        boxes: per patch the VLM's box (image pixels) or None; kept even where the name was of no use.
        captions: per patch.
        reason: why there are no candidates; empty if there are some.
    """

    candidates: tuple[Candidate, ...]
    names: tuple[str, ...]
    boxes: tuple[Box | None, ...]
    captions: tuple[str, ...]
    reason: str = ""

    def of_patch(self, patch: int) -> Candidate | None:
        """The candidate of a patch, or None."""
        return next((c for c in self.candidates if c.patch == patch), None)

    def environment_of(self, patch: int, name: str) -> str:
        """The environment to contrast ``name`` with: the patch's, else the commonest one that is not the name."""
        own = self.of_patch(patch)
        said = [own.environment] if own else []
        others = [c.environment for c in self.candidates]
        usable = [
            e for e in [*said, *sorted(others, key=others.count, reverse=True)] if e not in (name, NO_ENVIRONMENT)
        ]
        return usable[0] if usable else NO_ENVIRONMENT


def collect_candidates(
    patches: Sequence[Patch],
    answers: Sequence[Sequence[str]],
    task: TaskPrompt,
    frame: CoordinateFrame,
    negative_answer: Literal["task", "abstain"] = "task",
) -> CandidateSet:
    """Candidates from the four answers (caption, name, environment, box) of each patch.

    A patch keeps its name when its box is unusable, and its box when its name is. Names that are no names (the task
    prompt itself, "animal", "object") count only if there is no better one; if all that was said is "none", the task
    prompt stands in for the name, or, with ``negative_answer="abstain"``, there are no candidates.
    """
    parsed = [parse_name(turns[1]) for turns in answers]
    ranks = [_rank(name, task) for name in parsed]
    best = min(ranks, default=_EMPTY)
    boxes = tuple(_image_box(p, turns[3], frame) for p, turns in zip(patches, answers, strict=True))
    captions = tuple(turns[0].strip() for turns in answers)
    if best == _EMPTY:
        return CandidateSet((), (), boxes, captions, f"the vision-language model named no {task.text}")
    if best == _NONE and negative_answer == "abstain":
        return CandidateSet((), (), boxes, captions, f"the vision-language model sees no {task.text}")
    candidates: list[Candidate] = []
    for k, turns in enumerate(answers):
        if ranks[k] != best:
            continue
        name = task.text.lower() if best == _NONE else parsed[k]
        environment = parse_name(turns[2])
        if environment == name or _rank(environment, task) != _PROPER:
            environment = NO_ENVIRONMENT
        candidates.append(Candidate(patches[k].index, name, environment, captions[k], boxes[k], tuple(turns)))
    names = tuple(dict.fromkeys(c.name for c in candidates))
    return CandidateSet(tuple(candidates), names, boxes, captions)


_PROPER, _VAGUE, _NONE, _EMPTY = range(4)


def _rank(name: str, task: TaskPrompt) -> int:
    """How much a parsed name is worth; lower is better."""
    words = name.split()
    if not words:
        return _EMPTY
    if words[0] in _NEGATIVE:
        return _NONE
    whole = task.text.lower()
    if name in _GENERIC or _singular(name) in {_singular(whole), _singular(whole.split()[-1])}:
        return _VAGUE
    return _PROPER


def is_proper(name: str, task: TaskPrompt) -> bool:
    """Whether a parsed name says more than the task prompt does."""
    return _rank(name, task) == _PROPER


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def parse_name(answer: str) -> str:
    """The name in an answer: lower case, at most three words, no article, no punctuation; "" if there is none.

    What stands in quotation marks wins; else what follows "is a"/"is an"; else the beginning of the answer. The
    first clause counts.
    """
    text = re.sub(r"</?[a-z_|]+>", " ", answer).strip()
    quoted = _QUOTED.search(text)
    if quoted:
        text = quoted.group(1)
    else:
        text = re.sub(r"^\s*(?:answer|name|object|environment)\s*[:\-]\s*", "", text, flags=re.IGNORECASE)
        copula = _COPULA.search(text)
        if copula and copula.end() < len(text):
            text = text[copula.end() :]
        elif _DENIAL.search(text):
            return "none"
    clause = _CLAUSE.split(_without_lead(text.strip(_TRIM)), maxsplit=1)[0]
    plain = re.sub(r"[^\w\s/'-]", " ", clause.lower())
    words = [word for word in (part.strip("'-_/") for part in plain.split()) if word]
    return " ".join(words[-_MAX_WORDS:])  # the head noun comes last


def _without_lead(text: str) -> str:
    """The text without articles at its start, and without "camouflaged" or the like where a noun follows."""
    words = text.split()
    while words and words[0].lower() in _ARTICLES:
        words = words[1:]
    while len(words) > 1 and words[0].lower() in _UNSEEN:
        words = words[1:]
    return " ".join(words)


def parse_boxes(answer: str, frame: CoordinateFrame, height: int, width: int) -> list[Box]:
    """The boxes in an answer about a patch of that size, in patch pixels, clipped.

    Every bracketed group of four numbers is a box; without brackets the answer must hold exactly four numbers.
    Corners may come in any order; integers, 0-1000 and pixel scales are understood (``frame.units``). Boxes without
    area (the echo ``[0, 0, 0, 0]``) or outside the patch are left out.
    """
    groups = [re.findall(_NUMBER, group) for group in _GROUP.findall(answer)]
    if not groups:
        numbers = re.findall(_NUMBER, answer)
        groups = [numbers] if len(numbers) == 4 else []
    boxes = [_read_box([float(n) for n in group], frame, height, width) for group in groups]
    return [box for box in boxes if box is not None]


def _read_box(values: Sequence[float], frame: CoordinateFrame, height: int, width: int) -> Box | None:
    if not all(math.isfinite(v) for v in values):
        return None
    side = square_frame(height, width)[0]
    seen_h, seen_w = (side, side) if frame.padded else (height, width)
    unit = _unit(values, frame, seen_h, seen_w)
    sx, sy = {"unit": (seen_w, seen_h), "thousand": (seen_w / 1000, seen_h / 1000), "pixel": (1.0, 1.0)}[unit]
    x1, x2 = sorted((values[0] * sx, values[2] * sx))
    y1, y2 = sorted((values[1] * sy, values[3] * sy))
    if x1 >= x2 or y1 >= y2:
        return None
    box = Box(x1, y1, x2, y2)
    inside = from_square(box, height, width) if frame.padded else box.clip(height, width)
    return None if inside is None or min(inside.width, inside.height) < _THINNEST else inside


def _unit(values: Sequence[float], frame: CoordinateFrame, seen_h: int, seen_w: int) -> str:
    if frame.units != "auto":
        return frame.units
    largest = max(values)
    if largest <= 1 or (largest < 2 and any(v != int(v) for v in values)):  # a model may overshoot 1; clipped later
        return "unit"
    fits = max(values[0], values[2]) <= seen_w and max(values[1], values[3]) <= seen_h
    return "pixel" if fits or largest > 1000 else "thousand"


def _image_box(patch: Patch, answer: str, frame: CoordinateFrame) -> Box | None:
    """The patch's box in image pixels; of several the box around all, as the question asks for all objects."""
    boxes = [patch.to_image(box) for box in parse_boxes(answer, frame, *patch.size)]
    if not boxes:
        return None
    xs1, ys1, xs2, ys2 = zip(*(box.as_tuple() for box in boxes), strict=True)
    return Box(min(xs1), min(ys1), max(xs2), max(ys2))
