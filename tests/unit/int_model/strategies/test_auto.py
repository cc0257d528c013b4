"""The strategy ``auto``: the cheap answer where it may be trusted, INT elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Detection, Image, Segmentation
from int_model.strategies.auto import Auto, AutoConfig, most_calls, within_budget
from int_model.strategies.base import Strategy
from int_model.strategies.registry import default_config, make_strategy
from tests.support.fakes import TASK, FakeDetector, FakeTextImage, FakeVlm, fake_suite, scene

PROMPT = TaskPrompt(TASK)
ONE = [("frog", 64, 48, 20)]


@dataclasses.dataclass
class Shy(FakeDetector):
    """Less sure of the task prompt in images with an owl."""

    def _find(self, image: Image, name: str) -> list[Detection]:
        found = super()._find(image, name)
        owls = any(d.phrase == "owl" for d in found)
        return [dataclasses.replace(d, score=0.36) for d in found] if name == TASK and owls else found


def run(images: list[Image], overrides: dict[str, Any] | None = None, **roles: Any) -> list[Segmentation]:
    return Auto(fake_suite(**roles), AutoConfig().merged(overrides or {})).segment(images, PROMPT)


def images() -> list[Image]:
    return [
        scene(objects=ONE)[0],
        scene(objects=[("owl", 64, 48, 20)], environment="moss")[0],
        np.zeros((40, 50, 3), np.uint8),
    ]


def test_int_is_asked_only_where_the_answer_is_in_doubt() -> None:
    vlm = FakeVlm()
    options = {"auto": {"threshold": 0.8}}
    sure, doubted, nothing = run(images(), options, detector=Shy(), vlm=vlm)
    assert sure.trace.witnesses["confidence"] > 0.8 > doubted.trace.witnesses["confidence"] > 0
    assert "vlm_generate" not in sure.trace.calls
    assert "kept" in sure.trace.notes[0]
    assert (doubted.name, doubted.trace.calls["vlm_generate"]) == ("owl", 36)
    assert doubted.trace.calls["segmenter_encode"] == 2  # of both ways
    assert "INT was asked" in doubted.trace.notes[0]
    assert nothing.trace.witnesses["confidence"] == 0
    assert nothing.trace.calls["vlm_generate"] == 36
    assert nothing.reason == "the vision-language model named no camouflaged animal"
    assert vlm.batches.count("dialogue") == 1  # all doubted images together
    assert {result.trace.strategy for result in (sure, doubted, nothing)} == {"auto"}


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_at_the_ends_it_is_one_of_its_two_ways(threshold: float) -> None:
    suite = fake_suite()
    other: Strategy = make_strategy("int" if threshold else "grounded_sam", suite)
    for image in images()[:2]:
        (alone,) = other.segment([image], PROMPT)
        (ours,) = run([image], {"auto": {"threshold": threshold}})
        assert np.array_equal(ours.mask, alone.mask)
        assert (ours.name, ours.score, ours.reason) == (alone.name, alone.score, alone.reason)
        assert sum(ours.trace.calls.values()) > sum(alone.trace.calls.values())


def test_each_witness_counts() -> None:
    (plain,) = run([scene(objects=ONE)[0]], {"auto": {"threshold": 0.0}})
    known = plain.trace.witnesses
    assert set(known) == {"detector", "segmenter", "clip", "confidence"}
    parts = [value for name, value in known.items() if name != "confidence"]
    assert known["confidence"] == pytest.approx(np.prod(parts) ** (1 / 3))
    assert (known["detector"], known["segmenter"]) == (0.9, 0.9)
    assert known["clip"] > 0.5
    (shy,) = run([scene(objects=ONE)[0]], {"auto": {"threshold": 0.0}}, detector=FakeDetector(score=0.4))
    assert shy.trace.witnesses["confidence"] < known["confidence"]


class Given(FakeTextImage):
    """Cosines with the text: 0.31 of what was found, 0.28 of what is left, and the other way round in large images."""

    def embed_images(self, images: Sequence[Image]) -> Any:
        cosines = np.array([0.31, 0.28] if images[1].shape[1] < 200 else [0.28, 0.31])
        return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Any:
        return np.array([[1.0, 0.0]] * len(texts), dtype=np.float32)


@pytest.mark.parametrize(("width", "gap"), [(128, 1.5), (200, -1.5)])
def test_the_third_witness_is_clips_choice_between_what_was_found_and_the_rest(width: int, gap: float) -> None:
    """A softmax over the two at CLIP's own scale, as in its zero-shot classification."""
    (result,) = run([scene(width=width, objects=ONE)[0]], {"auto": {"threshold": 0.0}}, text_image=Given(50.0))
    assert result.trace.witnesses["clip"] == pytest.approx(1 / (1 + np.exp(-gap)), abs=1e-4)


@pytest.mark.parametrize("budget", [20, 60, 90, 120, 200, 400])
def test_no_image_costs_int_more_than_the_budget(budget: int) -> None:
    options = {"auto": {"threshold": 1.0, "budget": budget}, "inpaint": {"reuse_iou": 1.0}, "limits": {"max_side": 64}}
    results = run(images(), options)
    config = within_budget(AutoConfig().merged(options), budget)
    cheap = run(images(), {**options, "auto": {"threshold": 0.0}})
    for result, first in zip(results, cheap, strict=True):
        assert sum(result.trace.calls.values()) - sum(first.trace.calls.values()) <= budget
        assert ("does not fit" in result.trace.notes[0]) == (config is None)
    assert (config is None) == (budget < 60)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"detector": {"query": "candidates"}, "instances": {"contrast": "both"}},
        {"vlm": {"input": "reweighted"}, "sam": {"input": "reweighted"}, "candidates": {"refresh": "every"}},
        {"inpaint": {"later": "per_patch_box"}},
        {"switches": {"psnm": False}},
        {"switches": {"hcg": False}},
    ],
    ids=str,
)
def test_the_bound_holds(options: dict[str, Any]) -> None:
    config = IntConfig().merged({**options, "inpaint": {"reuse_iou": 1.0, **options.get("inpaint", {})}})
    image, _ = scene(objects=[("frog", 32, 48, 14), ("frog", 96, 44, 12)])
    for roles in ({}, {"detector": FakeDetector(score=0.1)}, {"vlm": FakeVlm(blind=True)}):
        (result,) = make_strategy("int", fake_suite(**roles), config).segment([image], PROMPT)
        assert sum(result.trace.calls.values()) <= most_calls(config)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, 0),
        ({"switches": {"psnm": False}}, -21),  # no scoring of 5 views, twice 5 without objects; no filling
        ({"inpaint": {"later": "per_patch_box"}}, 4),  # 5 fillings in iteration 2 in the place of 1
        ({"vlm": {"input": "reweighted"}}, 5),  # the 5 originals are scored again
        ({"candidates": {"refresh": "every"}}, 20),  # 4 questions for each of 5 views again
        ({"sam": {"input": "reweighted"}}, 1),
        ({"detector": {"query": "candidates"}}, 6),  # 6 names (5 and the prompt), asked twice, not 3 queries twice
        ({"instances": {"contrast": "both"}}, 9),  # 3 masks: filled, and named twice
        ({"switches": {"smg": False}}, -14),  # no 3 masks and their rest twice, no texts, no points
        ({"switches": {"hcg": False}}, -56),  # one view: 16, 12, 4 and 24 less
    ],
    ids=str,
)
def test_the_bound_is_what_the_stages_cost(options: dict[str, Any], more: int) -> None:
    """A bound that is too high leaves INT out where it would fit. Counted by hand: 5 views, 2 iterations, 3 boxes."""
    base = {"patches": {"scales": [1, 2]}, "iterations": {"count": 2}, "detector": {"max_boxes": 3}}
    dialogues, scores, fillings, queries, votes = 4 * 5, 5 + 2 * 5, 5 + 1, 2 * 3, 2 * 3 * 5
    encoded, decoded, looked_at = 1, 2 * 3, 2 * (3 + 1) + 4 + 2
    expected = dialogues + scores + fillings + queries + votes + encoded + decoded + looked_at
    assert most_calls(IntConfig().merged(base).merged(options)) == expected + more


def test_it_is_registered_with_the_options_of_int() -> None:
    config = default_config("auto", {"detector": {"max_boxes": 3}})
    assert isinstance(config, AutoConfig)
    assert config.detector.max_boxes == 3
    assert make_strategy("auto", fake_suite()).name == "auto"
