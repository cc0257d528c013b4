"""The strategy ``ppt`` and ``int`` with a trained point generator, over the bundled models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from int_model.core.options import ConfigError
from int_model.core.task_prompt import TaskPrompt
from int_model.models.suite import ModelSuite, load_suite
from int_model.point_prompting.generator.bundle import GeneratorError, TrainedGenerator, probes_of
from int_model.point_prompting.generator.filters import SignedPoints
from int_model.point_prompting.generator.grounding import Hypothesis
from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator
from int_model.strategies.registry import STRATEGIES, default_config, make_strategy

TASK = TaskPrompt("the left fish")


@pytest.fixture(scope="module")
def nano() -> ModelSuite:
    torch.set_num_threads(1)
    return load_suite("nano", device="cpu", offline=True)


@pytest.fixture(scope="module")
def file(nano: ModelSuite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of random weights, which is confident of nothing in particular."""
    torch.manual_seed(0)
    network = PointGenerator(GeneratorSettings(96, 96, 96, width=32, heads=4, layers=1, feed=32, queries=6)).eval()
    made = TrainedGenerator(network, 3, negatives=True, probes=probes_of(nano.text_image, nano.segmenter))
    path = tmp_path_factory.mktemp("generator") / "generator.safetensors"
    path.write_bytes(made.pack())
    return path


def picture() -> np.ndarray:
    image = np.full((96, 128, 3), 70, dtype=np.uint8)
    image[30:70, 20:60] = (210, 150, 60)
    return image


def test_points_become_a_mask_and_stand_in_the_trace(nano: ModelSuite, file: Path) -> None:
    options = {"ppt": {"generator": str(file), "positive": 0.0, "negative": 0.0}}
    strategy = make_strategy("ppt", nano, default_config("ppt").merged(options))
    first, second = strategy.segment([picture(), picture()[:80]], TASK)
    assert (first.size, second.size) == ((96, 128), (80, 128))
    assert first.trace.strategy == "ppt"
    (instance,) = first.instances
    assert instance.label == "the left fish"
    assert 0 < instance.score <= 1
    (iteration,) = first.trace.iterations
    assert len(iteration.points) == len(iteration.point_labels) >= 1
    assert set(first.trace.calls) == {"clip_spatial", "segmenter_decode", "segmenter_encode"}


def test_a_generator_that_reads_clip_alone_has_the_image_encoded_for_its_mask(nano: ModelSuite, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = PointGenerator(GeneratorSettings(96, 96, 0, width=32, heads=4, layers=1, feed=32, queries=6)).eval()
    made = TrainedGenerator(network, 3, negatives=True, probes=probes_of(nano.text_image, None))
    (tmp_path / "clip.safetensors").write_bytes(made.pack())
    options = {"ppt": {"generator": str(tmp_path / "clip.safetensors"), "positive": 0.0, "negative": 0.0}}
    strategy = make_strategy("ppt", nano, default_config("ppt").merged(options))
    for result in strategy.segment([picture(), picture()[:80]], TASK):
        assert len(result.instances) == 1
        assert result.trace.calls["segmenter_encode"] == 1


class Grounder:
    """Two readings of the same points, of logits that are given; a third has no pixel."""

    def __init__(self) -> None:
        points = np.array([[30.0, 40.0], [50.0, 60.0], [100.0, 10.0]])
        self.signed = SignedPoints(points, np.array([1, 1, 0]), np.array([0.9, 0.7, 0.1]), {"close": 2}, 0.9)

    def points(self, calls: Any, owners: Any, images: Any, expressions: Any) -> tuple[list[Any], list[Any]]:
        assert expressions == [TASK.text.lower()] * len(images)
        return [self.signed] * len(images), [object()] * len(images)

    def hypotheses(self, calls: Any, owner: int, embedding: Any, found: Any, size: Any, **named: Any) -> list[Any]:
        readings = []
        for left, right in ((20, 60), (70, 100), (0, 0)):
            logits = np.full(size, -3.0, np.float32)
            logits[30:70, max(0, left - 4) : right + 4 if right else 0] = 0.0  # neither on it nor beside it
            logits[34:66, left:right] = 2.0
            readings.append(Hypothesis(found, logits, 0.8, 0.64))
        return readings


def test_masks_are_where_the_segmenters_logits_exceed_zero(nano: ModelSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft map is their sigmoid, and the generator's confidence in its positive points the box's score."""
    monkeypatch.setattr("int_model.strategies.ppt.grounder_of", lambda suite, options: Grounder())
    (result,) = make_strategy("ppt", nano, default_config("ppt")).segment([picture()], TASK)
    (iteration,) = result.trace.iterations
    assert [d.box.as_tuple() for d in iteration.boxes] == [(20, 34, 60, 66), (70, 34, 100, 66)]
    assert [d.score for d in iteration.boxes] == pytest.approx([0.8, 0.8])
    assert iteration.predicted_iou.tolist() == pytest.approx([0.8, 0.8])
    assert [int(mask.sum()) for mask in iteration.instance_masks] == [40 * 32, 30 * 32]
    on_it, beside = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(3))
    assert sorted({round(float(v), 4) for v in iteration.soft_mask.ravel()}) == pytest.approx(
        [beside, 0.5, on_it], abs=1e-4
    )
    assert np.array_equal(result.mask, iteration.instance_masks[0] | iteration.instance_masks[1])
    assert (iteration.winner_name, iteration.box_source) == (TASK.text, "ppt")
    assert iteration.point_labels.tolist() == [1, 1, 0]


def test_what_is_not_present_is_said(nano: ModelSuite, file: Path) -> None:
    options = {"ppt": {"generator": str(file), "positive": 1.0}}
    (result,) = make_strategy("ppt", nano, default_config("ppt").merged(options)).segment([picture()], TASK)
    assert result.instances == ()
    assert "nothing in the image is 'the left fish'" in result.reason
    assert "below 1.00" in result.reason


def test_points_that_were_left_out_are_noted(nano: ModelSuite, file: Path) -> None:
    options = {"ppt": {"generator": str(file), "positive": 0.0, "negative": 0.0, "max_points": 1}}
    (result,) = make_strategy("ppt", nano, default_config("ppt").merged(options)).segment([picture()], TASK)
    assert any("points of the generator that the segmenter was not given" in note for note in result.trace.notes)


def test_int_takes_its_points_from_the_generator(nano: ModelSuite, file: Path) -> None:
    config = default_config("int", nano.int_overrides)
    options = {
        "sam": {"point_source": "ppt", "points": "all"},
        "ppt": {"generator": str(file), "positive": 0.0, "negative": 0.0},
        "iterations": {"count": 1},
    }
    (result,) = make_strategy("int", nano, config.merged(options)).segment(
        [picture()], TaskPrompt("camouflaged animal")
    )
    (iteration,) = result.trace.iterations
    assert 1 <= len(iteration.points) <= 3  # as many as the generator was trained with, none of Spatial CLIP's
    assert iteration.similarity is None


@pytest.mark.parametrize(("strategy", "options"), [("ppt", {}), ("int", {"sam": {"point_source": "ppt"}})])
def test_without_a_trained_generator_the_error_names_the_option(
    nano: ModelSuite, strategy: str, options: dict[str, object]
) -> None:
    config = default_config(strategy).merged({**options, "ppt": {"generator": ""}})
    with pytest.raises(ConfigError, match=r"ppt\.generator"):
        make_strategy(strategy, nano, config)
    missing = config.merged({"ppt": {"generator": "/nowhere/generator.safetensors"}})
    with pytest.raises(GeneratorError, match="train one, or mend the path"):
        make_strategy(strategy, nano, missing)


def test_wrong_confidences_are_refused() -> None:
    with pytest.raises(ConfigError, match="one sign"):
        default_config("ppt").merged({"ppt": {"positive": 0.2, "negative": 0.4}})
    assert STRATEGIES["ppt"].has("ppt.hypotheses")
    assert not STRATEGIES["int"].has("ppt.hypotheses")
