from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model.core.options import ConfigError
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.strategies.promac import PromacConfig
from int_model.strategies.registry import STRATEGIES, default_config, make_strategy
from tests.support.fakes import TASK, FakeInpainter, FakeSegmenter, FakeVlm, fake_suite, scene, suite_for

PROMPT = TaskPrompt(TASK)


def run(image: Image, overrides: dict[str, Any] | None = None, **roles: Any) -> Segmentation:
    config = STRATEGIES["promac"].configured(default_config("promac"), overrides or {})
    (result,) = make_strategy("promac", fake_suite(**roles), config).segment([image], PROMPT)
    return result


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_one_object_is_found_named_and_masked() -> None:
    image, (truth,) = scene(objects=[("owl", 64, 48, 16)])
    result = run(image)
    assert result.name == "owl"
    assert len(result.instances) == 1
    assert iou(result.mask, truth) > 0.95
    assert [i.winner_name for i in result.trace.iterations] == ["owl"] * 4
    assert len(result.trace.patches) == 5


def test_patches_iterations_and_weight_are_options() -> None:
    image, _ = scene(objects=[("owl", 64, 48, 16)])
    result = run(image, {"promac": {"iterations": 2, "scales": [1, 2, 4]}})
    assert (len(result.trace.iterations), len(result.trace.patches)) == (2, 9)
    for scales in ([2, 4], [1, 1]):
        with pytest.raises(ConfigError, match="scale 1"):
            PromacConfig().merged({"promac": {"scales": scales}})


def test_the_second_branch_sees_the_image_without_its_object() -> None:
    """The defect of the released code: there the contrast branch never sees the inpainted image."""
    image, (truth,) = scene(objects=[("owl", 64, 48, 16)])
    vlm = FakeVlm()
    run(image, {"promac": {"iterations": 1}}, vlm=vlm)
    assert len(vlm.contrasted) == 2  # the name and the box, of the whole image
    for shown, other in vlm.contrasted:
        assert np.array_equal(shown, image)
        assert np.abs(shown.astype(int) - other)[truth].mean() > 20  # the object is gone
        assert np.array_equal(shown[:4], other[:4])  # what lies outside the region stays


def test_what_is_inpainted_decides_the_name() -> None:
    """With nothing subtracted the prior wins (a snake on sand); against the image without the object, the object."""
    image, _ = scene(objects=[("owl", 64, 48, 4)])
    plain = run(image, {"promac": {"iterations": 1, "alpha": 0.0}})
    contrasted = run(image, {"promac": {"iterations": 1}})
    assert plain.name == "snake"
    assert contrasted.name == "owl"


def test_later_iterations_ask_every_patch_again_against_its_inpainted_version() -> None:
    image, _ = scene(objects=[("owl", 64, 48, 16)])
    vlm, inpainter = FakeVlm(), FakeInpainter()
    result = run(image, {"promac": {"iterations": 2}, "inpaint": {"reuse_iou": 1.0}}, vlm=vlm, inpainter=inpainter)
    assert vlm.batches == ["dialogue", "contrast", "contrast", "contrast", "contrast", "contrast"]
    assert inpainter.batches == [1, 1]  # the whole image, once per iteration
    assert [i.inpaint_mode for i in result.trace.iterations] == ["union_box_crop", "mask_crop"]
    again = vlm.contrasted[2:7]
    assert [shown.shape for shown, _ in again] == [patch.crop(image).shape for patch in result.trace.patches]
    # one dialogue of 4 turns with 5 patches; 2 questions per iteration and 4 turns with 5 patches, contrasted
    assert result.trace.calls["vlm_generate"] == 20
    assert result.trace.calls["vlm_contrast"] == 2 + 20 + 2


def test_the_same_removal_is_not_asked_about_twice() -> None:
    image, _ = scene(objects=[("owl", 64, 48, 16)])
    vlm = FakeVlm()
    result = run(image, {"inpaint": {"reuse_iou": 0.5}}, vlm=vlm)
    assert len(result.trace.iterations) == 4
    assert result.trace.calls["vlm_contrast"] == 2 + 20 + 2  # iterations 3 and 4 keep X' of iteration 2


def test_each_patch_is_segmented_on_black_inside_the_box_and_the_whole_is_one_instance() -> None:
    image, (truth,) = scene(objects=[("owl", 64, 48, 16)])
    segmenter = FakeSegmenter()
    result = run(image, {"promac": {"iterations": 1}}, segmenter=segmenter)
    patches = result.trace.patches
    assert len(segmenter.shown) == len(segmenter.prompts) == len(patches)
    for view, prompt, patch in zip(segmenter.shown, segmenter.prompts, patches, strict=True):
        region = patch.box.to_mask(*image.shape[:2])
        assert np.array_equal(view[region], image[region])
        assert not view[~region].any()
        assert prompt.box is not None
        assert prompt.box.intersect(patch.box) == prompt.box
        assert all(patch.box.contains(x, y) for x, y in prompt.points)
    assert len(result.instances) == 1
    assert np.array_equal(result.instances[0].mask, result.mask)
    assert iou(result.mask, truth) > 0.95


class Weighted(FakeVlm):
    """Keeps the weights of the contrast."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: set[Any] = set()

    def contrast(self, *arguments: Any) -> list[tuple[str, ...]]:
        self.weights.add(arguments[4:])
        return super().contrast(*arguments)


def test_the_papers_weight_of_the_contrast_is_the_default() -> None:
    vlm = Weighted()
    run(scene(objects=[("owl", 64, 48, 16)])[0], {"promac": {"iterations": 2}}, vlm=vlm)
    assert vlm.weights == {(1.0, 0.1)}


def test_the_next_iteration_sees_less_of_what_was_not_segmented() -> None:
    """Eq. 9: X_2 = w (X_1 (.) S_1) + (1 - w) X_1; the segmenter is shown its patches."""
    image, (truth,) = scene(objects=[("owl", 64, 48, 16)])
    segmenter = FakeSegmenter()
    options = {"promac": {"iterations": 2}, "update": {"w": 0.3, "rule": "paper"}}
    result = run(image, options, segmenter=segmenter)
    first = result.trace.iterations[0]
    expected = 0.3 * image * first.soft_mask[..., None] + 0.7 * image
    again = segmenter.shown[len(segmenter.shown) // 2]  # the whole image comes first
    assert np.abs(again - expected).max() <= 0.51
    assert again[~truth].mean() < 0.75 * image[~truth].mean()


def test_one_box_covers_several_objects_or_misses_some_but_is_one_instance() -> None:
    image, _ = scene(objects=[("frog", 24, 48, 14), ("frog", 100, 44, 12)])
    assert len(run(image).instances) == 1


class NoBox(FakeVlm):
    def _box(self, image: Image, name: str | None) -> str:
        return "I cannot tell."


def test_without_any_box_the_whole_image_is_taken_and_said() -> None:
    image, _ = scene(objects=[("owl", 64, 48, 16)])
    result = run(image, {"promac": {"iterations": 1}}, vlm=NoBox())
    assert result.trace.iterations[0].box_source == "whole_image"
    assert "no box" in result.trace.notes[0]
    assert "the whole image" in result.trace.notes[0]


class Vague(FakeVlm):
    def contrast(self, *arguments: Any) -> list[tuple[str, ...]]:
        return [tuple("An animal." for _ in turns) for turns in arguments[2]]


def test_an_answer_that_is_no_name_or_box_gives_way_to_the_candidates() -> None:
    image, _ = scene(objects=[("owl", 64, 48, 16)])
    result = run(image, {"promac": {"iterations": 1}}, vlm=Vague())
    assert result.name == "owl"
    assert result.trace.iterations[0].box_source == "vlm_box"
    assert "the one of a patch" in result.trace.notes[0]


class Silent(FakeVlm):
    def dialogue(self, images: Any, questions: Any, max_new_tokens: Any) -> list[tuple[str, ...]]:
        return [("",) * len(max_new_tokens) for _ in images]


def test_without_a_name_there_is_a_reason() -> None:
    results = make_strategy("promac", fake_suite(vlm=Silent())).segment([scene()[0]], PROMPT)
    assert results[0].instances == ()
    assert results[0].reason == f"the vision-language model named no {TASK}"


class Plain:
    """A vision-language model without contrastive decoding."""

    def __init__(self) -> None:
        fake = FakeVlm()
        self.frame, self.dialogue, self.score = fake.frame, fake.dialogue, fake.score
        self.answer_distributions = fake.answer_distributions


def test_a_model_that_cannot_contrast_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"'promac' needs contrastive decoding, .*'fake' does not offer"):
        make_strategy("promac", fake_suite(vlm=Plain()))


def test_batches_and_single_images_agree() -> None:
    images = [scene(objects=[("owl", 64, 48, 16)])[0], scene(64, 64, objects=[("frog", 30, 30, 9)])[0]]
    strategy = make_strategy("promac", fake_suite())
    together = strategy.segment(images, PROMPT)
    for image, result in zip(images, together, strict=True):
        (alone,) = strategy.segment([image], PROMPT)
        assert np.array_equal(alone.mask, result.mask)
        assert alone.trace.calls.keys() >= {"vlm_contrast", "segmenter_encode"}


def test_progress_comes_to_its_end() -> None:
    told: list[Any] = []
    suite = fake_suite()
    make_strategy("promac", suite, progress=lambda *step: told.append(step)).segment([scene()[0]], PROMPT)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1] == (14, 14, "done")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (3, 3), (3, 1), (1, 40)])
def test_the_smallest_images_are_segmented(strategy: str, size: tuple[int, int]) -> None:
    """ProMaC used to crash on them: no patch saw enough of the box."""
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    suite = suite_for(strategy)
    options = suite.int_overrides if strategy == "ppt" else {}
    (result,) = make_strategy(strategy, suite, default_config(strategy, options)).segment([image], PROMPT)
    assert result.size == size


@pytest.mark.parametrize(
    ("box", "views"),
    [
        ("[0.5, 0.2, 0.5078125, 0.8]", 1),  # one pixel wide: a half of the image sees only a sliver
        ("[0.2, 0.5, 0.8, 0.5078125]", 1),
        ("[0.5, 0.5, 0.501, 0.501]", 5),  # no box: all five patches see some of the whole image
    ],
)
def test_a_box_as_thin_as_a_pixel_is_a_box_and_a_thinner_one_does_no_harm(box: str, views: int) -> None:
    class Thin(FakeVlm):
        def _box(self, image: Image, name: str | None) -> str:
            return box

    image, _ = scene(objects=[("owl", 64, 48, 16)])
    result = run(image, {"promac": {"iterations": 1}}, vlm=Thin())
    assert result.size == image.shape[:2], "it used to crash"
    assert result.trace.calls["segmenter_encode"] == views
