from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import int_model
from int_model.core.config import IntConfig
from int_model.core.options import ConfigError, options_of
from int_model.strategies.registry import STRATEGIES

OPTIONS = {name: field for entry in STRATEGIES.values() for name, field in options_of(entry.config)}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_where_its_default_comes_from(name: str) -> None:
    assert (OPTIONS[name].description or "").startswith(("Paper", "Ancestor", "Stand-in"))


def test_every_option_is_read_somewhere() -> None:
    """Defect 2: a cut-off that is computed and never used, an argument whose name is misspelt."""
    package = Path(str(int_model.__file__)).parent
    read = {
        node.attr
        for folder in ("strategies", "masks", "point_prompting")
        for file in (package / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert {name.rpartition(".")[2] for name in OPTIONS} - read == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("patches.scales", (1, 2, 4)),
        ("candidates.refresh", "once"),
        ("inpaint.first", "per_patch_box"),
        ("inpaint.later", "mask_crop"),
        ("inpaint.reuse_iou", 0.98),
        ("score.domain", "candidates"),
        ("score.reduce", "prod"),
        ("score.with_caption", False),
        ("score.eps", 1e-3),
        ("vlm.name_tokens", 16),
        ("vlm.box_tokens", 96),
        ("inpaint.without_box", "untouched"),
        ("inpaint.max_part", 0.9),
        ("pnm.key", "patch"),
        ("detector.box_threshold", 0.35),
        ("detector.text_threshold", 0.25),
        ("detector.nms_iou", 0.7),
        ("detector.max_boxes", 10),
        ("sclip.down_sample", 0.5),
        ("sclip.attn_thr", 0.9),
        ("sclip.use_background", True),
        ("sclip.strategy", "FgBgHm"),
        ("sam.multimask", True),
        ("sam.points", "in_box"),
        ("sam.input", "original"),
        ("vlm.input", "original"),
        ("clip.select_threshold", 0.7),
        ("update.w", 0.3),
        ("update.rule", "paper"),
        ("iterations.count", 5),
        ("early_stop.rule", "off"),
        ("final.rule", "closest_to_mean"),
    ],
)
def test_published_defaults(path: str, value: object) -> None:
    section, option = path.split(".")
    assert getattr(getattr(IntConfig(), section), option) == value


def test_merged_overrides_nested_keys_only() -> None:
    config = IntConfig().merged({"pnm": {"key": "name"}, "iterations": {"count": 2}})
    assert (config.pnm.key, config.pnm.name_reduce, config.iterations.count) == ("name", "max", 2)
    assert config.inpaint == IntConfig().inpaint
    assert IntConfig().pnm.key == "patch"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pnm": {"kye": 1}}, r"no option 'pnm\.kye'; pnm has: key, name_reduce"),
        ({"pmn": {}}, "no option 'pmn'; the configuration has: fuse, abstain, tiling, patches"),
        ({"iterations": {"count": 0}}, r"'iterations\.count'"),
        ({"patches": {"scales": [3]}}, r"'patches\.scales"),
        ({"patches": {"scales": []}}, r"'patches\.scales'"),
        ({"pnm": 3}, "'pnm'"),
        ({"score": {"domain": "vocab", "reduce": "first"}}, "write step = first"),
        ({"score": {"domain": "vocab", "reduce": "max"}}, "write step = max"),
    ],
)
def test_a_wrong_option_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IntConfig().merged(overrides)


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        IntConfig().pnm.key = "name"  # type: ignore[misc]


def test_fingerprint_is_stable_through_json() -> None:
    config = IntConfig().merged({"iterations": {"count": 3}, "early_stop": {"rule": "gensam"}})
    again = IntConfig.model_validate(json.loads(config.model_dump_json()))
    assert again.fingerprint() == config.fingerprint()
    assert len(config.fingerprint()) == 16


@given(st.integers(1, 50), st.integers(1, 50))
def test_fingerprint_tells_configurations_apart(a: int, b: int) -> None:
    one, two = (IntConfig().merged({"iterations": {"count": n}}).fingerprint() for n in (a, b))
    assert (one == two) == (a == b)
