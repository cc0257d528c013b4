"""From the VLM's answers to candidate names, environments and boxes (paper, module HCG)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Candidate, Patch
from int_model.models.adapters.imaging import from_square, square_frame
from int_model.models.protocols import CoordinateFrame, was_cut

NO_ENVIRONMENT = "background"
"""The environment where the VLM gave none, or named the object itself."""

_ARTICLES = frozenset({"a", "an", "the", "some", "this", "that", "its", "one"})
_NEGATIVE = frozenset({"none", "unknown", "unclear", "unsure", "n/a", "na", "null", "invisible", "empty"})
_HYPERNYMS = frozenset(
    {
        *("animal", "object", "thing", "creature", "organism", "being", "entity", "item", "something", "it"),
        *("specimen", "subject", "target", "wildlife", "specie", "image", "picture", "photo", "patch"),
        *("name", "answer", "yes", "sure", "动物", "物体", "东西", "生物", "目标", "对象"),
    }
)
"""Nouns that say nothing about what it is. The noun of a task, such as polyp, is none of them."""
_UNSEEN = frozenset({"camouflaged", "hidden", "concealed", "disguised", "blending", "hiding", "unseen", "camouflage"})
_CLAUSE = re.compile(
    r"[.,;:!?()\[\]\n。，、；：！？（）]|\s(?:in|on|at|with|that|which|who|near|among|amongst|under|behind|by|of|from|against|"
    r"inside|sitting|hiding|standing|lying|resting|camouflaged|hidden|blending|or|and|is|are|was|has)\s",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"\b(?:(?:is|are|it's|that's|was|be|called|named|known\s+as|identified\s+as|looks?\s+like)\s+"
    r"(?:an?|the|called|named|likely|probably|possibly|most\s+likely)"
    r"|looks?\s+like|resembles|identified\s+as|known\s+as|(?:appears|seems)\s+to\s+be|(?:named?|answer)\b[^.]*?\bis|\b(?:is|are)\s*:)"
    r"(?:\s+|$)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^\s*(?:final answer|answer|name|object|animal|species|environment|答案|名称)\s*[:：]\s*", re.IGNORECASE
)
_OPENING = re.compile(r"^\s*(?:sure|certainly|of course|yes|okay|ok)\b[\s,!.:]+(?=\w)", re.IGNORECASE)
_KIND = re.compile(r"^(?:(?:possible|small|large)\s+)?(?:species|type|kind|sort)\s+of\s+", re.IGNORECASE)
_UNFINISHED = re.compile(r"^(?:name|answer)\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:no|not|none|nothing|cannot|can't|unable|don't|doesn't|isn't)\b|没有|无法|不存在|看不|未发现|^无$"
)
_HAN = re.compile(r"[\u4e00-\u9fff]")
_HAN_LEAD = re.compile(r"^[这那]?一?[只个条头匹种块处张片群]")
_QUOTED = re.compile(r"[\"“”«»「]([^\"“”«»「」]+)[\"“”«»」]")
_QUOTE = re.compile(r"[\"“«「]")
_JSON_NAME = re.compile(
    r"[\"'](?:name|label|sub_label|object|animal|class|category|answer|species|environment)[\"']\s*:\s*[\"']([^\"']+)[\"']"
)
_REFERENCE = re.compile(r"<(?:ref|\|object_ref_start\|)>(.*?)</?(?:ref|\|object_ref_end\|)>", re.DOTALL)
_BOXED = re.compile(r"<(?:box|\|box_start\|)>(.*?)</?(?:box|\|box_end\|)>", re.DOTALL)
_NUMBER = r"(?<![\w.])-?(?:\d+(?:\.\d*)?|\.\d+)(?!\.?\w|%)"
_GROUP = re.compile(rf"[\[(<{{]\s*({_NUMBER}(?:[\s,;]+{_NUMBER}){{3}})\s*[\])>}}]")
_CORNER = rf"[(\[]\s*{_NUMBER}\s*[,;\s]\s*{_NUMBER}\s*[)\]]"
_CORNERS = re.compile(rf"{_CORNER}[^\[\](){{}}\d]{{0,60}}{_CORNER}")
_OBJECT = re.compile(r"\{[^{}\[\]]*\}")
_SIDES = re.compile(r"\bw(?:idth)?[\"']?\s*[:=].*\bh(?:eight)?[\"']?\s*[:=]", re.IGNORECASE | re.DOTALL)
_CLOSING = {"]": "[", ")": "(", "}": "{"}
_TRIM = " \t\n'`*_.,;:!?()[]"
_MAX_WORDS = 3
_LAST_NUMBER = re.compile(r"[^\s,;]*$")
_LAST_WORD = re.compile(r"[^\s.,;:!?，。；：！？]*$")
_THINNEST = 0.5  # pixels: what is thinner is no box


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """What the dialogues with all K patches gave.

    Attributes:
        candidates: one per patch that has a usable name, in patch order.
        names: the U distinct names, by the number of patches that gave them, then in order of first appearance.
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

    A patch keeps its name when its box is unusable, and its box when its name is. Names that are no names
    ("animal", "object", with or without "camouflaged") count only if there is no better one; the noun of a task such as
    "polyp" is a name. If all that was said is "none", the task
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
    votes = Counter(c.name for c in candidates)
    names = tuple(name for name, _ in votes.most_common())  # between equals the first to appear
    return CandidateSet(tuple(candidates), names, boxes, captions)


_PROPER, _VAGUE, _NONE, _EMPTY = range(4)


def _rank(name: str, task: TaskPrompt) -> int:
    """How much a parsed name is worth; lower is better."""
    words = name.split()
    if not words:
        return _EMPTY
    if words[0] in _NEGATIVE:
        return _NONE
    *adjectives, noun = task.text.lower().split()
    idle = _UNSEEN | set(adjectives) if _singular(noun) in _HYPERNYMS else _UNSEEN
    telling = [word for word in words if word not in idle]
    return _VAGUE if not telling or (len(telling) == 1 and _singular(telling[0]) in _HYPERNYMS) else _PROPER


def is_proper(name: str, task: TaskPrompt) -> bool:
    """Whether a parsed name says what it is: more than a hypernym (animal, object) and adjectives of hiding."""
    return _rank(name, task) == _PROPER


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def parse_name(answer: str) -> str:
    """The name in an answer: lower case, at most three words, no article, no punctuation; "" if there is none.

    What a tag or JSON marks as a name wins, then what stands in quotation marks; else what follows "is a", "looks like"
    and the like; else the beginning of the answer. The first clause counts, and nothing after the first line. What the
    token limit cut before its name (an open quotation mark, "The name of the camouflaged") has no name; of an answer
    that did not end by itself (``Answer``) the last word, which may be half a word, is not read.
    """
    if was_cut(answer):
        answer = _LAST_WORD.sub("", answer)
    marked = _REFERENCE.search(answer) or _JSON_NAME.search(answer)
    if marked:
        text = marked.group(1)
    else:
        plain = re.sub(r"</?[a-z_|]+>", " ", _BOXED.sub(" ", answer)).replace("`" * 3, "").strip()
        if re.match(r"(?:json\b\s*)?(?:\{|\[\s*\{)", plain):
            return ""
        text = _said(_first_line(plain))
    clause = _CLAUSE.split(_without_lead(text.strip(_TRIM)), maxsplit=1)[0]
    if _HAN.search(clause):
        clause = _HAN_LEAD.sub("", clause.rpartition("是")[2]).rpartition("的")[2]
    words = [
        word for word in (part.strip("'-_/") for part in re.sub(r"[^\w\s/'-]", " ", clause.lower()).split()) if word
    ]
    return " ".join(words[-_MAX_WORDS:])  # the head noun comes last


def _first_line(text: str) -> str:
    """The first line that is not blank, without a bare name's second sentence; a heading gives way to what it heads."""
    first, _, rest = re.sub(r"[*_#]{2,}", "", text).strip().partition("\n")
    if rest.strip() and re.search(r"[:：]\s*$", first):
        return _first_line(rest)
    sentence = re.split(r"(?<=\w)[.!?。]\s", first, maxsplit=1)[0]
    return sentence if 0 < len(sentence.split()) <= _MAX_WORDS and not _OPENING.match(first) else first


def _said(text: str) -> str:
    """The part of a sentence that names something; "none" for a denial, "" for a sentence cut before its name."""
    quoted = _QUOTED.search(text)
    if quoted:
        return quoted.group(1)
    if _QUOTE.search(text):
        return ""
    text = _LABEL.sub("", _OPENING.sub("", text))
    copula = _COPULA.search(text)
    rest = text[copula.end() :] if copula else text
    if _DENIAL.search(rest.lower() if copula is None else rest.lower()[:12]):
        return "none"
    rest = _KIND.sub("", _without_lead(rest.strip(_TRIM)))
    return "" if copula is None and _UNFINISHED.match(rest) else rest


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

    Every bracketed group of four numbers is a box, and every pair of bracketed corners; without them the answer must
    hold exactly four numbers. A bracket that is never closed was cut by the token limit: what it holds is no box; nor
    are four bare numbers at which an answer that did not end by itself (``Answer``) breaks off.
    Corners may come in any order; integers, 0-1000 and pixel scales are understood (``frame.units``); between box tags
    ``auto`` means 0-1000, as in Qwen-VL and InternVL. Boxes without area (the echo ``[0, 0, 0, 0]``) or outside the
    patch are left out.
    """
    if frame.units == "auto" and "box" in answer:
        frame = CoordinateFrame(frame.padded, "thousand") if _in_thousandths(answer) else frame
    text = _LAST_NUMBER.sub("", answer) if was_cut(answer) and answer[-1:] not in _CLOSING else answer
    boxes = [_read_box(group, frame, height, width) for group in _groups(text)]
    return [box for box in boxes if box is not None]


def _in_thousandths(answer: str) -> bool:
    """Whether boxes stand between tags, in integers."""
    numbers = [float(n) for part in _BOXED.findall(answer) for n in re.findall(_NUMBER, part)]
    return any(n > 1 for n in numbers) and all(n == int(n) for n in numbers if math.isfinite(n))


def _groups(answer: str) -> list[list[float]]:
    """The fours of numbers in an answer: two corners each."""
    parts = _GROUP.findall(answer) or [match.group() for match in _CORNERS.finditer(answer)]
    if not parts:
        objects = [part for part in _OBJECT.findall(answer) if len(re.findall(_NUMBER, part)) == 4]
        parts = objects or [_closed(answer)]
    fours = [(part, re.findall(_NUMBER, part)) for part in parts]
    groups = []
    for part, numbers in fours:
        cut = len(numbers) == 4 and numbers[3].endswith(".") and any("." in n.rstrip(".") for n in numbers)
        if len(numbers) == 4 and not cut:
            x1, y1, x2, y2 = (float(n) for n in numbers)
            groups.append([x1, y1, x1 + x2, y1 + y2] if _SIDES.search(part) else [x1, y1, x2, y2])
    return groups


def _closed(answer: str) -> str:
    """The answer up to the first bracket that is never closed."""
    open_at: list[int] = []
    for at, sign in enumerate(answer):
        if sign in _CLOSING.values():
            open_at.append(at)
        elif sign in _CLOSING and open_at and answer[open_at[-1]] == _CLOSING[sign]:
            open_at.pop()
    return answer[: open_at[0]] if open_at else answer


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
