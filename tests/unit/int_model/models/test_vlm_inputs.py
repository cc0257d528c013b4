"""Batches of a vision-language model without a model: what is appended, how an image is fitted, the start token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from int_model.models.adapters.vlm_inputs import ImageFitting, VlmInputs, start_options


@pytest.mark.parametrize("name", ["token_type_ids", "mm_token_type_ids"])
def test_appended_text_is_of_the_type_text(name: str) -> None:
    """Gemma 3 and PaliGemma tell image from text by it; a type too few is an error, a wrong one another attention."""
    batch = VlmInputs(
        {
            "input_ids": torch.tensor([[1, 9, 5], [0, 9, 6]]),
            "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
            name: torch.tensor([[0, 1, 0], [0, 1, 0]]),
        }
    )
    longer = batch.extended(torch.tensor([[7, 8], [7, 0]]), torch.tensor([[1, 1], [1, 0]]))
    assert longer.ids.tolist() == [[1, 9, 5, 7, 8], [0, 9, 6, 7, 0]]
    assert longer.mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    assert longer.tensors[name].tolist() == [[0, 1, 0, 0, 0]] * 2
    assert set(longer.tensors) == set(batch.tensors)
    assert batch.ids.shape == (2, 3), "the batch before is left as it was"
    assert longer.echoes_prompt


def test_text_is_appended_to_embeddings_as_embeddings() -> None:
    table = torch.arange(20.0).reshape(10, 2)
    batch = VlmInputs(
        {"inputs_embeds": torch.zeros(1, 3, 2), "attention_mask": torch.ones(1, 3, dtype=torch.long)},
        lambda ids: table[ids],
        torch.tensor([[1, 9, 5]]),
    )
    longer = batch.extended(torch.tensor([[7, 8]]), torch.ones(1, 2, dtype=torch.long))
    assert longer.tensors["inputs_embeds"][0, 3:].tolist() == table[[7, 8]].tolist()
    assert longer.tensors["inputs_embeds"].shape == (1, 5, 2)
    assert batch.ids.tolist() == [[1, 9, 5]]
    assert not longer.echoes_prompt


def test_a_processor_without_a_mean_colour_pads_with_grey() -> None:
    white = np.full((2, 6, 3), 255, np.uint8)
    square = ImageFitting(SimpleNamespace(), padded=True, max_side=0)(white)
    assert square.shape == (6, 6, 3)
    assert set(square[:2].ravel()) == {127}
    assert (square[2:4] == 255).all()
    small = ImageFitting(SimpleNamespace(), padded=False, max_side=3)(white)
    assert small.shape == (1, 3, 3)
    with pytest.raises(ValueError, match="uint8 array of shape"):
        ImageFitting(SimpleNamespace(), padded=True, max_side=0)(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("start", "texts", "written"),
    [("<s>", ["<s> a", "<s> b"], True), ("<s>", ["<s> a", "b"], False), (None, ["a"], False), ("", ["a"], False)],
)
def test_a_start_token_is_written_once(start: str | None, texts: list[str], written: bool) -> None:
    assert start_options(SimpleNamespace(bos_token=start), texts) == ({"add_special_tokens": False} if written else {})
