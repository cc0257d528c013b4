"""Shared calls change no answer, only how often models are asked; what was saved is charged to who would have paid."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box
from int_model.evaluation import Example, Variant, ablation_variants, evaluate
from int_model.evaluation.sharing import SharedCalls
from int_model.models.protocols import ContrastiveVisionLanguage, MaskPrompt, VisionLanguage
from int_model.strategies.registry import STRATEGIES, default_config, make_strategy
from tests.support.fakes import TASK, FakeSegmenter, FakeVlm, NoAdapter, fake_suite, scene

IMAGES = [
    scene(objects=[("frog", 30, 40, 15), ("frog", 100, 50, 12)])[0],
    scene(objects=[("owl", 60, 40, 15)], environment="moss")[0],
]


def asked_for(suite: Any) -> dict[str, int]:
    """How many items the fakes were really asked about, by role."""
    return {
        "vlm": len(suite.vlm.asked) + len(suite.vlm.scored),
        "inpainter": len(suite.inpainter.asked),
        "detector": len(suite.detector.asked),
        "encode": suite.segmenter.encoded,
        "decode": len(suite.segmenter.prompts),
        "clip": suite.text_image.images + suite.text_image.spatial,
        "concepts": len(suite.concepts.asked),
    }


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if name != "ppt"]
)  # it needs models that it was trained on
def test_results_are_the_same_and_the_second_time_nothing_is_asked(name: str) -> None:
    config = default_config(name, {"iterations": {"count": 3}, "promac": {"iterations": 2}})
    plain = make_strategy(name, fake_suite(), config).segment(IMAGES, TaskPrompt(TASK))
    inner: Any = fake_suite()
    suite = SharedCalls().over(inner)
    first = make_strategy(name, suite, config).segment(IMAGES, TaskPrompt(TASK))
    once = asked_for(inner)
    again = make_strategy(name, suite, config).segment(IMAGES, TaskPrompt(TASK))
    assert asked_for(inner) == once
    for one, two, three in zip(plain, first, again, strict=True):
        assert np.array_equal(one.mask, two.mask)
        assert np.array_equal(one.mask, three.mask)
        assert one.trace.calls == two.trace.calls  # a strategy's calls are its own, whoever answers them
        assert one.name == two.name == three.name
        for a, b in zip(one.trace.iterations, two.trace.iterations, strict=True):
            np.testing.assert_array_equal(a.p_inpainted, b.p_inpainted)
            np.testing.assert_array_equal(a.soft_mask, b.soft_mask)


def test_every_part_of_a_question_counts() -> None:
    """A key that forgets an argument would give one variant another's answer."""
    inner: Any = fake_suite()
    suite = SharedCalls().over(inner)
    image, other = IMAGES[0], IMAGES[1][:96, :128]
    mask = np.zeros(image.shape[:2], dtype=np.bool_)
    mask[:20, :20] = True
    point = MaskPrompt(box=Box(5, 5, 60, 60), points=np.array([[9.0, 9.0]]), labels=np.array([1]))
    for embedding in suite.segmenter.encode([image, other]):
        for multimask in (True, False):
            suite.segmenter.decode(
                embedding,
                [
                    MaskPrompt(box=Box(5, 5, 60, 60)),
                    MaskPrompt(box=Box(5, 5, 60, 61)),
                    point,
                    dataclasses.replace(point, labels=np.array([0])),
                    dataclasses.replace(point, points=np.array([[9.0, 8.0]])),
                ],
                multimask=multimask,
            )
    assert len(inner.segmenter.prompts) == 2 * 2 * 5
    for name, low in (("frog", 0.3), ("owl", 0.3), ("frog", 0.2)):
        suite.detector.detect([image], [name], box_threshold=low, text_threshold=0.2)
    assert len(inner.detector.asked) == 3
    for shown, region, positive in (
        (image, mask, "sand"),
        (image, ~mask, "sand"),
        (other, mask, "sand"),
        (image, mask, "x"),
    ):
        suite.inpainter.inpaint([shown], [region], [positive], ["frog"])
    assert len(inner.inpainter.asked) == 4
    vlm: Any = suite.vlm
    for limits in ((4,), (5,)):
        vlm.dialogue([image], [("Name?",)], limits)
        vlm.contrast([image], [other], [("Name?",)], limits, 1.0)
    vlm.contrast([image], [image], [("Name?",)], (4,), 1.0)
    vlm.contrast([image], [other], [("Name?",)], (4,), 0.5)
    vlm.contrast([image], [other], [("Name?",)], (4,), 1.0, 0.1)
    assert len(inner.vlm.asked) == 7
    for names, reduce in ((("frog",), "mean"), (("owl",), "mean"), (("owl",), "prod")):
        vlm.score([image], ["Name?"], [names], reduce)
    assert len(inner.vlm.scored) == 3


def test_an_adapter_and_its_label_are_a_part_of_the_question() -> None:
    segmenter = FakeSegmenter()
    shared = SharedCalls().over(fake_suite(segmenter=segmenter)).segmenter
    [embedding] = shared.encode([scene()[0]])
    prompts = [MaskPrompt(box=Box(1, 1, 9, 9))]
    for adapter in (None, NoAdapter("a"), NoAdapter("b")):
        for label in ("frog", "owl"):
            for _ in range(2):
                shared.decode(embedding, prompts, adapter=adapter, label=label)
    assert [adapted for adapted, _ in segmenter.adapted] == [None, *[NoAdapter("a")] * 2, *[NoAdapter("b")] * 2]
    assert [label for _, label in segmenter.adapted] == ["frog", "frog", "owl", "frog", "owl"]


def test_one_call_with_the_same_question_twice_asks_once_and_answers_twice() -> None:
    inner: Any = fake_suite()
    suite = SharedCalls().over(inner)
    features = suite.text_image.embed_images([IMAGES[0], IMAGES[1], IMAGES[0]])
    assert inner.text_image.images == 2
    np.testing.assert_array_equal(features[0], features[2])
    np.testing.assert_array_equal(features, fake_suite().text_image.embed_images([IMAGES[0], IMAGES[1], IMAGES[0]]))


class Slow(FakeSegmenter):
    def encode(self, images: Any) -> Any:
        time.sleep(0.05)
        return super().encode(images)


def test_what_an_answer_took_is_charged_to_everyone_who_uses_it() -> None:
    shared = SharedCalls()
    suite = shared.over(fake_suite(segmenter=Slow()))
    suite.segmenter.encode([IMAGES[0]])
    assert shared.saved == 0
    suite.segmenter.encode([IMAGES[0]])
    assert shared.saved >= 0.05
    variants = [Variant("a", "grounded_sam"), Variant("b", "grounded_sam", {"fuse.duplicate_iou": 0.5})]
    outcome = evaluate(
        [Example("one", IMAGES[0], TASK, mask=np.ones(IMAGES[0].shape[:2], dtype=np.bool_))],
        variants,
        fake_suite(segmenter=Slow()),
        share_calls=True,
    )
    assert all(record.metrics["seconds"] >= 0.05 for record in outcome.records if record.metrics["seconds"] is not None)


def test_memory_is_bounded() -> None:
    inner: Any = fake_suite()
    suite = SharedCalls(megabytes=0).over(inner)
    for _ in range(2):
        suite.segmenter.encode([IMAGES[0]])
    assert inner.segmenter.encoded == 2


def test_foreign_embeddings_are_refused_and_roles_keep_their_protocols() -> None:
    suite = SharedCalls().over(fake_suite())
    assert isinstance(suite.vlm, VisionLanguage)
    assert isinstance(suite.vlm, ContrastiveVisionLanguage)
    (foreign,) = FakeSegmenter().encode([IMAGES[0]])
    with pytest.raises(TypeError, match="made by this segmenter"):
        suite.segmenter.decode(foreign, [MaskPrompt(box=Box(0, 0, 5, 5))])

    class Plain:
        frame = FakeVlm().frame

    assert not isinstance(SharedCalls().over(fake_suite(vlm=Plain())).vlm, ContrastiveVisionLanguage)


def test_an_ablation_asks_far_less_than_its_variants_alone() -> None:
    examples = [Example("one", IMAGES[0], TASK, mask=np.ones(IMAGES[0].shape[:2], dtype=np.bool_))]
    alone, together = fake_suite(), fake_suite()
    variants = ablation_variants(["3a"])
    separate = evaluate(examples, variants, alone)
    shared = evaluate(examples, variants, together, share_calls=True)
    assert [r.metrics["iou"] for r in shared.records] == [r.metrics["iou"] for r in separate.records]
    assert [r.calls for r in shared.records] == [r.calls for r in separate.records]
    assert asked_for(together)["vlm"] * 3 < asked_for(alone)["vlm"]
