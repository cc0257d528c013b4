"""The whole loop on the fakes' world: results, switches, options, odd inputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Detection, Image, Segmentation
from int_model.strategies.negative_mining.pipeline import IntPipeline
from tests.support.fakes import TASK, FakeDetector, FakeSegmenter, FakeTextImage, FakeVlm, fake_suite, scene

PROMPT = TaskPrompt(TASK)
ONE = [("frog", 64, 48, 20)]
TWO = [("frog", 32, 48, 14), ("frog", 96, 44, 12)]


def run(image: Image, overrides: dict[str, Any] | None = None, **roles: Any) -> Segmentation:
    config = IntConfig().merged(overrides or {})
    (result,) = IntPipeline(fake_suite(**roles), config).segment([image], PROMPT)
    return result


def test_the_object_is_named_and_segmented() -> None:
    image, (truth,) = scene(objects=ONE)
    result = run(image)
    assert (result.name, result.size, result.reason) == ("frog", (96, 128), "")
    assert np.array_equal(result.mask, truth)
    assert result.soft_mask is not None
    assert np.array_equal(result.soft_mask > 0.5, truth)
    assert 0.8 < result.score <= 1


def test_several_animals_are_covered_and_stay_apart() -> None:
    """Defect 13: one box is shared by all patches, so several animals are not covered."""
    image, truths = scene(objects=TWO)
    result = run(image)
    assert len(result.instances) == 2
    assert {i.label for i in result.instances} == {"frog"}
    for truth in truths:
        assert any(np.array_equal(truth, instance.mask) for instance in result.instances)
    assert [i.score for i in result.instances] == sorted((i.score for i in result.instances), reverse=True)


def test_the_name_that_context_suggests_loses() -> None:
    """The sand suggests a snake, and patches without the frog name it; only the frog's probability collapses."""
    image, _ = scene(objects=[("frog", 30, 30, 10)])
    result = run(image)
    first = result.trace.iterations[0]
    assert set(result.trace.names) == {"frog", "snake"}
    assert result.name == "frog"
    frog, snake = (result.trace.names.index(name) for name in ("frog", "snake"))
    delta = first.p_original - first.p_inpainted
    assert delta[:, frog].max() > 10 * delta[:, snake].max()
    assert first.p_original[first.winner_patch, frog] > first.p_inpainted[first.winner_patch, frog]


def test_scores_are_the_logarithms_of_the_products_of_d() -> None:
    image, _ = scene(objects=TWO)
    steps = run(image, {"iterations": {"count": 3}, "inpaint": {"reuse_iou": 1.0}}).trace.iterations
    product = np.prod([np.maximum(step.contrast, IntConfig().score.eps) for step in steps], axis=0)
    assert steps[-1].log_scores == pytest.approx(np.log(product))
    assert steps[-1].winner_patch == int(product.argmax())
    assert steps[-1].normalised == pytest.approx(product / product.sum())


# ------------------------------------------------------------------ the contrast sees X'


@dataclasses.dataclass
class Nothing:
    """Gives back the image as it came."""

    def inpaint(self, images: Any, masks: Any, positive: Any, negative: Any) -> list[Image]:
        return [image.copy() for image in images]


class Half(Nothing):
    """Paints only the upper half of the region."""

    def inpaint(self, images: Any, masks: Any, positive: Any, negative: Any) -> list[Image]:
        out = []
        for image, mask in zip(images, masks, strict=True):
            filled = image.copy()
            upper = mask & (np.cumsum(mask, axis=0) <= mask.sum(axis=0) // 2)
            filled[upper] = (200, 180, 120)
            out.append(filled)
        return out


@pytest.mark.parametrize("domain", ["candidates", "vocab"])
def test_contrast_changes_when_only_the_inpainting_changes(domain: str) -> None:
    """Defect 1: the contrast branch never sees the inpainted image, so the inpainter has no influence."""
    image, _ = scene(objects=ONE)
    options = {"score": {"domain": domain}, "iterations": {"count": 1}}
    full, half, none = (
        run(image, options, **roles).trace.iterations[0].contrast
        for roles in ({}, {"inpainter": Half()}, {"inpainter": Nothing()})
    )
    assert (none == 0).all()
    assert (half > 0).all()
    assert (full > half).all()


def test_what_was_not_removed_stays_as_it_was() -> None:
    """Inpainters disturb every pixel; only the region may differ, or D measures the disturbance."""
    image, _ = scene(objects=ONE)
    steps = run(image, {"inpaint": {"reuse_iou": 1.0}}).trace.iterations
    patches = run(image).trace.patches
    for step in steps[:3]:
        for patch, removed in zip(patches, step.inpainted, strict=True):
            outside = ~patch.crop(step.inpaint_mask)
            assert np.array_equal(removed[outside], patch.crop(image)[outside])
            assert not np.array_equal(removed, patch.crop(image))


def test_blind_vlm_falls_back_on_the_patches_vote() -> None:
    image, _ = scene(objects=[("frog", 30, 30, 10)])
    result = run(image, {"iterations": {"count": 1}}, vlm=FakeVlm(blind=True))
    assert (result.trace.iterations[0].contrast == 0).all()
    assert result.name == "frog"  # the majority of patches says snake, but frog patches look like frogs
    assert "tied" in result.trace.notes[0]


# ------------------------------------------------------------------ switches


def test_hcg_off_is_the_whole_image_alone() -> None:
    image, (truth,) = scene(objects=ONE)
    result = run(image, {"switches": {"hcg": False}})
    assert [p.scale for p in result.trace.patches] == [1]
    assert result.trace.calls["vlm_generate"] == 4
    assert np.array_equal(result.mask, truth)


def test_psnm_off_takes_the_answer_of_the_whole_image() -> None:
    image, _ = scene(objects=[("owl", 64, 48, 20), ("frog", 20, 20, 12)])
    result = run(image, {"switches": {"psnm": False}})
    assert result.name == "owl"
    assert not {"vlm_score", "inpaint"} & set(result.trace.calls)
    assert {step.inpaint_mode for step in result.trace.iterations} == {"none"}


def test_psnm_off_without_the_whole_image_takes_the_commonest() -> None:
    image, _ = scene(objects=[("owl", 100, 75, 10), ("frog", 20, 20, 12)], environment="moss")
    result = run(image, {"switches": {"psnm": False}, "patches": {"scales": [4]}})
    assert result.name == "frog"  # said of three quarters: seen in one, suggested by the moss in two


def test_pnm_off_resets_the_scores() -> None:
    image, _ = scene(objects=TWO)
    for step in run(image, {"switches": {"pnm": False}, "iterations": {"count": 3}}).trace.iterations:
        assert step.log_scores == pytest.approx(np.log(np.maximum(step.contrast, IntConfig().score.eps)))


def test_smg_off_uses_boxes_alone() -> None:
    image, truths = scene(objects=TWO)
    segmenter = FakeSegmenter()
    result = run(image, {"switches": {"smg": False}}, segmenter=segmenter)
    assert not {"clip_image", "clip_spatial", "clip_text"} & set(result.trace.calls)
    assert all(len(prompt.labels) == 0 for prompt in segmenter.prompts)
    assert result.trace.iterations[0].mask_scores.tolist() == [1, 1]
    assert np.array_equal(result.mask, truths[0] | truths[1])


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    "options",
    [
        {"pnm": {"key": "name"}},
        {"pnm": {"key": "name", "name_reduce": "mean"}},
        {"pnm": {"key": "votes"}},
        {"pnm": {"key": "votes", "noise": 1.0}},
        {"pnm": {"least_share": 0.1}},
        {"detector": {"query": "surest"}},
        {"detector": {"query": "candidates"}},
        {"clip": {"rule": "gap"}},
        {"clip": {"rule": "joint", "input": "original"}},
        {"update": {"rule": "none"}},
        {"early_stop": {"rule": "unchanged"}},
        {"instances": {"contrast": "select"}},
        {"instances": {"contrast": "both", "margin": 1.0}},
        {"switches": {"psnm": False}, "candidates": {"without_contrast": "majority"}},
        {"score": {"domain": "vocab", "step": "first"}},
        {"score": {"domain": "vocab", "step": "max"}},
        {"score": {"with_caption": True}},
        {"inpaint": {"first": "union_box_crop"}},
        {"inpaint": {"later": "per_patch_box"}},
        {"inpaint": {"later": "union_box_crop"}},
        {"candidates": {"refresh": "every"}},
        {"vlm": {"input": "reweighted"}},
        {"vlm": {"input": "reweighted"}, "candidates": {"refresh": "every"}},
        {"sam": {"input": "reweighted"}},
        {"sam": {"points": "all"}},
        {"sam": {"points": "none"}},
        {"sam": {"multimask": False}},
        {"sclip": {"use_background": False, "strategy": "FgBgHmClamp", "normalise": "token", "templates": "plain"}},
        {"clip": {"select_threshold": 0.0}},
        {"fuse": {"rule": "wsum"}},
        {"update": {"rule": "ema"}},
        {"final": {"rule": "last"}},
        {"early_stop": {"rule": "gensam"}},
        {"patches": {"quarters": "strips"}},
    ],
    ids=str,
)
def test_every_option_finds_both_animals(options: dict[str, Any]) -> None:
    image, truths = scene(objects=TWO)
    result = run(image, options)
    assert result.name == "frog"
    assert len(result.instances) == 2
    assert np.array_equal(result.mask, truths[0] | truths[1])


def test_keyed_by_name_the_scores_have_a_name_each() -> None:
    image, _ = scene(objects=[("frog", 30, 30, 10)])
    result = run(image, {"pnm": {"key": "name"}})
    assert result.trace.iterations[-1].log_scores.shape == (2,)
    assert result.trace.names[int(result.trace.iterations[-1].log_scores.argmax())] == "frog"


def test_reweighted_input_is_encoded_in_every_iteration() -> None:
    image, _ = scene(objects=ONE)
    calls = run(image, {"sam": {"input": "reweighted"}}).trace.calls
    assert calls["segmenter_encode"] == 5


def test_reweighted_view_is_scored_in_every_iteration() -> None:
    image, _ = scene(objects=ONE)
    calls = run(image, {"vlm": {"input": "reweighted"}}).trace.calls
    assert calls["vlm_score"] == 5 * 18


def brightness_outside(image: Image) -> float:
    """Of a corner that shows no object."""
    return float(image[:6, :6].mean())


def test_reweighted_images_reach_the_models_that_asked_for_them() -> None:
    image, _ = scene(objects=ONE)
    plain = brightness_outside(image)
    for option, expected in (("original", plain), ("reweighted", plain * 0.7**4)):
        vlm, segmenter = FakeVlm(), FakeSegmenter()
        run(image, {"vlm": {"input": option}, "sam": {"input": option}}, vlm=vlm, segmenter=segmenter)
        whole = [view for view in vlm.shown if view.shape == image.shape]
        assert brightness_outside(whole[-1]) == pytest.approx(expected, abs=4)
        assert brightness_outside(segmenter.shown[-1]) == pytest.approx(expected, abs=4)


def test_the_environments_map_is_subtracted() -> None:
    image, _ = scene(objects=ONE)
    with_it, without = (
        run(image, {"sclip": {"use_background": use}}).trace.iterations[0].similarity for use in (True, False)
    )
    assert with_it is not None
    assert without is not None
    assert not np.allclose(with_it, without)


class Wavering(FakeSegmenter):
    """A correct mask but for one iteration, in which it is the whole box."""

    wrong: int = 0

    def decode(self, embedding: Any, prompts: Any, *, multimask: bool = True, **_: Any) -> Any:
        found = super().decode(embedding, prompts, multimask=multimask)
        if self.encoded == self.wrong:
            return [dataclasses.replace(answer, iou=np.array([0.1, 0.2, 0.9])) for answer in found]
        return found


@pytest.mark.parametrize(
    ("wrong", "rule", "final"), [(1, "closest_to_mean", 5), (5, "closest_to_mean", 4), (5, "last", 5)]
)
def test_the_answer_is_the_iteration_closest_to_the_mean(wrong: int, rule: str, final: int) -> None:
    image, (truth,) = scene(objects=ONE)
    segmenter = Wavering()
    segmenter.wrong = wrong
    options = {"sam": {"input": "reweighted"}, "final": {"rule": rule}}
    result = run(image, options, segmenter=segmenter)
    distances = [step.distance for step in result.trace.iterations]
    assert int(np.argmax(distances)) == wrong - 1
    assert result.trace.final_iteration == final
    assert np.array_equal(result.mask, truth) == (final != wrong)


def test_early_stop_ends_the_loop_of_a_settled_image() -> None:
    image, _ = scene(objects=ONE)
    assert len(run(image, {"early_stop": {"rule": "gensam"}}).trace.iterations) == 3
    assert len(run(image, {"early_stop": {"rule": "gensam", "patience": 1}}).trace.iterations) == 2
    assert len(run(image).trace.iterations) == 5


def test_the_detector_ladder_ends_at_the_vlms_box() -> None:
    image, (truth,) = scene(objects=ONE)
    result = run(image, detector=FakeDetector(score=0.1))
    assert {step.box_source for step in result.trace.iterations} == {"vlm_box"}
    inside = result.mask & truth
    assert inside.sum() > 0.2 * truth.sum()
    assert result.score < run(image).score


class NoBoxes(FakeVlm):
    def _box(self, image: Image, name: str | None) -> str:
        return "[0, 0, 0, 0]"


def test_no_valid_box_in_any_patch_is_no_crash() -> None:
    """Defects 3 and 11: all boxes degenerate; the empty list of boxes crashes."""
    image, (truth,) = scene(objects=ONE)
    result = run(image, vlm=NoBoxes(), detector=FakeDetector(score=0.1))
    assert result.trace.iterations[0].box_source == "whole_image"
    assert (result.trace.iterations[0].contrast == 0).all()
    assert (result.trace.iterations[1].contrast > 0).any()  # from the second iteration on the mask is removed
    assert np.array_equal(result.mask, truth)


class Empty(FakeSegmenter):
    def decode(self, embedding: Any, prompts: Any, *, multimask: bool = True, **_: Any) -> Any:
        found = super().decode(embedding, prompts, multimask=multimask)
        return [dataclasses.replace(answer, logits=np.full_like(answer.logits, -5)) for answer in found]


def test_an_empty_mask_is_a_reason_and_keeps_the_image() -> None:
    image, _ = scene(objects=ONE)
    result = run(image, segmenter=Empty())
    assert result.instances == ()
    assert result.reason == "the segmenter found no pixels for 'frog'"
    assert [step.inpaint_mode for step in result.trace.iterations][1] == "mask_crop"
    assert result.trace.iterations[1].inpaint_mask.any()  # the winning patch's box stands in


def test_abstains_below_the_score_and_says_so() -> None:
    image, _ = scene(objects=ONE)
    result = run(image, {"abstain": {"min_score": 0.999}})
    assert result.instances == ()
    assert 0 < result.score < 0.999
    assert result.reason == f"the best score, {result.score:.2f}, is below 1.00"


def test_large_images_are_worked_on_smaller_and_come_back_at_full_size() -> None:
    image, (truth,) = scene(300, 200, objects=[("frog", 90, 140, 50)])
    result = run(image, {"limits": {"max_side": 100}})
    assert result.trace.size == (100, 67)
    assert result.mask.shape == result.size == (300, 200)
    assert (result.mask & truth).sum() / (result.mask | truth).sum() > 0.93


class Nested(FakeDetector):
    """Every box once more, a fifth wider: its mask is no object of its own."""

    def _find(self, image: Image, name: str) -> list[Detection]:
        found = super()._find(image, name)
        wider = [Box(d.box.x1, d.box.y1, d.box.x2 + 0.2 * d.box.width, d.box.y2) for d in found]
        return found + [Detection(box, d.score - 0.2) for box, d in zip(wider, found, strict=True)]


class Boxes(FakeSegmenter):
    """The whole box."""

    def decode(self, embedding: Any, prompts: Any, *, multimask: bool = True, **_: Any) -> Any:
        found = super().decode(embedding, prompts, multimask=multimask)
        return [dataclasses.replace(answer, iou=np.array([0.1, 0.2, 0.9])) for answer in found]


def test_instances_are_a_view_of_the_mask_that_eq_14_chose() -> None:
    """What is no object of its own still belongs to M; only what nobody trusts leaves it."""
    image, _ = scene(objects=TWO)
    options: dict[str, Any] = {"detector": {"nms_iou": 0.95}, "clip": {"select_threshold": 0.0}}
    result = run(image, options, detector=Nested(), segmenter=Boxes())
    final = result.trace.iterations[(result.trace.final_iteration or 0) - 1]
    assert len(final.boxes) == 4
    assert len(result.instances) == 2
    assert np.array_equal(result.mask, final.mask)
    union = np.any([instance.mask for instance in result.instances], axis=0)
    assert union.sum() < result.mask.sum()
    best, second = (instance.score for instance in result.instances)
    options["abstain"] = {"min_score": (best + second) / 2}
    one = run(image, options, detector=Nested(), segmenter=Boxes())
    assert len(one.instances) == 1
    assert one.mask[one.instances[0].mask].all()
    assert not one.mask[result.instances[1].mask].any()


# ------------------------------------------------------------------ odd inputs


def test_no_name_is_a_reason_and_the_others_are_unharmed() -> None:
    """Defect 11: an empty answer crashes; here one image of three gets a reason."""
    seen, _ = scene(objects=ONE)
    black = np.zeros((40, 30, 3), np.uint8)
    config = IntConfig()
    results = IntPipeline(fake_suite(), config).segment([seen, black, seen], PROMPT)
    assert results[1].instances == ()
    assert results[1].reason == "the vision-language model named no camouflaged animal"
    assert (results[1].score, results[1].name, results[1].trace.final_iteration) == (0.0, None, None)
    assert results[1].trace.calls == {"vlm_generate": 36}
    assert [len(r.instances) for r in results] == [1, 0, 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 50), (50, 3)])
def test_tiny_and_thin_images(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    image[:] = (200, 30, 30)
    result = run(image)
    assert result.size == size
    assert result.instances or result.reason


def test_a_list_of_none_is_a_list_of_none() -> None:
    assert IntPipeline(fake_suite(), IntConfig()).segment([], PROMPT) == []


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None])
def test_what_is_no_image_is_named_by_its_place(bad: Any) -> None:
    image, _ = scene()
    with pytest.raises(ValueError, match=r"^image 1: an image"):
        IntPipeline(fake_suite(), IntConfig()).segment([image, bad], PROMPT)


def test_a_model_that_gives_too_few_answers_is_caught() -> None:
    class Short(FakeVlm):
        def dialogue(self, *args: Any) -> Any:
            return super().dialogue(*args)[1:]

    with pytest.raises(RuntimeError, match="vision-language model gave 8 results for 9 inputs"):
        run(scene(objects=ONE)[0], vlm=Short())


def test_progress_only_grows_and_ends_at_the_total() -> None:
    told: list[tuple[int, int, str]] = []
    image, _ = scene(objects=ONE)
    IntPipeline(fake_suite(), IntConfig(), lambda *step: told.append(step)).segment([image], PROMPT)
    stages = ["inpainting", "scoring", "boxes and points", "masks"]
    expected = ["candidates", *(f"iteration {i}: {stage}" for i in range(1, 6) for stage in stages)]
    assert told == [*((i, 22, stage) for i, stage in enumerate(expected, 1)), (22, 22, "done")]


def test_a_model_that_cannot_score_answers_is_refused_where_answers_are_scored() -> None:
    class Mute:
        """Talks, and keeps its probabilities to itself."""

        frame, dialogue = FakeVlm().frame, FakeVlm().dialogue

    suite = fake_suite(vlm=Mute())
    with pytest.raises(ValueError, match="the strategy 'int' needs the probabilities of answers"):
        IntPipeline(suite, IntConfig())
    image, (truth,) = scene(objects=ONE)
    (result,) = IntPipeline(suite, IntConfig().merged({"switches": {"psnm": False}})).segment([image], PROMPT)
    assert result.mask[truth].mean() > 0.9


def test_environment_follows_the_winner() -> None:
    """Defect 7: the background text is never updated after the first iteration."""
    image, _ = scene(objects=[("frog", 100, 30, 12)])
    image[:, :64] = (120, 190, 150)  # moss on the left: the whole image and the left half say moss
    clip = FakeTextImage()
    result = run(image, text_image=clip)
    winner = result.trace.iterations[0]
    candidate = next(c for c in result.trace.candidates if c.patch == winner.winner_patch)
    assert winner.background == candidate.environment
    assert any(winner.background in text for text in clip.texts)
