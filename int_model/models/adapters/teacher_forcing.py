"""Next-token logits along given answers, many answers to one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from int_model.models.adapters.reading import Read, Reader, with_positions
from int_model.models.adapters.vlm_inputs import VlmInputs
from int_model.models.device import in_batches

R = TypeVar("R")
Answer = tuple[int, ...]
Pick = Callable[[Tensor, Tensor], R]


class TeacherForcing:
    """Runs a causal vision-language model over prompts and their answers.

    With ``share_prefix`` the prompts (image and question) are prefilled once and the answers run as a batch on copies
    of the prompts' rows of the key-value cache; otherwise, or for models whose cache is not a plain one (sliding
    windows, recurrent layers), every (prompt, answer) pair is one full forward pass.

    Args:
        model: a ``...ForConditionalGeneration`` of transformers.
        share_prefix: see above.
        max_rows: most (prompt, answer) rows in one pass.
    """

    def __init__(self, model: Any, *, share_prefix: bool, max_rows: int) -> None:
        self._model = model
        self._reader = Reader(model)
        self._share = share_prefix
        self._max_rows = max_rows

    def run(
        self,
        build: Callable[[Sequence[int]], VlmInputs],
        answers: Sequence[Sequence[Answer]],
        pick: Pick[R],
        read: Callable[[], Read] | None = None,
    ) -> list[list[R]]:
        """``pick(logits [T, V], ids [T])`` for each answer, nested as ``answers``.

        Args:
            build: makes the left-padded batch of the prompts with the given indices (repetitions allowed).
            answers: for each prompt, its answers as token ids.
            pick: reduces one answer's logits, on the model's device, before the next ones are computed.
            read: gives the prompts as already read, in the place of ``build``.
        """
        rows = [(i, answer) for i, row in enumerate(answers) for answer in row]
        done = None
        if read is not None or self._share:
            known = self._reader.prefill(build(range(len(answers)))) if read is None else read()
            if known is None:
                self._share = False
            else:
                done = self._shared(known, rows, pick)
        if done is None:
            done = in_batches(rows, self._max_rows, lambda batch: self._full(build, batch, pick))
        results = iter(done)
        return [[next(results) for _ in row] for row in answers]

    def _shared(self, known: Read, rows: Sequence[tuple[int, Answer]], pick: Pick[R]) -> list[R]:
        def continued(batch: Sequence[tuple[int, Answer]]) -> list[R]:
            index = torch.tensor([i for i, _ in batch], device=known.mask.device)
            ids, mask = _right_padded([answer for _, answer in batch], known.mask.device)
            logits = known.logits[index][:, None]
            if ids.shape[1] > 1:
                more = self._reader.feed(self._reader.rows(known, index), ids[:, :-1], mask[:, :-1])
                logits = torch.cat([logits, more], dim=1)
            return [pick(logits[row, : len(answer)], ids[row, : len(answer)]) for row, (_, answer) in enumerate(batch)]

        return in_batches(rows, self._max_rows, continued)

    def _full(
        self, build: Callable[[Sequence[int]], VlmInputs], rows: Sequence[tuple[int, Answer]], pick: Pick[R]
    ) -> list[R]:
        prompts = build([i for i, _ in rows])
        ids, mask = _right_padded([answer for _, answer in rows], prompts.mask.device)
        logits = self._model(**with_positions(prompts.extended(ids, mask)), use_cache=False).logits
        before = prompts.mask.shape[1] - 1
        return [
            pick(logits[row, before : before + len(answer)], ids[row, : len(answer)])
            for row, (_, answer) in enumerate(rows)
        ]


def _right_padded(answers: Sequence[Answer], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids ``[B, T]`` filled up with 0, and their mask."""
    width = max(len(answer) for answer in answers)
    ids = torch.zeros((len(answers), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer)
        mask[row, : len(answer)] = 1
    return ids.to(device), mask.to(device)
