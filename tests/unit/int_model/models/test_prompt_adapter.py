"""The seam for prompt learning: without an adapter, and with one that does nothing, SAM's own bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from int_model.models.protocols import ImageFeatures, MaskPrompt, MaskProposal, PromptAdapter
from int_model.models.suite import ModelSuite
from tests.unit.int_model.models.test_model_segmenter import BOX, PROMPTS, TALL, WIDE


class Identity:
    """Notes what it was shown, and gives it back; takes the mask of ``chosen``."""

    identity = "identity"

    def __init__(self, chosen: int | None = None) -> None:
        self.chosen = chosen
        self.seen: list[tuple[tuple[int, ...], Tensor, Tensor, str]] = []

    def adjust(self, sparse: Tensor, image: Tensor, positions: Tensor, label: str) -> Tensor:
        self.seen.append((tuple(sparse.shape), image, positions, label))
        return sparse

    def slot(self, label: str) -> int | None:
        del label
        return self.chosen


class Attention(nn.Module):
    """In the manner of a prompt learning module: tokens attend to the image; a residual that starts at zero."""

    identity = "attention"

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def adjust(self, sparse: Tensor, image: Tensor, positions: Tensor, label: str) -> Tensor:
        del label
        keys, values = ((image + positions).flatten(2).transpose(1, 2), image.flatten(2).transpose(1, 2))
        return sparse + self.out(self.attention(sparse, keys, values)[0])

    def slot(self, label: str) -> int | None:
        del label
        return 2


@pytest.fixture(scope="module")
def segmenter(suite: ModelSuite) -> Any:
    return suite.segmenter


@pytest.fixture(scope="module")
def prompts(segmenter: Any) -> list[MaskPrompt]:
    """Boxes, points, masks, and what can be combined of them."""
    low = segmenter.decode(segmenter.encode([WIDE])[0], PROMPTS[:1])[0].low_res
    return [*PROMPTS, MaskPrompt(mask_input=low[0]), MaskPrompt(box=BOX, mask_input=low[1]), PROMPTS[0]]


def equal(one: Sequence[MaskProposal], other: Sequence[MaskProposal]) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("logits", "low_res", "iou")
    )


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("image", [WIDE, TALL], ids=["wide", "tall"])
def test_the_inner_function_gives_the_bits_of_sams_forward_pass(
    segmenter: Any, prompts: list[MaskPrompt], image: np.ndarray, multimask: bool
) -> None:
    [embedding] = segmenter.encode([image])
    for batch in (prompts[:1] * 3, *([prompt] for prompt in prompts)):
        low, iou = segmenter.decode_logits(embedding, batch, multimask=multimask)
        with torch.no_grad():
            out = segmenter._model(
                image_embeddings=embedding.features.expand(len(batch), -1, -1, -1),
                multimask_output=multimask,
                **segmenter._prompt_tensors(embedding, batch),
            )
        assert torch.equal(low, out.pred_masks[:, 0])
        assert torch.equal(iou, out.iou_scores[:, 0])


@pytest.mark.parametrize("multimask", [True, False])
def test_an_identity_changes_no_bit(segmenter: Any, prompts: list[MaskPrompt], multimask: bool) -> None:
    adapter: PromptAdapter = Identity()
    [embedding] = segmenter.encode([WIDE])
    plain = segmenter.decode(embedding, prompts, multimask=multimask)
    adapted = segmenter.decode(embedding, prompts, multimask=multimask, adapter=adapter, label="polyp")
    assert equal(plain, adapted)


@pytest.mark.parametrize("slot", [0, 1, 2, 3])
@pytest.mark.parametrize("multimask", [True, False])
def test_a_slot_is_one_of_the_decoders_four_masks(
    segmenter: Any, prompts: list[MaskPrompt], slot: int, multimask: bool
) -> None:
    [embedding] = segmenter.encode([WIDE])
    single, several = (segmenter.decode(embedding, prompts, multimask=flag) for flag in (False, True))
    adapter = Identity(slot)
    for row, chosen in enumerate(segmenter.decode(embedding, prompts, multimask=multimask, adapter=adapter)):
        source, index = (single[row], 0) if slot == 0 else (several[row], slot - 1)
        assert chosen.best == 0
        assert np.array_equal(chosen.low_res, source.low_res[index : index + 1])
        np.testing.assert_allclose(chosen.logits, source.logits[index : index + 1], atol=1e-5)  # enlarged alone
        assert np.array_equal(chosen.iou, source.iou[index : index + 1])


def test_an_adapter_is_shown_tokens_image_and_label(segmenter: Any, prompts: list[MaskPrompt]) -> None:
    adapter = Identity()
    [embedding] = segmenter.encode([WIDE])
    segmenter.decode(embedding, prompts, adapter=adapter, label="polyp")
    shapes = [shape for shape, *_ in adapter.seen]
    # boxes: two corners; points: themselves and a padding token without a box; a mask alone has no tokens
    assert shapes == [(3, 2, 16), (1, 2, 16), (1, 4, 16), (1, 4, 16), (1, 3, 16), (1, 2, 16)]
    _, image, positions, label = adapter.seen[0]
    assert label == "polyp"
    assert image.shape == positions.shape == (3, 16, 8, 8)
    assert torch.equal(positions[:1], segmenter._model.get_image_wide_positional_embeddings())
    assert isinstance(segmenter, ImageFeatures)
    features = segmenter.features(embedding)
    assert features.dtype == np.float32
    assert np.array_equal(features, image[0].numpy())


def test_a_learned_adapter_starts_as_the_identity_and_gets_gradients(segmenter: Any, prompts: list[MaskPrompt]) -> None:
    torch.manual_seed(0)
    adapter = Attention()
    [embedding] = segmenter.encode([WIDE])
    assert equal(
        segmenter.decode(embedding, prompts, adapter=Identity(2)), segmenter.decode(embedding, prompts, adapter=adapter)
    )
    optimiser = torch.optim.Adam(adapter.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        low, _ = segmenter.decode_logits(embedding, prompts[:1] * 2, adapter=adapter)
        assert low.shape == (2, 1, 32, 32)
        loss = nn.functional.binary_cross_entropy_with_logits(low, torch.zeros_like(low))
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.95 * losses[0]
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in adapter.parameters() if parameter.grad is not None)
    assert all(parameter.grad is None for parameter in segmenter._model.parameters())
    changed = segmenter.decode(embedding, prompts[:1], adapter=adapter)
    assert not equal(changed, segmenter.decode(embedding, prompts[:1], adapter=Identity(2)))


def test_prompts_of_different_make_up_are_not_decoded_in_one_pass(segmenter: Any, prompts: list[MaskPrompt]) -> None:
    with pytest.raises(ValueError, match="one make-up"):
        segmenter.decode_logits(segmenter.encode([WIDE])[0], prompts)
