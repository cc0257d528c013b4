from __future__ import annotations

from typing import Any

import pytest

from ml_backend.labelstudio.label_config import Target, parse_label_config
from ml_backend.labelstudio.task_prompt import PromptError, group_by_prompt, parse_extra_params, prompt_of

ALL = {
    "typed": "typed",
    "field": "from the field",
    "label": "from model_prompt",
    "hint": "from hint",
    "control": "from the control",
    "prompts": "from prompts",
    "prompt": "from prompt",
    "env": "from env",
}


def target(label: str = "Cat", **attributes: str) -> Target:
    on_label = " ".join(f'{k}="{v}"' for k, v in attributes.items() if k in ("model_prompt", "hint", "alias"))
    control = f' model_prompt="{attributes["control"]}"' if "control" in attributes else ""
    config = parse_label_config(
        '<View><Image name="i" value="$image"/>'
        f'<PolygonLabels name="p" toName="i" model_prompt_field="q"{control}><Label value="{label}" {on_label}/>'
        "</PolygonLabels></View>"
    )
    return config.targets("i")[0]


ORDER = ["typed", "field", "label", "hint", "control", "prompts", "prompt", "env"]


@pytest.mark.parametrize("first", range(len(ORDER) + 1))
def test_precedence(first: int) -> None:
    """With the sources before ``first`` unset, the next one wins; with all unset, the label's own name."""
    on = {name: text for name, text in ALL.items() if name in ORDER[first:]}
    attributes = {"model_prompt": on.get("label", ""), "hint": on.get("hint", ""), "control": on.get("control", "")}
    params = parse_extra_params({"prompts": {"Cat": on.get("prompts", "")}, "prompt": on.get("prompt", "")})
    text, _ = prompt_of(
        target(**attributes), params, on.get("env", ""), {"q": on.get("field", " ")}, on.get("typed", "")
    )
    assert text == (ALL[ORDER[first]] if first < len(ORDER) else "Cat")


@pytest.mark.parametrize(
    ("value", "prompt", "prompts", "warns"),
    [
        (None, "", {}, False),
        ("", "", {}, False),
        ("camouflaged animal", "camouflaged animal", {}, False),
        ('"text"', "text", {}, False),
        ('{"prompt": "a"}', "a", {}, False),
        ('{"prompts": {"X": "a", "Y": " b "}}', "", {"X": "a", "Y": "b"}, False),
        ({"prompt": {"X": "a"}}, "", {"X": "a"}, False),
        ("{bad json", "", {}, True),
        ("[1", "", {}, True),
        (["a"], "", {}, True),
        (5, "", {}, True),
        ("5", "5", {}, False),
        ("true", "true", {}, False),
        ("null", "", {}, False),
        ({"prompt": 5, "prompts": 5}, "", {}, True),
        ({"prompts": {"X": 5, "Y": "b"}}, "", {"Y": "b"}, True),
        ("[" * 100_000, "", {}, True),
    ],
)
def test_extra_params(value: Any, prompt: str, prompts: dict[str, str], warns: bool) -> None:
    params = parse_extra_params(value)
    assert (params.prompt, dict(params.prompts), bool(params.warning)) == (prompt, prompts, warns)


def test_other_keys_are_options_and_a_field_may_be_named() -> None:
    params = parse_extra_params('{"prompt_field": "q", "min_area": 5, "prompt": "p"}')
    assert dict(params.options) == {"min_area": 5}
    assert params.prompt_field == "q"


@pytest.mark.parametrize(("key", "found"), [("Cat", "x"), ("cat", "x"), ("c", "x"), ("C", "x"), ("Dog", "")])
def test_prompts_by_label_name_or_alias(key: str, found: str) -> None:
    assert parse_extra_params({"prompts": {key: "x"}}).for_label(target(alias="c")) == found


@pytest.mark.parametrize(
    ("value", "expected"), [("text", "text"), ({"Cat": "per label"}, "per label"), ({"Dog": "x"}, "Cat"), (5, "Cat"),
                            (None, "Cat"), (" ", "Cat")]
)  # fmt: skip
def test_the_task_field(value: Any, expected: str) -> None:
    text, _ = prompt_of(target(), parse_extra_params(None), "", {"q": value})
    assert text == expected


LABELS = parse_label_config(
    '<View><Image name="i" value="$image"/><PolygonLabels name="p" toName="i">'
    '<Label value="Crab" predicted_values="hermit crab"/><Label value="Fish" alias="f"/><Label value="Owl" hint="owl"/>'
    '</PolygonLabels><BrushLabels name="b" toName="i" model_skip="false"><Label value="Crab"/></BrushLabels></View>'
)


def test_labels_with_one_prompt_run_once() -> None:
    groups = group_by_prompt(LABELS.targets("i"), parse_extra_params("Camouflaged animal"), "", {})
    assert [g.prompt.text for g in groups] == ["Camouflaged animal", "owl"]
    assert [len(g.targets) for g in groups] == [3, 1]
    assert [g.source for g in groups] == ["extra params", "label"]


@pytest.mark.parametrize("most", [None, 3, 2])
def test_a_task_has_so_many_prompts_at_most(most: int | None) -> None:
    asked = (LABELS.targets("i"), parse_extra_params(None), "", {})
    if most == 2:
        with pytest.raises(PromptError, match=r"3 different prompts; the most is INT_MAX_PROMPTS \(2\)"):
            group_by_prompt(*asked, max_prompts=most)
    else:
        assert [g.prompt.text for g in group_by_prompt(*asked, max_prompts=most)] == ["Crab", "Fish", "owl"]


def test_a_bare_control_takes_every_name() -> None:
    bare = parse_label_config('<View><Image name="i" value="$image"/><Polygon name="p" toName="i"/></View>')
    (group,) = group_by_prompt(bare.targets("i"), parse_extra_params("animal"), "", {})
    assert [t.control.name for t in group.chosen("crab")] == ["p"]
    assert parse_extra_params({"prompts": {"Crab": "x"}, "prompt": "y"}).for_label(group.targets[0]) == "y"


def test_prompts_that_differ_in_case_or_space_only_are_one() -> None:
    groups = group_by_prompt(
        LABELS.targets("i"), parse_extra_params({"prompts": {"Crab": "an  animal", "Fish": "An Animal"}}), "", {}
    )
    assert [g.prompt.text for g in groups] == ["an animal", "owl"]


@pytest.mark.parametrize(
    ("mined", "expected"),
    [
        ("Hermit Crab", [("p", "Crab"), ("b", "Crab")]),
        ("fish", [("p", "Fish")]),
        ("F", [("p", "Fish")]),
        ("lobster", [("p", "Crab"), ("b", "Crab")]),
        ("", [("p", "Crab"), ("b", "Crab")]),
    ],
)
def test_the_mined_name_chooses_the_label(mined: str, expected: list[tuple[str, str]]) -> None:
    group = group_by_prompt(LABELS.targets("i"), parse_extra_params("animal"), "", {})[0]
    assert [(t.control.name, t.label.value) for t in group.chosen(mined) if t.label] == expected


def test_a_bare_geometry_needs_a_prompt_from_somewhere() -> None:
    config = parse_label_config('<View><Image name="i" value="$image"/><Polygon name="p" toName="i"/></View>')
    with pytest.raises(PromptError, match="INT_PROMPT"):
        group_by_prompt(config.targets("i"), parse_extra_params(None), "", {})
    assert group_by_prompt(config.targets("i"), parse_extra_params("cat"), "", {})[0].prompt.text == "cat"


def test_prompts_that_are_too_long_name_their_source() -> None:
    with pytest.raises(PromptError, match=r"environment.*201"):
        group_by_prompt([target()], parse_extra_params(None), "x" * 201, {})
