from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import SamModel, SamProcessor

from int_model.core.types import Box, Image
from int_model.interactive.shared_segmenter import SharedSegmenter
from int_model.models.adapters.segmenter import HFSamSegmenter, SamEmbedding
from int_model.models.calls import ModelCalls
from int_model.models.protocols import MaskPrompt, MaskProposal, Segmenter
from int_model.models.suite import ModelSuite
from tests.unit.int_model.models.tiny import picture

WIDE, TALL = picture(48, 90, 1), picture(200, 77, 2)


@pytest.fixture(scope="module")
def segmenter(suite: ModelSuite) -> Segmenter:
    return suite.segmenter


def points(*rows: tuple[float, float, int]) -> dict[str, np.ndarray]:
    table = np.array(rows, dtype=float)
    return {"points": table[:, :2], "labels": table[:, 2].astype(np.int64)}


BOX = Box(10, 8, 60, 40)
PROMPTS = [
    MaskPrompt(box=BOX),
    MaskPrompt(**points((20, 20, 1))),
    MaskPrompt(box=Box(1, 1, 80, 30), **points((30, 20, 1), (70, 40, 0))),
    MaskPrompt(box=Box(5, 5, 30, 30)),
    MaskPrompt(**points((20, 20, 1), (3, 40, 0), (50, 10, 1))),
    MaskPrompt(box=BOX, **points((30, 20, 1))),
]


def reference(folder: Path, image: Image, prompt: MaskPrompt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SAM end to end through ``SamProcessor``, for one prompt."""
    model, processor = (
        SamModel.from_pretrained(folder, dtype=torch.float32).eval(),
        SamProcessor.from_pretrained(folder),
    )
    options = {}
    if prompt.box is not None:
        options["input_boxes"] = [[list(prompt.box.as_tuple())]]
    if len(prompt.labels):
        options |= {"input_points": [[prompt.points.tolist()]], "input_labels": [[prompt.labels.tolist()]]}
    inputs = processor(PIL.Image.fromarray(image), return_tensors="pt", **options)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    inputs = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.no_grad():
        out = model(**inputs, multimask_output=True)
    [full] = processor.post_process_masks(out.pred_masks, *sizes, pad_size={"height": 64, "width": 64}, binarize=False)
    return full[0].numpy(), out.pred_masks[0, 0].numpy(), out.iou_scores[0, 0].numpy()


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
@pytest.mark.parametrize("image", [WIDE, TALL], ids=["wide", "tall"])
def test_answers_equal_the_processors(segmenter: Segmenter, profile: Path, image: Image, prompt: MaskPrompt) -> None:
    full, low, iou = reference(profile.parent / "sam", image, prompt)
    [proposal] = segmenter.decode(segmenter.encode([image])[0], [prompt])
    assert proposal.logits.shape == (3, *image.shape[:2])
    assert (proposal.logits.dtype, proposal.low_res.dtype, proposal.iou.dtype) == (np.float32, np.float32, np.float64)
    np.testing.assert_allclose(proposal.low_res, low, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(proposal.logits, full, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(proposal.iou, iou, rtol=1e-3, atol=1e-4)


def same(one: MaskProposal, other: MaskProposal) -> None:
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.low_res, other.low_res, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.iou, other.iou, rtol=1e-4, atol=1e-5)


def test_a_prompt_is_answered_the_same_alone_and_among_others(segmenter: Segmenter) -> None:
    [embedding] = segmenter.encode([WIDE])
    low = segmenter.decode(embedding, PROMPTS[:1])[0].low_res
    prompts = [*PROMPTS, MaskPrompt(mask_input=low[0]), MaskPrompt(box=BOX, mask_input=low[1]), PROMPTS[0]]
    for multimask, count in ((True, 3), (False, 1)):
        together = segmenter.decode(embedding, prompts, multimask=multimask)
        for prompt, proposal in zip(prompts, together, strict=True):
            assert proposal.logits.shape == (count, 48, 90)
            same(proposal, segmenter.decode(embedding, [prompt], multimask=multimask)[0])
    same(together[0], together[-1])


def test_every_part_of_a_prompt_matters(segmenter: Segmenter) -> None:
    [embedding] = segmenter.encode([WIDE])
    low = segmenter.decode(embedding, PROMPTS[:1])[0].low_res[0]
    base, other_box, with_point, outside, with_mask = segmenter.decode(
        embedding,
        [
            MaskPrompt(box=BOX),
            MaskPrompt(box=Box(10, 8, 61, 45)),
            MaskPrompt(box=BOX, **points((30, 20, 1))),
            MaskPrompt(box=BOX, **points((30, 20, 0))),
            MaskPrompt(box=BOX, mask_input=low),
        ],
    )
    answers = [p.low_res for p in (base, other_box, with_point, outside, with_mask)]
    for i, one in enumerate(answers):
        assert all(not np.allclose(one, other, rtol=1e-3) for other in answers[i + 1 :])


def test_images_are_encoded_the_same_alone_and_in_a_batch(segmenter: Segmenter) -> None:
    thin = picture(1, 300)
    images = [WIDE, TALL, thin, picture(1, 1)]
    for image, embedding in zip(images, segmenter.encode(images), strict=True):
        prompt = MaskPrompt(box=Box.whole(*image.shape[:2]))
        [alone] = segmenter.encode([image])
        assert embedding.nbytes == alone.nbytes == 16 * 8 * 8 * 4
        same(segmenter.decode(embedding, [prompt])[0], segmenter.decode(alone, [prompt])[0])
    assert segmenter.encode([]) == []
    assert segmenter.decode(embedding, []) == []


@pytest.mark.parametrize(("size", "inner"), [((2, 400), (1, 64)), ((400, 2), (64, 1)), ((300, 400), (48, 64))])
def test_of_a_thin_image_one_row_of_the_input_is_read_and_none_of_its_padding(
    segmenter: Segmenter, size: tuple[int, int], inner: tuple[int, int]
) -> None:
    (embedding,) = segmenter.encode([picture(*size)])
    assert isinstance(embedding, SamEmbedding)
    assert (embedding.size, embedding.inner) == (size, inner)


def test_wrong_prompts_are_refused(segmenter: Segmenter) -> None:
    [embedding] = segmenter.encode([WIDE])
    with pytest.raises(ValueError, match="labels are 1"):
        segmenter.decode(embedding, [MaskPrompt(**points((1, 1, -1)))])
    with pytest.raises(ValueError, match="32 x 32"):
        segmenter.decode(embedding, [MaskPrompt(mask_input=np.zeros((16, 16), np.float32))])
    with pytest.raises(TypeError, match="made by this segmenter"):
        segmenter.decode(np.zeros(3), [MaskPrompt(box=BOX)])  # type: ignore[arg-type]


@pytest.mark.parametrize("multimask", [True, False])
def test_the_best_alternatives_are_those_of_decode(segmenter: Segmenter, multimask: bool) -> None:
    """Through a segmenter that serves two threads, too, and through one that cannot choose itself."""
    for image in (WIDE, TALL):
        [embedding] = segmenter.encode([image])
        expected = [proposal.chosen for proposal in segmenter.decode(embedding, PROMPTS, multimask=multimask)]
        for chooser in (segmenter, SharedSegmenter(segmenter), SharedSegmenter(_OnlyDecodes(segmenter))):
            found = chooser.decode_best(embedding, PROMPTS, multimask=multimask)  # type: ignore[attr-defined]
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.iou == theirs.iou
                np.testing.assert_allclose(
                    ours.logits, theirs.logits, atol=1e-7
                )  # the resizing rounds in another order


class _OnlyDecodes:
    def __init__(self, segmenter: Segmenter) -> None:
        self.encode, self.decode = segmenter.encode, segmenter.decode


def test_one_mask_per_prompt_is_enlarged_and_copied(suite: ModelSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the three alternatives: a third of the bytes."""
    enlarged: list[int] = []
    plain = HFSamSegmenter._full_size

    def count(self: HFSamSegmenter, low: torch.Tensor, embedding: SamEmbedding) -> torch.Tensor:
        full = plain(self, low, embedding)
        enlarged.append(full.numel() * full.element_size())
        return full

    monkeypatch.setattr(HFSamSegmenter, "_full_size", count)
    [embedding] = suite.segmenter.encode([WIDE])
    suite.segmenter.decode(embedding, PROMPTS)
    all_of_them = sum(enlarged)
    enlarged.clear()
    layers, _ = ModelCalls(suite, 1).decode_best(0, embedding, PROMPTS, (48, 90), multimask=True, label="")
    assert sum(enlarged) * 3 == all_of_them == 3 * sum(layer.nbytes for layer in layers)
