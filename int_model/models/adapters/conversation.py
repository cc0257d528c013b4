"""Greedy dialogues on one key-value cache: a later turn reads only what is new since the turn before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from int_model.models.adapters.reading import Read, Reader

Ids = list[int]


class Conversation:
    """A batch of dialogues with one model.

    A later turn's prompt is tokenised as a whole, as if nothing were kept, and compared with what the model has read:
    only from the first token that differs on is it read again. Answers are therefore those of a full pass.

    Args:
        reader: of the model.
        read: the first prompts, with their images.
        prompts: the same prompts' token ids, the image's placeholder counted once.
        anchors: how many of each prompt's ids end with that placeholder.
        ends: tokens that end an answer.
        pad: fed to rows whose answer has ended; never attended to.
    """

    def __init__(
        self,
        reader: Reader,
        read: Read,
        prompts: Sequence[Ids],
        anchors: Sequence[int],
        ends: Sequence[int],
        pad: int,
    ) -> None:
        self._reader = reader
        self._anchors = anchors
        self._read = read
        self._seen: list[Ids] = [list(prompt) for prompt in prompts]
        self._ends = torch.tensor(list(ends), device=read.mask.device)
        self._pad = pad
        self.turn = 0

    def ask(self, prompts: Sequence[Ids]) -> bool:
        """Read the next turn's whole prompts, as in ``__init__``.

        False, and nothing is read, if one does not begin like the one before it, up to its image.
        """
        common = [min(_common(seen, prompt), len(prompt) - 1) for seen, prompt in zip(self._seen, prompts, strict=True)]
        if any(count < anchor for count, anchor in zip(common, self._anchors, strict=True)):
            return False
        dropped = [len(seen) - count for seen, count in zip(self._seen, common, strict=True)]
        texts = [prompt[count:] for prompt, count in zip(prompts, common, strict=True)]
        self._read = self._reader.go_on(self._read.without_last(dropped), texts)
        self._seen = [list(prompt) for prompt in prompts]
        self.turn += 1
        return True

    def answer(self, limit: int) -> tuple[list[Ids], list[bool]]:
        """The likeliest token, one after another, up to the end token or ``limit`` of them.

        Returns the answers without the end token, and whether each was ended by one.
        """
        said: list[Ids] = [[] for _ in self._seen]
        open_rows = torch.ones(len(said), dtype=torch.bool, device=self._read.mask.device)
        for step in range(limit):
            tokens = self.choose(self._read.logits, step)
            open_rows = open_rows & ~torch.isin(tokens, self._ends)
            for row, (token, alive) in enumerate(zip(tokens.tolist(), open_rows.tolist(), strict=True)):
                if alive:
                    said[row].append(token)
            if step + 1 == limit or not open_rows.any():
                break
            self._feed(torch.where(open_rows, tokens, self._pad), open_rows)
            for row, alive in enumerate(open_rows.tolist()):
                if alive:
                    self._seen[row].append(said[row][-1])
        return said, [not alive for alive in open_rows.tolist()]

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """The next token of each row, ``[B]``, from its logits ``[B, V]``."""
        del step
        return logits.argmax(dim=-1)

    def _feed(self, tokens: Tensor, open_rows: Tensor) -> None:
        mask = open_rows[:, None].to(self._read.mask)
        logits = self._reader.feed(self._read, tokens[:, None], mask)
        whole = torch.cat([self._read.mask, mask], dim=1)
        self._read = Read(self._read.cache, whole, logits[:, -1], self._read.offset)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for index, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return index
    return min(len(a), len(b))


def is_plain_greedy(config: Any) -> bool:
    """Whether a generation configuration asks for nothing but the likeliest token."""
    wanted = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id")
    numbers = (
        ("no_repeat_ngram_size", 0),
        ("min_length", 0),
        ("min_new_tokens", 0),
        ("encoder_repetition_penalty", 1.0),
    )
    return not any(getattr(config, name, None) for name in wanted) and all(
        getattr(config, name, None) in (None, neutral) for name, neutral in numbers
    )
