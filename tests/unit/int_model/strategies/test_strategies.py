from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import int_model
from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image
from int_model.evaluation.sharing import SharedCalls
from int_model.strategies.registry import STRATEGIES, default_config, make_strategy
from tests.support.fakes import TASK, FakeSegmenter, FakeVlm, NoAdapter, fake_suite, scene, suite_for

PROMPT = TaskPrompt(TASK)
TWO = [("frog", 32, 48, 14), ("frog", 96, 44, 12)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_the_contract(name: str) -> None:
    images = [scene(objects=TWO)[0], scene(50, 40, objects=[("owl", 20, 20, 9)])[0]]
    suite = suite_for(name)
    strategy = make_strategy(name, suite, default_config(name, suite.int_overrides))
    results = strategy.segment(images, PROMPT)
    assert strategy.name == name
    assert [r.size for r in results] == [(96, 128), (50, 40)]
    assert {r.trace.strategy for r in results} == {name}
    assert {r.task for r in results} == {TASK}
    assert strategy.segment([], PROMPT) == []
    with pytest.raises(ValueError, match="image 0"):
        strategy.segment([np.zeros((3, 3), np.uint8)], PROMPT)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("ppt", "sam3")])
def test_every_strategy_passes_on_the_suites_prompt_adapter(name: str) -> None:
    segmenter = FakeSegmenter()
    suite = dataclasses.replace(fake_suite(segmenter=segmenter), prompt_adapter=NoAdapter())
    make_strategy(name, suite).segment([scene(objects=TWO)[0]], PROMPT)
    assert set(segmenter.adapted) == {(NoAdapter(), TASK)}


class DialogueOnly:
    """A remote endpoint: dialogue, and nothing else."""

    def __init__(self) -> None:
        fake = FakeVlm()
        self.frame, self.dialogue = fake.frame, fake.dialogue


@pytest.mark.parametrize(
    ("name", "needed"), [("int", "the probabilities of answers"), ("promac", "contrastive decoding")]
)
def test_a_strategy_that_needs_more_than_dialogue_refuses_at_construction(name: str, needed: str) -> None:
    message = f"the strategy '{name}' needs {needed}, .* profile 'fake' does not offer: choose"
    for suite in (fake_suite(vlm=DialogueOnly()), SharedCalls().over(fake_suite(vlm=DialogueOnly()))):
        with pytest.raises(ValueError, match=message):
            make_strategy(name, suite)


@pytest.mark.parametrize(
    ("name", "options"), [("vlm_box", {}), ("grounded_sam", {}), ("int", {"switches": {"psnm": False}})]
)
def test_dialogue_is_enough_for_the_others(name: str, options: dict[str, Any]) -> None:
    suite = fake_suite(vlm=DialogueOnly())
    (result,) = make_strategy(name, suite, default_config(name, options)).segment([scene(objects=TWO)[0]], PROMPT)
    assert result.instances


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of: int, auto, grounded_sam, ppt, promac, sam3, vlm_box"):
        make_strategy("ppt2", fake_suite())


def test_without_a_configuration_the_suites_overrides_apply() -> None:
    suite = fake_suite()
    object.__setattr__(suite, "int_overrides", {"iterations": {"count": 2}})
    image, _ = scene(objects=TWO)
    assert len(make_strategy("int", suite).segment([image], PROMPT)[0].trace.iterations) == 2
    assert len(make_strategy("int", suite, IntConfig()).segment([image], PROMPT)[0].trace.iterations) == 5


def test_vlm_box_is_one_question_and_one_mask() -> None:
    image, (truth,) = scene(objects=TWO[:1])
    vlm = FakeVlm()
    (result,) = make_strategy("vlm_box", fake_suite(vlm=vlm)).segment([image], PROMPT)
    assert vlm.asked == [(PROMPT.box_question,)]
    assert result.trace.calls == {"segmenter_decode": 1, "segmenter_encode": 1, "vlm_generate": 1}
    assert (result.mask & truth).sum() / (result.mask | truth).sum() > 0.95
    assert result.trace.iterations[0].box_source == "vlm_box"


class Talker(FakeVlm):
    def _answer(self, image: Image, question: str) -> str:
        return "I am sorry."


def test_vlm_box_takes_the_whole_image_without_a_box() -> None:
    image, (truth,) = scene(objects=TWO[:1])
    (result,) = make_strategy("vlm_box", fake_suite(vlm=Talker())).segment([image], PROMPT)
    assert result.trace.iterations[0].box_source == "whole_image"
    assert np.array_equal(result.mask, truth)
    assert "no box" in result.trace.notes[0]


def test_grounded_sam_asks_the_detector_for_the_task_prompt() -> None:
    image, truths = scene(objects=TWO)
    (result,) = make_strategy("grounded_sam", fake_suite()).segment([image], PROMPT)
    assert len(result.instances) == 2
    assert np.array_equal(result.mask, truths[0] | truths[1])
    assert "vlm_generate" not in result.trace.calls


@pytest.mark.parametrize("name", ["vlm_box", "grounded_sam"])
def test_the_trace_of_one_pass_has_one_patch_and_one_name(name: str) -> None:
    image, _ = scene(objects=TWO)
    trace = make_strategy(name, fake_suite()).segment([image], PROMPT)[0].trace
    (iteration,), (candidate,) = trace.iterations, trace.candidates
    assert (candidate.patch, candidate.name) == (0, TASK)
    assert candidate.box == (iteration.boxes[0].box if name == "vlm_box" else None), "only what the VLM itself drew"
    assert (iteration.winner_patch, iteration.winner_name, iteration.patch_names) == (0, TASK, (TASK,))
    assert (iteration.p_original.shape, iteration.p_inpainted.shape) == ((1, 1), (1, 1))
    assert (iteration.contrast.shape, iteration.log_scores.shape) == ((1,), (1,))
    assert not any(table.any() for table in (iteration.p_original, iteration.p_inpainted, iteration.contrast))


def test_grounded_sam_that_finds_nothing_says_so() -> None:
    images = [scene()[0], scene(objects=TWO)[0]]
    empty, full = make_strategy("grounded_sam", fake_suite()).segment(images, PROMPT)
    assert (empty.instances, empty.reason) == ((), f"the detector found no {TASK}")
    assert full.instances


@pytest.mark.parametrize("name", ["vlm_box", "grounded_sam"])
def test_baselines_tell_their_progress(name: str) -> None:
    told: list[Any] = []
    make_strategy(name, fake_suite(), progress=lambda *step: told.append(step)).segment([scene()[0]], PROMPT)
    assert told == [(1, 2, "boxes"), (2, 2, "masks")]


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, int_model; "
        "from int_model import make_strategy, TaskPrompt, IntConfig, trace_to_dict, load_suite; "
        "assert 'torch' not in sys.modules, 'torch'; assert 'transformers' not in sys.modules, 'transformers'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_front_knows_all_its_names() -> None:
    for name in int_model.__all__:
        assert getattr(int_model, name) is not None
        assert name in dir(int_model)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = int_model.nonsense
