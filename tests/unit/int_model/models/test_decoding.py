"""Prompts are decoded a few at a time: how many, in which order, and what is handed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from int_model.core.types import Box
from int_model.models.decoding import best_in_chunks, decode_in_chunks
from int_model.models.protocols import BestMask, MaskPrompt, MaskProposal

SIZE = (20, 30)
PROMPTS = [MaskPrompt(box=Box(0, 0, 1 + i, 5)) for i in range(7)]


class Proposing:
    """Three alternatives for each prompt, the one in the middle the best; notes how many were asked for at once."""

    def __init__(self, lost: int = 0) -> None:
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self.lost = lost

    def encode(self, images: Any) -> Any:
        raise NotImplementedError

    def decode(self, embedding: Any, prompts: Sequence[MaskPrompt], **how: Any) -> list[MaskProposal]:
        assert embedding == "embedding"
        self.asked.append((len(prompts), how))
        made = [self.proposal(prompt) for prompt in prompts]
        return made[: len(made) - self.lost]

    @staticmethod
    def proposal(prompt: MaskPrompt) -> MaskProposal:
        assert prompt.box is not None
        logits = np.full((3, *SIZE), prompt.box.x2, np.float32) + np.arange(3, dtype=np.float32)[:, None, None]
        return MaskProposal(logits, logits[:, :5, :5], np.array([0.1, 0.9, 0.5]))


class Choosing(Proposing):
    """Chooses by itself."""

    def decode_best(self, embedding: Any, prompts: Sequence[MaskPrompt], **how: Any) -> list[BestMask]:
        return [proposal.chosen for proposal in self.decode(embedding, prompts, **how)]


def best(segmenter: Any, size: tuple[int, int] = SIZE, count: int = 7) -> list[BestMask]:
    how = {"multimask": True, "adapter": None, "label": "frog"}
    return list(best_in_chunks(segmenter, "embedding", PROMPTS[:count], size, **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segmenter", "budget", "groups"),
    [
        (Choosing, 600, [1] * 7),
        (Choosing, 1199, [1] * 7),
        (Choosing, 1200, [2, 2, 2, 1]),
        (Choosing, 599, [1] * 7),  # one prompt always goes
        (Choosing, 100_000, [7]),
        (Proposing, 1800, [1] * 7),  # three alternatives each
        (Proposing, 3599, [1] * 7),
        (Proposing, 3600, [2, 2, 2, 1]),
        (Proposing, 5, [1] * 7),
        (Proposing, 100_000, [7]),
    ],
)
def test_as_many_prompts_at_once_as_their_logits_fit(
    segmenter: type[Proposing], budget: int, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("int_model.models.decoding._BUDGET", budget)
    asked = segmenter()
    found = best(asked)
    assert [count for count, _ in asked.asked] == groups
    assert all(how == {"multimask": True, "adapter": None, "label": "frog"} for _, how in asked.asked)
    assert [float(one.logits[0, 0]) for one in found] == [prompt.box.x2 + 1 for prompt in PROMPTS if prompt.box]
    assert all(one.iou == 0.9 for one in found)


def test_the_budget_is_256_mib_of_float32() -> None:
    """A million prompts of 4096 x 4096 pixels: four at once, or one with its three alternatives."""
    asked = Choosing()
    best(asked, (4096, 4096))
    assert [count for count, _ in asked.asked] == [4, 3]
    asked = Proposing()
    best(asked, (4096, 4096), 2)
    best(asked, (2048, 4096), 3)
    assert [count for count, _ in asked.asked] == [1, 1, 2, 1]


@pytest.mark.parametrize("segmenter", [Choosing, Proposing])
def test_answers_that_are_missing_are_noticed(segmenter: type[Proposing]) -> None:
    with pytest.raises(RuntimeError, match="gave 6 results for 7 inputs"):
        best(segmenter(lost=1))
    assert best(segmenter(), count=0) == []


def test_proposals_come_one_by_one() -> None:
    asked = Proposing()
    proposals = decode_in_chunks(asked, "embedding", PROMPTS, (4096, 4096), multimask=False, adapter=None, label="")  # type: ignore[arg-type]
    next(proposals)
    assert len(asked.asked) == 1, "no more is decoded than was taken"
