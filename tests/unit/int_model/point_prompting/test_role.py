"""A point source is one module; ``int`` and ``promac`` take what it answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from int_model import point_prompting
from int_model.core.options import ConfigError
from int_model.core.task_prompt import TaskPrompt
from int_model.point_prompting.ppt import path_of
from int_model.point_prompting.role import PointPrompts, PointQuery, make_point_prompter, point_sources
from int_model.point_prompting.spatial_clip import SpatialClip
from int_model.strategies.registry import default_config, make_strategy
from tests.support.fakes import TASK, FakeSegmenter, FakeTextImage, fake_suite, scene

SOURCE = """
import numpy as np
from int_model.point_prompting.role import PointPrompts

asked = []

class Middle:
    def prompt(self, calls, queries):
        asked.extend(queries)
        return [PointPrompts(np.array([[64.0, 48.0], [64.0, 60.0]]), np.array([1, 0])) for _ in queries]

def make(suite, config):
    return Middle()
"""


@pytest.fixture
def middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the package's place, as a trained generator would be."""
    (tmp_path / "middle.py").write_text(SOURCE)
    monkeypatch.setattr(point_prompting, "__path__", [*point_prompting.__path__, str(tmp_path)])
    yield "middle"
    sys.modules.pop("int_model.point_prompting.middle", None)


@pytest.mark.parametrize("name", ["int", "promac"])
def test_a_new_source_is_one_module(name: str, middle: str) -> None:
    assert point_sources() == [middle, "ppt", "spatial_clip"]
    segmenter, clip = FakeSegmenter(), FakeTextImage()
    suite = fake_suite(segmenter=segmenter, text_image=clip)
    config = default_config(name, {"sam": {"point_source": middle, "points": "all"}})
    image, _ = scene(objects=[("frog", 64, 48, 20)])
    (result,) = make_strategy(name, suite, config).segment([image], TaskPrompt(TASK))
    assert clip.spatial == 0
    queries: Sequence[PointQuery] = sys.modules["int_model.point_prompting.middle"].asked
    assert (queries[0].owner, queries[0].name, queries[0].background) == (0, "frog", "sand")
    assert np.array_equal(queries[0].image, image)
    assert result.trace.iterations[0].points.tolist() == [[64, 48], [64, 60]]
    assert any(prompt.points.tolist() == [[64, 48], [64, 60]] for prompt in segmenter.prompts)


@pytest.mark.parametrize("name", ["int", "promac"])
def test_an_unknown_source_is_refused_when_the_strategy_is_made(name: str) -> None:
    config = default_config(name, {"sam": {"point_source": "../role"}})
    with pytest.raises(ConfigError, match=r"no sam\.point_source '\.\./role'; choose one of: ppt, spatial_clip"):
        make_strategy(name, fake_suite(), config)


def test_spatial_clip_is_the_default_and_can_be_left_out() -> None:
    def made(**overrides: object) -> object:
        config = default_config("int", overrides)
        return make_point_prompter(fake_suite(), config)  # type: ignore[arg-type]

    assert isinstance(made(), SpatialClip)
    assert made(sam={"points": "none"}) is None
    assert made(switches={"smg": False}) is None
    assert (PointPrompts().points.shape, PointPrompts().labels.shape) == ((0, 2), (0,))


def test_a_generator_is_bundled_or_a_file() -> None:
    assert path_of("bundled:ppt").is_file()
    assert path_of("~/mine.safetensors") == Path.home() / "mine.safetensors"
    assert path_of("/data/mine.safetensors") == Path("/data/mine.safetensors")
