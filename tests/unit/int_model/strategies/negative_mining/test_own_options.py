"""What is ours beyond the paper: rules of selection, which query is surest, early stop, a contrast per instance."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Detection, Floats, Image, Segmentation
from int_model.strategies.negative_mining.pipeline import IntPipeline
from int_model.strategies.negative_mining.semantic_masks import above_gap, softmax_scores
from tests.support.fakes import OBJECTS, TASK, FakeDetector, FakeInpainter, FakeTextImage, FakeVlm, fake_suite, scene

PROMPT = TaskPrompt(TASK)
FROG_AND_OWL = [("frog", 34, 48, 16), ("owl", 96, 44, 12)]


def run(image: Image, overrides: dict[str, Any] | None = None, **roles: Any) -> Segmentation:
    config = IntConfig().merged(overrides or {})
    (result,) = IntPipeline(fake_suite(**roles), config).segment([image], PROMPT)
    return result


# ------------------------------------------------------------------ selection


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([1.0], [True]),
        ([1.0, 0.9, 0.2], [True, True, False]),
        ([0.2, 1.0, 0.9], [False, True, True]),
        ([1.0, 0.6], [True, True]),
        ([1.0, 0.4], [True, False]),
        ([1.0, 0.0], [True, False]),
        ([1.0, 1.0, 1.0], [True, True, True]),
        ([0.3, 0.29], [True, True]),
        ([1.0, 0.5], [True, True]),
    ],
)
def test_masks_above_the_widest_gap(scores: list[float], kept: list[bool]) -> None:
    assert above_gap(np.array(scores)).tolist() == kept


@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1, width=32)), st.floats(0.1, 3))
def test_the_rule_has_no_scale(scores: Floats, factor: float) -> None:
    kept = above_gap(scores)
    assert kept[scores.argmax()]
    assert not kept.any() or scores[kept].min() >= scores[~kept].max(initial=0.0)
    if scores.max() > 1e-3:
        assert above_gap(scores * factor).sum() >= kept.sum() - int((np.diff(np.sort(scores)) < 1e-6).any())


def test_the_ancestors_scale_keeps_little_but_the_best() -> None:
    scores = softmax_scores(np.array([0.30, 0.29, 0.20]), 100.0)
    assert scores[0] == 1
    assert scores[1] == pytest.approx(np.exp(-1), abs=1e-3)
    assert scores[2] == 0


@dataclasses.dataclass
class TwoFound(FakeDetector):
    """Finds the owl under every name, much less surely."""

    def _find(self, image: Image, name: str) -> list[Detection]:
        found = super()._find(image, TASK)
        return [dataclasses.replace(d, score=0.9 if d.phrase == "frog" else 0.36) for d in found]


class Alike(FakeTextImage):
    """Cannot tell one mask from another."""

    def embed_images(self, images: Any) -> Any:
        return np.ones_like(super().embed_images(images)) / np.sqrt(len(OBJECTS) + 1)


def test_joint_counts_the_detectors_doubt() -> None:
    image, (frog, owl) = scene(objects=FROG_AND_OWL)
    assert np.array_equal(run(image, detector=TwoFound(), text_image=Alike()).mask, frog | owl)
    assert np.array_equal(run(image, {"clip": {"rule": "joint"}}, detector=TwoFound(), text_image=Alike()).mask, frog)


def test_masks_may_be_cut_out_of_the_image_as_it_was() -> None:
    """X_i is darker where nothing was selected; the image is not."""
    seen: dict[str, list[float]] = {}

    class Eye(FakeTextImage):
        def embed_images(self, images: Any) -> Any:
            brightest.extend(float(np.asarray(i).max()) for i in images if np.asarray(i).shape == image.shape)
            return super().embed_images(images)

    image, _ = scene(objects=FROG_AND_OWL)
    for option in ("reweighted", "original"):
        brightest: list[float] = []
        run(image, {"clip": {"input": option, "select_threshold": 1.0}}, detector=TwoFound(), text_image=Eye())
        seen[option] = brightest
    assert len(set(seen["original"][1::3])) == 1
    assert len(set(seen["reweighted"][1::3])) > 1


# ------------------------------------------------------------------ the surest query


@dataclasses.dataclass
class Names(FakeDetector):
    """Knows how sure it is of each word."""

    sure: dict[str, float] = dataclasses.field(default_factory=dict)

    def _find(self, image: Image, name: str) -> list[Detection]:
        if name not in self.sure:
            return []
        found = super()._find(image, TASK)
        return [Detection(d.box, self.sure[name], name) for d in found]


@pytest.mark.parametrize(
    ("query", "sure", "name", "source"),
    [
        ("name", {"frog": 0.4, TASK: 0.9}, "frog", "detector"),
        ("surest", {"frog": 0.4, TASK: 0.9}, "frog", "task_prompt"),
        ("surest", {"frog": 0.9, TASK: 0.4}, "frog", "detector"),
        ("surest", {"frog": 0.6, TASK: 0.6}, "frog", "detector"),
        ("surest", {"frog": 0.3, TASK: 0.2}, "frog", "detector_low"),
        ("surest", {"snake": 0.9, "frog": 0.4}, "frog", "detector"),
        ("surest", {}, "frog", "vlm_box"),
        ("candidates", {"snake": 0.9, "frog": 0.4, TASK: 0.5}, "snake", "detector"),
        ("candidates", {"snake": 0.3, "frog": 0.9, TASK: 0.5}, "frog", "detector"),
        ("candidates", {"snake": 0.3, "frog": 0.4, TASK: 0.5}, "frog", "task_prompt"),
    ],
)
def test_the_detector_may_have_a_say_in_what_it_is_asked(
    query: str, sure: dict[str, float], name: str, source: str
) -> None:
    image, _ = scene(objects=[("frog", 30, 30, 10)])
    detector = Names(sure=sure)
    result = run(image, {"detector": {"query": query}, "update": {"rule": "none"}}, detector=detector)
    final = result.trace.iterations[(result.trace.final_iteration or 0) - 1]
    assert set(result.trace.names) == {"frog", "snake"}
    assert (final.winner_name, final.box_source) == (name, source)
    assert len(detector.asked) == len(set(detector.asked))  # nothing is asked twice


# ------------------------------------------------------------------ early stop


def test_the_loop_ends_where_nothing_can_change_any_more() -> None:
    image, _ = scene(objects=FROG_AND_OWL[:1])
    options = {"early_stop": {"rule": "unchanged"}, "update": {"rule": "none"}}
    short, whole = run(image, options), run(image, {"update": {"rule": "none"}})
    assert len(short.trace.iterations) == 2
    assert short.trace.notes == ("settled after 2 iterations",)
    assert np.array_equal(short.mask, whole.mask)
    assert (short.name, short.trace.calls["inpaint"]) == (whole.name, 10)


# ------------------------------------------------------------------ names


def test_without_contrast_the_majority_may_decide() -> None:
    image, _ = scene(objects=[("owl", 100, 75, 10), ("frog", 20, 20, 12)], environment="moss")
    options = {"switches": {"psnm": False}, "patches": {"scales": [1, 4]}}
    whole, most = (run(image, {**options, "candidates": {"without_contrast": rule}}) for rule in ("whole", "majority"))
    assert whole.name == whole.trace.candidates[0].name
    assert most.name == "frog"


def test_a_patch_that_holds_little_of_the_mask_does_not_decide() -> None:
    image, _ = scene(objects=[("frog", 26, 22, 8)])
    result = run(image, {"pnm": {"least_share": 0.5}, "iterations": {"count": 2}, "inpaint": {"reuse_iou": 1.0}})
    first, second = result.trace.iterations
    held = np.array([patch.crop(first.mask).sum() >= 0.5 * first.mask.sum() for patch in result.trace.patches])
    assert 0 < held.sum() < 9
    floor = np.log(IntConfig().score.eps)
    assert (second.log_scores - first.log_scores)[~held] == pytest.approx(floor)
    assert ((second.log_scores - first.log_scores)[held] > floor).all()


# ------------------------------------------------------------------ a contrast per instance


def test_an_instance_whose_removal_changes_nothing_is_left_out() -> None:
    image, (frog, owl) = scene(objects=FROG_AND_OWL)
    plain = run(image, {"clip": {"select_threshold": 0.0}}, detector=TwoFound())
    assert np.array_equal(plain.mask, frog | owl)
    vlm = FakeVlm()
    options = {"clip": {"select_threshold": 0.0}, "instances": {"contrast": "select"}}
    result = run(image, options, detector=TwoFound(), vlm=vlm)
    final = result.trace.iterations[(result.trace.final_iteration or 0) - 1]
    assert result.name == "frog"
    assert np.array_equal(result.mask, frog)
    assert final.instance_contrast is not None
    assert final.instance_contrast.max() == 1
    assert final.selected.tolist() == [value > 0.5 for value in final.instance_contrast]
    assert result.trace.calls["vlm_score"] == plain.trace.calls["vlm_score"] + 4
    assert result.trace.calls["inpaint"] == plain.trace.calls["inpaint"] + 2
    assert all(view.shape[1] < image.shape[1] for view in vlm.shown[-4:])


def test_as_a_witness_it_lowers_the_score_and_keeps_the_mask() -> None:
    image, (frog, owl) = scene(objects=FROG_AND_OWL)
    options = {"clip": {"select_threshold": 0.0}}
    plain = run(image, options, detector=TwoFound())
    told = run(image, {**options, "instances": {"contrast": "score"}}, detector=TwoFound())
    assert np.array_equal(told.mask, frog | owl)
    owls = [next(i.score for i in result.instances if owl[i.mask].any()) for result in (plain, told)]
    assert owls[1] < 0.5 * owls[0]


@pytest.mark.parametrize("roles", [{"vlm": FakeVlm(blind=True)}, {}])
def test_where_it_says_nothing_the_selection_stays(roles: dict[str, Any]) -> None:
    """A blind model, or a single mask."""
    image, truths = scene(objects=FROG_AND_OWL if roles else FROG_AND_OWL[:1])
    options = {"instances": {"contrast": "both"}, "clip": {"select_threshold": 0.0}}
    result = run(image, options, detector=TwoFound() if roles else FakeDetector(), **roles)
    assert np.array_equal(result.mask, np.any(truths, axis=0))


def test_a_box_at_the_border_has_a_view() -> None:
    image, truths = scene(objects=[("frog", 8, 48, 14), ("frog", 120, 44, 12)])
    result = run(image, {"instances": {"contrast": "both"}})
    assert len(result.instances) == len(truths)
    assert Box.of_mask(result.mask) is not None


def test_what_is_removed_of_an_instance_is_grown_by_its_views_diagonal() -> None:
    image, truths = scene(objects=FROG_AND_OWL)
    inpainter = FakeInpainter()
    options = {"instances": {"contrast": "both"}, "inpaint": {"dilation": 0.04}, "iterations": {"count": 1}}
    result = run(image, options, inpainter=inpainter, detector=TwoFound())
    masks = [mask for mask in result.trace.iterations[0].instance_masks if mask.any()]
    assert len(masks) == len(truths)
    for mask, removed in zip(masks, inpainter.masks[-len(masks) :], strict=True):
        tight = Box.of_mask(mask)
        assert tight is not None
        view = tight.enlarge(IntConfig().instances.margin).clip(*mask.shape)
        assert view is not None
        x1, y1, x2, y2 = (round(value) for value in view.as_tuple())
        assert removed.shape == (y2 - y1, x2 - x1)
        away = ndimage.distance_transform_edt(~mask[y1:y2, x1:x2])
        radius = 0.04 * float(np.hypot(*removed.shape))
        clear = np.abs(away - radius) > 0.05 * away
        np.testing.assert_array_equal(removed[clear], (away <= radius)[clear])
