"""What the random models are made to answer, so that every stage does the work that it does with real ones.

Weights drawn at random name nothing, find nothing and segment noise. ``rig`` puts given answers in the places where the
networks' outputs leave the networks; everything before (the passes themselves) and after (decoding, parsing, resizing,
selection) is the shipped code at its real sizes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from int_model.core.config import VlmConfig
from int_model.core.task_prompt import TaskPrompt, inpaint_negative, inpaint_positive
from int_model.models.suite import ModelSuite
from int_model.point_prompting.spatial_clip import TEMPLATES

TASK = TaskPrompt("camouflaged animal")
NAMES = ("leaf moth", "gecko", "stick insect")
ENVIRONMENT = "tree bark"
CAPTION = (
    "The image shows a small animal that sits on the rough bark of an old tree, whose grey and brown pattern it "
    "resembles so closely that only the outline of its wings tells it from the bark."
)
BOXES = {"unit": "[0.31, 0.22, 0.68, 0.71]", "thousand": "[310, 220, 680, 710]"}
CAPTION_TOKENS = VlmConfig().caption_tokens
OBJECTS = ((0.3, 0.3, 0.24, 0.28), (0.7, 0.35, 0.2, 0.24), (0.4, 0.72, 0.26, 0.22), (0.78, 0.76, 0.18, 0.2))
"""Boxes that the detector finds, as (cx, cy, w, h) in parts of the image."""
SENTENCES = [
    *(text for text in TASK.dialogue),
    TASK.score_question(NAMES),
    CAPTION,
    *(f"{name}" for name in NAMES),
    *(inpaint_positive(ENVIRONMENT), *(inpaint_negative(name, TASK) for name in NAMES)),
    *(template.format(name) for template in TEMPLATES["ensemble"] for name in (*NAMES, ENVIRONMENT)),
    "USER: ASSISTANT: user assistant",
]


def rig(suite: ModelSuite) -> None:
    """Give the suite's networks the script's answers (in place). Once for a set of networks."""
    _rig_generate(suite.vlm)
    _rig_detector(suite.detector._model)  # type: ignore[attr-defined]
    _rig_segmenter(suite.segmenter.model)  # type: ignore[attr-defined]


def rig_dialogues(vlm: Any) -> None:
    """The same for dialogues on a kept cache; once for every adapter."""
    begin, end, views = vlm._begin, _end(vlm), itertools.count()

    def scripted(images: Any, texts: Any) -> Any:
        talk = begin(images, texts)
        own = [next(views) for _ in images]

        def choose(logits: Tensor, step: int) -> Tensor:
            rows = _answers(vlm, talk.turn, own)
            return torch.tensor([_at(row, step, end) for row in rows], device=logits.device)

        if talk is not None:
            talk.choose = choose
        return talk

    vlm._begin = scripted


def _answers(vlm: Any, turn: int, views: Sequence[int]) -> list[list[int]]:
    """What is said in a turn about each of the views, which are counted through, as token ids."""
    box = BOXES["thousand" if vlm.frame.units == "thousand" else "unit"]
    texts = [(CAPTION, NAMES[view % len(NAMES)], ENVIRONMENT, box)[turn] for view in views]
    return [vlm._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _at(row: Sequence[int], step: int, end: int) -> int:
    return row[step] if step < len(row) else end


def _end(vlm: Any) -> int:
    end = vlm._model.generation_config.eos_token_id
    return int(end[0] if isinstance(end, list) else end)


class _Said(LogitsProcessor):  # type: ignore[misc]
    """Makes greedy decoding say the given ids, row by row, and then the end token."""

    def __init__(self, rows: Sequence[Sequence[int]], end: int) -> None:
        self._rows, self._end, self._step = rows, end, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        step, self._step = self._step, self._step + 1
        said = [_at(row, step, self._end) for row in self._rows]
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter(1, torch.tensor(said, device=scores.device)[:, None], 0.0)


def _rig_generate(vlm: Any) -> None:
    model, generate, counter = vlm._model, vlm._model.generate, itertools.count()
    state: dict[str, Any] = {"turn": 0, "views": []}

    def said(*arguments: Any, logits_processor: Any = None, generation_config: Any, **options: Any) -> Any:
        inputs = options.get("inputs_embeds", options.get("input_ids"))
        state["turn"] += 1
        if generation_config.max_new_tokens == CAPTION_TOKENS:  # with it a dialogue begins
            state["turn"], state["views"] = 0, [next(counter) for _ in range(inputs.shape[0])]
        rows = _answers(vlm, state["turn"], state["views"])
        processors = LogitsProcessorList([*(logits_processor or []), _Said(rows, _end(vlm))])
        return generate(*arguments, logits_processor=processors, generation_config=generation_config, **options)

    model.generate = said


def _rig_detector(model: Any) -> None:
    def found(_module: Any, _arguments: Any, out: Any) -> Any:
        out.logits.fill_(-10.0)
        confidence = torch.tensor([2.0 - 0.1 * rank for rank in range(len(OBJECTS))])
        out.logits[:, : len(OBJECTS), min(1, out.logits.shape[2] - 1)] = confidence.to(out.logits)
        out.pred_boxes[:, : len(OBJECTS)] = torch.tensor(OBJECTS).to(out.pred_boxes)
        return out

    model.register_forward_hook(found)


def _rig_segmenter(model: Any) -> None:
    """Discs that stand where the objects are, and move a little with every call, so that X' is made anew each time."""
    calls = [0]

    def drawn(_module: Any, _arguments: Any, out: Any) -> Any:
        low, iou, *rest = out
        rows, side = low.shape[0], low.shape[-1]
        calls[0] += 1
        shift = 0.06 * math.sin(2.0 * calls[0])
        centres = torch.tensor([OBJECTS[row % len(OBJECTS)] for row in range(rows)]).to(low)
        axis = (torch.arange(side, device=low.device, dtype=low.dtype) + 0.5) / side
        dx = (axis[None, None, :] - centres[:, 0, None, None] - shift) / (centres[:, 2, None, None] / 2)
        dy = (axis[None, :, None] - centres[:, 1, None, None]) / (centres[:, 3, None, None] / 2)
        discs = 8 * (1 - dx**2 - dy**2).clamp(min=-4)
        return (discs[:, None, None].expand_as(low).contiguous(), iou, *rest)

    model.mask_decoder.register_forward_hook(drawn)
