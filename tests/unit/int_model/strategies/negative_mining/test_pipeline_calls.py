"""How often each model is asked, what it is asked, and that batching changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Segmentation
from int_model.report.trace import trace_to_dict
from int_model.strategies.negative_mining.inpainting import diagonal, grow
from int_model.strategies.negative_mining.pipeline import IntPipeline
from tests.support.fakes import (
    TASK,
    FakeDetector,
    FakeInpainter,
    FakeSegmenter,
    FakeTextImage,
    FakeVlm,
    fake_suite,
    scene,
)

PROMPT = TaskPrompt(TASK)
CENTRE = [("frog", 64, 48, 20)]  # in every one of the nine patches, and filling none
FRESH = {"inpaint": {"reuse_iou": 1.0}}  # the fakes' mask does not move; 1 means that X' is made anew all the same


def test_calls_at_nine_patches_and_five_iterations() -> None:
    vlm, inpainter, detector = FakeVlm(), FakeInpainter(), FakeDetector()
    segmenter, clip = FakeSegmenter(), FakeTextImage()
    suite = fake_suite(vlm=vlm, inpainter=inpainter, detector=detector, segmenter=segmenter, text_image=clip)
    image, _ = scene(objects=CENTRE)
    (result,) = IntPipeline(suite, IntConfig().merged(FRESH)).segment([image], PROMPT)

    assert result.trace.calls == {
        "vlm_generate": 36,
        "vlm_score": 54,
        "inpaint": 13,
        "detect": 1,
        "segmenter_encode": 1,
        "segmenter_decode": 1,
        "clip_spatial": 5,
        "clip_text": 3,
    }
    # the models' own count agrees with the trace
    assert sum(len(turns) for turns in vlm.asked) == 36
    assert len(vlm.scored) == 54
    assert sum(inpainter.batches) == 13
    assert (len(detector.asked), segmenter.encoded, len(segmenter.prompts), clip.spatial) == (1, 1, 1, 5)
    # and each is asked in as few batches as there are stages
    assert vlm.batches == ["dialogue", "score", *["score"] * 5]
    assert inpainter.batches == [9, 1, 1, 1, 1]
    assert set(result.trace.seconds) >= {"vlm_generate", "vlm_score", "inpaint", "detect", "segmenter_encode"}


def test_inpainting_is_skipped_where_the_mask_hardly_moved() -> None:
    image, _ = scene(objects=CENTRE)
    (result,) = IntPipeline(fake_suite(), IntConfig()).segment([image], PROMPT)
    assert result.trace.calls["inpaint"] == 10
    assert result.trace.calls["vlm_score"] == 27
    assert [len(step.inpainted) for step in result.trace.iterations] == [9, 9, 0, 0, 0]
    (fresh,) = IntPipeline(fake_suite(), IntConfig().merged(FRESH)).segment([image], PROMPT)
    assert_same(fresh, result)


def test_patches_that_the_removal_does_not_touch_are_not_asked_again() -> None:
    """Their output cannot have changed: D is 0 exactly, whatever a batch does to the last digits."""
    image, _ = scene(objects=[("frog", 26, 22, 8)])
    (result,) = IntPipeline(fake_suite(), IntConfig().merged(FRESH)).segment([image], PROMPT)
    touched = [bool(patch.crop(result.trace.iterations[1].inpaint_mask).any()) for patch in result.trace.patches]
    assert touched == [True, True, False, True, False, True, False, False, False]
    assert result.trace.calls["vlm_score"] == 9 + 9 + 4 * 4
    assert ((result.trace.iterations[1].contrast != 0) == touched).all()


def test_batches_cover_all_images() -> None:
    vlm, inpainter = FakeVlm(), FakeInpainter()
    images = [scene(96, 128 + 8 * i, objects=CENTRE)[0] for i in range(3)]
    IntPipeline(fake_suite(vlm=vlm, inpainter=inpainter), IntConfig().merged(FRESH)).segment(images, PROMPT)
    assert vlm.batches == ["dialogue", *["score"] * 6]
    assert inpainter.batches == [27, 3, 3, 3, 3]


def test_text_features_are_kept_between_calls() -> None:
    image, _ = scene(objects=CENTRE)
    pipeline = IntPipeline(fake_suite(), IntConfig())
    assert pipeline.segment([image], PROMPT)[0].trace.calls["clip_text"] == 3
    assert "clip_text" not in pipeline.segment([image], PROMPT)[0].trace.calls


def assert_same(a: Segmentation, b: Segmentation) -> None:
    assert (a.size, a.name, a.reason, a.score) == (b.size, b.name, b.reason, b.score)
    assert [(i.label, i.score, i.box) for i in a.instances] == [(i.label, i.score, i.box) for i in b.instances]
    assert all(np.array_equal(i.mask, j.mask) for i, j in zip(a.instances, b.instances, strict=True))
    assert len(a.trace.iterations) == len(b.trace.iterations)
    for one, other in zip(a.trace.iterations, b.trace.iterations, strict=True):
        assert np.array_equal(one.log_scores, other.log_scores)
        assert np.array_equal(one.soft_mask, other.soft_mask)


@pytest.mark.parametrize(
    "options",
    [{}, {"early_stop": {"rule": "gensam"}}, {"score": {"domain": "vocab"}}, {"sam": {"input": "reweighted"}}],
)
def test_lists_of_different_sizes_equal_single_runs(options: dict[str, Any]) -> None:
    images = [
        scene(objects=CENTRE)[0],
        scene(60, 200, objects=[("owl", 40, 30, 12), ("owl", 150, 30, 15)], environment="moss")[0],
        np.zeros((20, 20, 3), np.uint8),
        scene(130, 70, objects=[("snake", 35, 100, 15), ("frog", 20, 20, 9)])[0],
        scene(50, 50)[0],
    ]
    config = IntConfig().merged(options)
    together = IntPipeline(fake_suite(), config).segment(images, PROMPT)
    for image, result in zip(images, together, strict=True):
        (alone,) = IntPipeline(fake_suite(), config).segment([image], PROMPT)
        assert_same(alone, result)


def test_texts_that_reach_models_are_plain_sentences() -> None:
    """Defect 6: texts reach CLIP and the inpainter as the repr of Python lists."""
    vlm, inpainter, detector, clip = FakeVlm(), FakeInpainter(), FakeDetector(), FakeTextImage()
    images = [scene(objects=[("frog", 30, 30, 10), ("owl", 90, 60, 20)])[0], scene(objects=CENTRE)[0]]
    suite = fake_suite(vlm=vlm, inpainter=inpainter, detector=detector, text_image=clip)
    IntPipeline(suite, IntConfig()).segment(images, PROMPT)
    texts = [
        *clip.texts,
        *(text for pair in inpainter.asked for text in pair),
        *(name for name, _, _ in detector.asked),
        *(question for question, _ in vlm.scored),
    ]
    assert len(texts) > 100
    assert not [text for text in texts if set(text) & set("[]{}()'\"")]
    assert ("sand, high quality, detailed, blended to the original image.", f"frog, is a {TASK}") in inpainter.asked


def test_question_is_the_same_for_a_patch_and_its_inpainted_version() -> None:
    vlm = FakeVlm()
    image, _ = scene(objects=CENTRE)
    config = IntConfig().merged({"score": {"with_caption": True}, **FRESH})
    IntPipeline(fake_suite(vlm=vlm), config).segment([image], PROMPT)
    questions = [question for question, _ in vlm.scored]
    assert questions[:9] == questions[9:18] == questions[18:27]
    assert questions[0].startswith("A frog on sand. The potential camouflaged animal names are: frog")


def test_no_question_carries_a_seed_box() -> None:
    """Defect 3: models copy the seed box [0,0,0,0] out of the question."""
    assert not [question for question in PROMPT.dialogue if "[" in question or "0" in question]


def test_later_inpainting_removes_the_binary_mask_and_its_margin_only() -> None:
    """Defect 5: every pixel of the soft map above 1/255 is removed, often nearly the whole image."""
    inpainter = FakeInpainter()
    image, (truth,) = scene(objects=CENTRE)
    IntPipeline(fake_suite(inpainter=inpainter), IntConfig()).segment([image], PROMPT)
    expected = grow(truth, 0.05 * diagonal(96, 128))
    assert np.array_equal(inpainter.masks[9], expected)
    assert expected.mean() < 0.25


def test_a_region_that_covers_a_patch_makes_it_black() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:] = (200, 180, 120)
    image[1:59, 1:59] = (200, 30, 30)
    config = IntConfig().merged({"iterations": {"count": 1}, "inpaint": {"max_part": 1.0}})
    (result,) = IntPipeline(fake_suite(), config).segment([image], PROMPT)
    assert not result.trace.iterations[0].inpainted[5].any()


def test_no_patch_loses_everything() -> None:
    inpainter = FakeInpainter()
    image = np.zeros((60, 60, 3), np.uint8)
    image[:] = (200, 180, 120)
    image[1:59, 1:59] = (200, 30, 30)
    config = IntConfig().merged({"iterations": {"count": 1}})
    (result,) = IntPipeline(fake_suite(inpainter=inpainter), config).segment([image], PROMPT)
    assert all(removed.any() for removed in result.trace.iterations[0].inpainted)
    assert len(inpainter.masks) == 9
    assert all(0 < mask.mean() <= 0.9 for mask in inpainter.masks)


def test_a_run_leaves_no_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 12: pictures are written to hard-coded places at every step."""
    monkeypatch.chdir(tmp_path)
    IntPipeline(fake_suite(), IntConfig()).segment([scene(objects=CENTRE)[0]], PROMPT)
    assert list(tmp_path.iterdir()) == []


def test_output_is_the_union_of_the_selected_masks() -> None:
    """Defect 14: the evaluated mask is another one than the one that the loop goes on with."""
    image, _ = scene(objects=[("frog", 32, 48, 14), ("frog", 96, 44, 12)])
    (result,) = IntPipeline(fake_suite(), IntConfig()).segment([image], PROMPT)
    assert result.trace.final_iteration is not None
    final = result.trace.iterations[result.trace.final_iteration - 1]
    assert np.array_equal(result.mask, final.mask)
    assert trace_to_dict(result.trace)["final_iteration"] == final.index
