"""Stages of the loop one by one, on states made by hand: what the whole loop would hide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Candidate, Detection, Floats, Image, Mask, SoftMask
from int_model.strategies.negative_mining.candidates import CandidateSet
from int_model.strategies.negative_mining.conclude import conclude
from int_model.strategies.negative_mining.contrast import Choice, Contrast
from int_model.strategies.negative_mining.final_choice import is_unchanged
from int_model.strategies.negative_mining.mask_stages import combine, update
from int_model.strategies.negative_mining.prompt_stages import take_answers, take_candidates
from int_model.strategies.negative_mining.semantic_masks import FoundBoxes
from int_model.strategies.negative_mining.state import (
    Decoded,
    Fused,
    ImageState,
    Mined,
    enlarge,
    require,
    shrink,
    start,
)

TASK = TaskPrompt("camouflaged animal")


def config(**overrides: Any) -> IntConfig:
    return IntConfig().merged(overrides)


def image(height: int = 40, width: int = 60, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def named(own: Sequence[str | None], scales: tuple[int, ...] = (1, 2)) -> ImageState:
    """A state whose patches the VLM gave these names, None for none."""
    state = start(0, image(), config(patches={"scales": scales}))
    candidates = tuple(Candidate(k, name, f"leaf {k}") for k, name in enumerate(own) if name is not None)
    names = tuple(dict.fromkeys(one.name for one in candidates))
    take_candidates(state, CandidateSet(candidates, names, (None,) * len(own), ("",) * len(own)))
    return state


# ------------------------------------------------------------------ the name without a contrast


@pytest.mark.parametrize(
    ("own", "scales", "how", "name", "patch"),
    [
        (["frog", "toad", "toad", "owl", "owl"], (1, 2), "whole", "frog", 0),
        (["frog", "toad", "toad", "owl", "toad"], (1, 2), "majority", "toad", 1),
        ([None, "owl", "toad", "toad", None], (1, 2), "whole", "toad", 2),
        (["frog", "toad", "toad", "owl"], (2,), "whole", "toad", 1),  # no patch shows the whole image
        (["frog", "owl", "owl", "frog"], (2,), "whole", "frog", 0),  # the first of equals
    ],
)
def test_without_a_contrast_the_name_is_the_whole_images_or_the_commonest(
    own: list[str | None], scales: tuple[int, ...], how: str, name: str, patch: int
) -> None:
    state = named(own, scales)
    take_answers([state], config(candidates={"without_contrast": how}))
    mined = require(state.mined)
    assert mined.choice == Choice(patch, name)
    assert mined.change.names == tuple(said or name for said in own)
    assert mined.background == f"leaf {patch}"
    assert mined.running.tolist() == [0.0] * len(own)
    assert mined.p_original.shape == (len(own), len(state.names))
    assert not mined.p_original.any()


def test_later_candidates_are_added_and_ask_anew() -> None:
    state = named(["frog", "toad", None, None, None])
    assert state.names == ("frog", "toad")
    state.outputs_original = [np.ones(2)] * 5
    take_candidates(state, require(state.found))
    assert state.outputs_original is not None, "the same answers: the same question"
    before = state.found
    take_candidates(state, CandidateSet((), (), (None,) * 5, ("",) * 5, "nothing"))
    assert state.found is before, "a dialogue that gives nothing takes nothing away"
    assert state.active
    later = (Candidate(0, "owl", "bark"), Candidate(1, "toad", "bark"))
    take_candidates(state, CandidateSet(later, ("owl", "toad"), (None,) * 5, ("",) * 5))
    assert state.outputs_original is None
    assert state.names == ("frog", "toad", "owl"), "columns keep their meaning"
    assert state.own_names == ["owl", "toad", None, None, None]


def test_an_image_without_a_first_candidate_leaves_the_loop() -> None:
    state = start(0, image(), config())
    take_candidates(state, CandidateSet((), (), (None,) * 9, ("",) * 9, "it named nothing"))
    assert not state.active
    assert state.reason == "it named nothing"


# ------------------------------------------------------------------ scores of masks


class Clip:
    """``ModelCalls`` of CLIP alone: an image's feature is its mean colour, a text's is given."""

    def __init__(self, text: Floats) -> None:
        self.text = np.asarray(text, dtype=np.float32)
        self.shown: list[tuple[int, Image]] = []

    def embed_images(self, owners: Sequence[int], images: Sequence[Image]) -> Any:
        self.shown += list(zip(owners, images, strict=True))
        return np.stack([self.feature(one) for one in images])

    def embed_text(self, owner: int, texts: Sequence[str]) -> Any:
        assert texts == ("frog",)
        return self.text

    @staticmethod
    def feature(one: Image) -> Any:
        colour = one.reshape(-1, 3).mean(axis=0).astype(np.float32) + np.float32(1e-3)
        return colour / np.linalg.norm(colour)


def strip(left: int, right: int) -> Mask:
    mask = np.zeros((40, 60), bool)
    mask[:, left:right] = True
    return mask


def decoded(layers: Sequence[Any], owner: int = 0) -> ImageState:
    state = start(owner, image(seed=owner), config())
    state.mined = Mined(
        np.zeros((1, 1)), np.zeros((1, 1)), Contrast(np.zeros((1, 1)), np.zeros(1), ("frog",)), np.zeros(1),
        Choice(0, "frog"), "sand",
    )  # fmt: skip
    state.boxes = FoundBoxes(tuple(Detection(Box(0, 0, 9, 9), 0.5) for _ in layers), "detector")
    state.decoded = Decoded((), tuple(np.asarray(layer, np.float32) for layer in layers), np.full(len(layers), 0.9))
    return state


def test_scores_of_a_batch_are_those_of_its_images_alone() -> None:
    """Eq. 11 by hand: cosine of each masked region with the name, from that of the image without them to the best."""
    layers = [strip(0, 10), strip(20, 40), strip(50, 60)]
    states = [decoded(layers[: 2 + owner], owner) for owner in (0, 1)] + [decoded(layers[:2], 2)]
    clip = Clip([0.9, 0.3, 0.1])
    combine(clip, states, config())  # type: ignore[arg-type]
    assert [owner for owner, _ in clip.shown] == [0] * 3 + [1] * 4 + [2] * 3
    for state in states:
        masks = [layer > 0.5 for layer in require(state.decoded).layers]
        cosines = []
        for mask in [*masks, ~np.logical_or.reduce(masks)]:
            region = state.image.copy()
            region[~mask] = 0
            shown = region
            if len(cosines) < len(masks) and IntConfig().clip.view != "image":
                columns = np.flatnonzero(mask.any(axis=0))
                reach = 0.1 * (columns[-1] + 1 - columns[0])
                shown = region[:, max(0, int(columns[0] - reach)) : min(60, round(columns[-1] + 1 + reach))]
            cosines.append(float(Clip.feature(shown) @ clip.text))
        best, zero = max(cosines[:-1]), cosines[-1]
        expected = np.clip((np.array(cosines[:-1]) - zero) / (best - zero), 0, 1) if best - zero > 1e-6 else 1.0
        np.testing.assert_allclose(require(state.fused).scores, expected, atol=1e-4)


def test_a_layer_of_exactly_one_half_has_no_pixel() -> None:
    """As logits have it: a pixel is in the mask where its logit exceeds 0."""
    state = decoded([np.full((40, 60), 0.5), strip(0, 10)])
    clip = Clip([1, 0, 0])
    combine(clip, [state], config())  # type: ignore[arg-type]
    fused = require(state.fused)
    assert not clip.shown, "a single mask has nothing to be compared with"
    assert fused.scores.tolist() == [0, 1]
    assert fused.selected.tolist() == [False, True]
    np.testing.assert_array_equal(fused.mask, strip(0, 10))


def test_the_trace_draws_the_same_line() -> None:
    state = finished(strip(0, 20), (40, 60))
    half = np.full((40, 60), 0.5, np.float32)
    state.decoded = Decoded((), (half, half + np.float32(0.01)), np.full(2, 0.9))
    assert [mask.all() for mask in state.record().instance_masks] == [False, True]
    assert not state.record().instance_masks[0].any()
    assert state.record().index == 2


def test_where_nothing_was_segmented_nothing_changes() -> None:
    state = decoded([np.zeros((40, 60))])
    combine(Clip([1, 0, 0]), [state], config())  # type: ignore[arg-type]
    assert not require(state.fused).selected.any()
    update([state], config())
    assert state.current is state.image


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("height", "width", "most", "size"),
    [(40, 60, 60, (40, 60)), (40, 60, 59, (39, 59)), (40, 60, 30, (20, 30)), (60, 40, 30, (30, 20)),
     (2, 900, 100, (1, 100)), (900, 2, 100, (100, 1))],
)  # fmt: skip
def test_working_size(height: int, width: int, most: int, size: tuple[int, int]) -> None:
    picture = image(height, width)
    small = shrink(picture, most)
    assert small.shape == (*size, 3)
    assert (small is picture) == (size == (height, width))


def test_a_shrunk_image_is_the_mean_of_its_pixels_and_an_enlarged_mask_is_interpolated() -> None:
    picture = image(8, 12)
    expected = picture.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrink(picture, 6).astype(float) - expected).max() <= 0.51
    step = np.array([[True, False]])
    np.testing.assert_allclose(enlarge(step, (1, 4)), [[1, 0.75, 0.25, 0]])
    assert enlarge(step, (1, 2)).dtype == np.float32
    assert enlarge(step, (3, 2)).shape == (3, 2)


def finished(mask: Mask, full: tuple[int, int]) -> ImageState:
    """A state with one iteration of that mask, of an image that was ``full`` before it was shrunk."""
    state = named(["frog"] * 5)
    small = (mask.shape[0], mask.shape[1])
    state.image = state.current = np.zeros((*small, 3), np.uint8)
    state.full_size = full
    take_answers([state], config())
    soft: SoftMask = mask.astype(np.float32)
    state.boxes = FoundBoxes((Detection(Box.whole(*small), 0.8),), "detector")
    state.decoded = Decoded((), (soft,), np.array([0.9]))
    state.fused = Fused(np.ones(1), np.ones(1, bool), soft, mask)
    state.iterations.append(state.record())
    return state


class Counts:
    seconds: dict[str, float] = {}  # noqa: RUF012

    def counts(self, owner: int) -> dict[str, int]:
        return {}


def test_a_pixel_of_the_full_image_belongs_to_the_mask_if_more_than_half_of_it_does() -> None:
    """Two pixels become three: the middle one is half of each, and none of it."""
    state = finished(np.array([[True, False]]), (1, 3))
    result = conclude(state, TASK, config(), Counts(), "int")  # type: ignore[arg-type]
    assert result.mask.tolist() == [[True, False, False]]
    (found,) = result.instances
    assert found.mask.tolist() == [[True, False, False]]
    assert result.score == pytest.approx((0.8 * 0.9 * 1 * 1) ** 0.25)
    assert result.trace.final_iteration == 1


# ------------------------------------------------------------------ when to stop


def test_two_iterations_are_the_same_if_name_and_mask_are() -> None:
    one = finished(strip(0, 20), (40, 60)).iterations[0]
    near = dataclasses.replace(one, mask=strip(0, 19))  # IoU 0.95
    far = dataclasses.replace(one, mask=strip(30, 60))
    other = dataclasses.replace(one, winner_name="toad")
    assert not is_unchanged([one], 0.5)
    assert is_unchanged([one, near], 0.94)
    assert not is_unchanged([one, near], 0.95), "it must exceed the limit"
    assert not is_unchanged([one, other], 0.5)
    assert not is_unchanged([one, far], 0.5)
    assert is_unchanged([far, one, near], 0.94), "the last two count"
    assert not is_unchanged([one, near, far], 0.94)
