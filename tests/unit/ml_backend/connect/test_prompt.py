"""The prompt in extra params: every form that they come in, nothing else lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.connect.prompt import overruled, with_params
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.task_prompt import parse_extra_params


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (None, "polyp"),
        ("", "polyp"),
        ("lesion", "polyp"),
        ({"prompt": "lesion", "min_score": 0.4}, {"prompt": "polyp", "min_score": 0.4}),
        ({"prompts": {"A": "a"}}, {"prompts": {"A": "a"}, "prompt": "polyp"}),
        ({"prompt": {"A": "a"}}, {"prompts": {"A": "a"}, "prompt": "polyp"}),
        ('{"min_score": 0.4}', '{"min_score": 0.4, "prompt": "polyp"}'),
    ],
)
def test_only_the_prompt_changes(current: Any, expected: Any) -> None:
    assert with_params(current, "polyp") == expected


@pytest.mark.parametrize(
    ("current", "prompt", "expected"),
    [
        (None, "", '{"strategy": "int"}'),
        ("lesion", "", '{"prompt": "lesion", "strategy": "int"}'),
        ("lesion", "polyp", '{"prompt": "polyp", "strategy": "int"}'),
        ({"prompt": {"A": "a"}, "strategy": "b"}, "", {"prompt": {"A": "a"}, "strategy": "int"}),
        ('{"min_area": 4}', "polyp", '{"min_area": 4, "strategy": "int", "prompt": "polyp"}'),
    ],
)
def test_options_go_beside_the_prompt(current: Any, prompt: str, expected: Any) -> None:
    assert with_params(current, prompt, {"strategy": "int"}) == expected


@pytest.mark.parametrize("current", ['{"prompt": ', [1, 2], {"prompt": 3}])
def test_what_cannot_be_read_is_left_to_a_person(current: Any) -> None:
    with pytest.raises(ValueError, match="Settings > Model"):
        with_params(current, "polyp")


@given(
    st.text(min_size=1, max_size=60).filter(lambda text: " ".join(text.split()).rstrip(".").strip()),
    st.sampled_from([None, "old", {"prompt": "old"}, '{"a": 1}']),
)
def test_the_prompt_is_read_back(prompt: str, current: Any) -> None:
    params = with_params(current, prompt)
    assert parse_extra_params(json.loads(json.dumps(params))).prompt == " ".join(prompt.split()).rstrip(".").strip()


def test_labels_with_a_prompt_of_their_own_are_named() -> None:
    config = parse_label_config(
        '<View><Image name="i" value="$i"/><PolygonLabels name="p" toName="i"><Label value="A" model_prompt="a"/>'
        '<Label value="B"/><Label value="C"/></PolygonLabels></View>'
    )
    assert overruled(config, {"prompts": {"C": "c"}}) == ["A", "C"]
    assert overruled(config, None) == ["A"]
