"""Reading on from kept keys and values, and contrastive decoding, against full passes of a tiny language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from int_model.models.adapters.contrastive import ContrastBranch
from int_model.models.adapters.reading import Reader, with_positions
from int_model.models.adapters.teacher_forcing import TeacherForcing
from int_model.models.adapters.vlm_inputs import VlmInputs

PROMPTS = ((7, 3, 9, 4, 11), (5, 8), (6, 2, 13))
ANSWERS = (((21, 22, 23), (24,)), ((25, 26),), ((27,), (28, 29, 30, 31), (21,)))
SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    made: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.4)).eval()
    return made.requires_grad_(False)


@pytest.fixture
def passes(model: LlamaForCausalLM) -> Iterator[list[tuple[int, int]]]:
    """Rows and columns of the ids of each pass through the model."""
    seen: list[tuple[int, int]] = []
    hook = model.model.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def batch(indices: Sequence[int] = (0, 1, 2)) -> VlmInputs:
    """The prompts, left-padded."""
    width = max(len(PROMPTS[i]) for i in indices)
    ids = torch.tensor([[0] * (width - len(PROMPTS[i])) + list(PROMPTS[i]) for i in indices])
    return VlmInputs({"input_ids": ids, "attention_mask": (ids > 0).long()})


def naive(model: torch.nn.Module, *texts: Sequence[int]) -> Tensor:
    """Logits ``[T, V]`` of one row, unpadded, in one pass."""
    ids = torch.tensor([[token for text in texts for token in text]])
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def answered(model: torch.nn.Module) -> list[list[Tensor]]:
    """The logits before each answer's tokens, by full passes."""
    return [
        [naive(model, prompt, answer)[len(prompt) - 1 : -1] for answer in own]
        for prompt, own in zip(PROMPTS, ANSWERS, strict=True)
    ]


def keep_both(logits: Tensor, ids: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    return logits.clone(), tuple(ids.tolist())


def check(found: list[list[tuple[Tensor, tuple[int, ...]]]], expected: list[list[Tensor]]) -> None:
    assert [[ids for _, ids in row] for row in found] == [list(row) for row in ANSWERS]
    for row, own in zip(found, expected, strict=True):
        for (logits, _), theirs in zip(row, own, strict=True):
            torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------ answers to prompts


@pytest.mark.parametrize(
    ("share", "rows", "expected"),
    [
        (True, 6, [(3, 5), (6, 3)]),  # the prompts once; all answers but their last tokens
        (True, 2, [(3, 5), (2, 2), (2, 1), (2, 3)]),
        (False, 6, [(6, 9)]),
        (False, 4, [(4, 8), (2, 7)]),
    ],
)
def test_a_prompt_is_read_once_for_all_its_answers_or_again_for_each(
    model: LlamaForCausalLM, passes: list[tuple[int, int]], share: bool, rows: int, expected: list[tuple[int, int]]
) -> None:
    found = TeacherForcing(model, share_prefix=share, max_rows=rows).run(batch, ANSWERS, keep_both)
    told = list(passes)
    check(found, answered(model))
    assert told == expected


def test_answers_of_one_token_cost_no_pass_of_their_own(model: LlamaForCausalLM, passes: list[tuple[int, int]]) -> None:
    found = TeacherForcing(model, share_prefix=True, max_rows=8).run(batch, [[(21,), (22,)], [(23,)], []], keep_both)
    assert passes == [(3, 5)]
    torch.testing.assert_close(found[1][0][0], naive(model, PROMPTS[1])[-1:], atol=1e-4, rtol=1e-4)


def test_a_model_with_a_sliding_window_is_never_gone_on_from_and_asked_that_once(
    passes: list[tuple[int, int]],
) -> None:
    """Its cache forgets what lies outside the window, so that answers on copies of it would be wrong."""
    torch.manual_seed(4)
    sliding = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=3, initializer_range=0.4)).eval()
    sliding.requires_grad_(False)
    seen: list[tuple[int, int]] = []
    sliding.model.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    forcing = TeacherForcing(sliding, share_prefix=True, max_rows=6)
    first = forcing.run(batch, ANSWERS, keep_both)
    again = forcing.run(batch, ANSWERS, keep_both)
    assert seen == [(3, 5), (6, 9), (6, 9)]
    check(first, answered(sliding))
    check(again, answered(sliding))
    assert not passes


@pytest.mark.parametrize("share", [True, False])
def test_prompts_that_are_read_already_are_not_built_again(model: LlamaForCausalLM, share: bool) -> None:
    reader = Reader(model)

    def build(_indices: Sequence[int]) -> VlmInputs:
        raise AssertionError("the prompts have been read")

    known = reader.prefill(batch())
    assert known is not None
    found = TeacherForcing(model, share_prefix=share, max_rows=6).run(build, ANSWERS, keep_both, lambda: known)
    check(found, answered(model))


# ------------------------------------------------------------------ reading on


def test_what_is_read_on_is_as_if_read_at_once(model: LlamaForCausalLM) -> None:
    reader = Reader(model)
    read = reader.prefill(batch())
    assert read is not None
    assert read.offset is None
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(read.logits[row], naive(model, prompt)[-1], atol=1e-4, rtol=1e-4)
    more = [(15,), (15, 16), (15, 16, 17)]
    further = reader.go_on(read, more)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(further.logits[row], naive(model, prompt, more[row])[-1], atol=1e-4, rtol=1e-4)
    assert further.mask.sum(dim=1).tolist() == [6, 4, 6]
    back = further.without_last([1, 1, 2])
    assert back.mask.sum(dim=1).tolist() == [5, 3, 4]
    assert further.mask.sum(dim=1).tolist() == [6, 4, 6], "the rows before are left as they were"
    other = reader.go_on(back, [(19, 20)] * 3)
    for row, (prompt, kept) in enumerate(zip(PROMPTS, (0, 1, 1), strict=True)):
        expected = naive(model, prompt, more[row][:kept], (19, 20))[-1]
        torch.testing.assert_close(other.logits[row], expected, atol=1e-4, rtol=1e-4)


def test_beginnings_that_are_kept_make_a_new_batch(model: LlamaForCausalLM) -> None:
    reader = Reader(model)
    read = reader.prefill(batch())
    assert read is not None
    tokens = (4, 1, 3)
    kept = [reader.keep(read, row, count) for row, count in enumerate(tokens)]
    for part, count in zip(kept, tokens, strict=True):
        assert part.nbytes == Reader.size(read, count) == 2 * 2 * count * 8 * 4  # layers, keys and values, width
    texts = [(30, 31), (32,), (33, 34, 35)]
    joined = reader.join(kept, texts)
    for row, (prompt, count, text) in enumerate(zip(PROMPTS, tokens, texts, strict=True)):
        expected = naive(model, prompt[:count], text)[-1]
        torch.testing.assert_close(joined.logits[row], expected, atol=1e-4, rtol=1e-4)
    assert joined.mask.sum(dim=1).tolist() == [6, 2, 6]


def test_rows_may_be_repeated_and_leave_the_cache_alone(model: LlamaForCausalLM) -> None:
    reader = Reader(model)
    read = reader.prefill(batch())
    assert read is not None
    before = read.cache.layers[0].keys.clone()
    twice = reader.rows(read, torch.tensor([2, 0, 2]))
    further = reader.go_on(twice, [(15,), (16,), (17, 18)])
    for row, (index, text) in enumerate([(2, (15,)), (0, (16,)), (2, (17, 18))]):
        expected = naive(model, PROMPTS[index], text)[-1]
        torch.testing.assert_close(further.logits[row], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(read.cache.layers[0].keys, before)


def test_padding_shifts_no_position() -> None:
    positions = with_positions(batch())["position_ids"]
    assert positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1], [0, 0, 0, 1, 2]]
    grids = VlmInputs({**batch().tensors, "image_grid_thw": torch.ones(1, 3)})
    assert "position_ids" not in with_positions(grids), "such a model computes its own"


class Grids(torch.nn.Module):
    """As Qwen-VL: an image's tokens share positions, so that what follows is ``deltas`` before its place in the row."""

    def __init__(self, inner: LlamaForCausalLM, deltas: Tensor | None, *, tells: bool) -> None:
        super().__init__()
        self._inner = inner
        self._told = deltas if tells else None
        self.model = SimpleNamespace(rope_deltas=None if tells else deltas)
        self.positions: list[Tensor | None] = []

    def forward(self, *, image_grid_thw: Tensor | None = None, position_ids: Tensor | None = None, **named: Any) -> Any:
        del image_grid_thw
        self.positions.append(position_ids)
        out = self._inner(**named)
        if self._told is not None:
            out.rope_deltas = self._told
        return out


@pytest.mark.parametrize("tells", [True, False])
def test_a_model_that_counts_in_two_dimensions_goes_on_where_it_says(model: LlamaForCausalLM, tells: bool) -> None:
    """Depending on the version of transformers the offset is in what the model returns, or on the model."""
    seen = VlmInputs({**batch().tensors, "image_grid_thw": torch.ones(3, 3)})
    grids = Grids(model, torch.tensor([[-2], [0], [-1]]), tells=tells)
    reader = Reader(grids)
    read = reader.prefill(seen)
    assert read is not None, "it can be gone on from like any other"
    assert read.offset is not None
    assert read.offset.tolist() == [[-2], [0], [-1]]
    reader.go_on(read, [(15, 16), (17,), (18, 19)])
    assert grids.positions[0] is None, "of a prompt it computes its own positions"
    assert grids.positions[1] is not None
    assert grids.positions[1].tolist() == [[[3, 4], [1, 2], [2, 3]]] * 3  # a padded column's is never read
    again = reader.prefill(seen)
    assert again is not None
    kept = [reader.keep(again, row, 2) for row in (0, 2)]
    joined = reader.join(kept, [(20,), (21, 22)])
    assert joined.offset is not None
    assert joined.offset.tolist() == [[-2], [-1]]
    assert grids.positions[-1] is not None
    assert grids.positions[-1][0, :, -1].tolist() == [0, 2]
    assert reader.rows(again, torch.tensor([2, 2, 0])).offset.tolist() == [[-1], [-1], [-2]]  # type: ignore[union-attr]


def test_a_model_that_does_not_say_where_it_is_is_not_gone_on_from(model: LlamaForCausalLM) -> None:
    seen = VlmInputs({**batch().tensors, "image_grid_thw": torch.ones(3, 3)})
    assert Reader(Grids(model, None, tells=True)).prefill(seen) is None


# ------------------------------------------------------------------ contrastive decoding

OTHERS = ((8, 3, 9, 4, 11, 12), (5, 9), (6,))


@pytest.mark.parametrize("skip", [0, 5])
@pytest.mark.parametrize(("alpha", "plausible"), [(0.0, 0.0), (0.5, 0.0), (2.0, 0.1), (1.0, 1.0)])
def test_each_step_is_the_contrast_of_two_full_passes(
    model: LlamaForCausalLM, passes: list[tuple[int, int]], alpha: float, plausible: float, skip: int
) -> None:
    """ProMaC's eq. 3, and tokens below ``plausible`` times the likeliest one's probability under X are out."""
    ids = torch.tensor([[0] * (6 - len(row)) + list(row) for row in OTHERS])
    inputs = VlmInputs({"input_ids": ids, "attention_mask": (ids > 0).long()})
    branch = ContrastBranch(model, inputs, skip=skip, alpha=alpha, plausible=plausible)
    prompt = batch().ids[:, :skip]
    said = torch.zeros((3, 0), dtype=torch.long)
    for step in range(4):
        scores = torch.stack([naive(model, own, said[row].tolist())[-1] for row, own in enumerate(PROMPTS)])
        other = torch.stack([naive(model, own, said[row].tolist())[-1] for row, own in enumerate(OTHERS)])
        passes.clear()
        found = branch(torch.cat([prompt, said], dim=1), scores)
        assert passes == [(3, 6 if step == 0 else 1)], "a step reads only the token that is new"
        chances = torch.softmax(scores, dim=-1)
        out = chances < plausible * chances.amax(dim=-1, keepdim=True)
        torch.testing.assert_close(
            found, ((1 + alpha) * scores - alpha * other).masked_fill(out, -torch.inf), atol=1e-3, rtol=1e-3
        )
        assert (found > -torch.inf).any(dim=1).all(), "the likeliest token may always be chosen"
        said = torch.cat([said, found.argmax(dim=-1, keepdim=True)], dim=1)


def test_only_the_last_column_of_logits_is_computed(model: LlamaForCausalLM) -> None:
    """Over a vocabulary of 150,000 the logits of a whole prompt would take gigabytes."""
    shapes: list[tuple[int, ...]] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _given, out: shapes.append(tuple(out.shape)))
    inputs = batch()
    branch = ContrastBranch(model, inputs, skip=0, alpha=1.0, plausible=0.0)
    branch(torch.zeros((3, 0), dtype=torch.long), torch.zeros(3, 40))
    reader = Reader(model)
    read = reader.prefill(inputs)
    assert read is not None
    reader.go_on(read, [(1, 2), (3,), (4,)])
    hook.remove()
    assert shapes == [(3, 1, 40)] * 3
