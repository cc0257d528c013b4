"""The strategy ``ppt`` and ``int`` with a trained point generator, over the bundled models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from int_model.core.options import ConfigError
from int_model.core.task_prompt import TaskPrompt
from int_model.models.suite import ModelSuite, load_suite
from int_model.point_prompting.generator.bundle import GeneratorError, TrainedGenerator, probes_of
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
