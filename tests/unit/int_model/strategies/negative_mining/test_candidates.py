from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box
from int_model.models.protocols import CoordinateFrame
from int_model.strategies.negative_mining.candidates import NO_ENVIRONMENT, collect_candidates, parse_boxes, parse_name
from int_model.strategies.negative_mining.patches import make_patches

TASK = TaskPrompt("camouflaged animal")
PLAIN = CoordinateFrame(padded=False)
PADDED = CoordinateFrame()


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Frog", "frog"),
        ("Frog.", "frog"),
        ('The animal is a "Sea Horse".', "sea horse"),
        ("“Owl”", "owl"),
        ("'Spider'", "spider"),
        ("**Owl**", "owl"),
        ("A frog", "frog"),
        ("the  common   toad", "common toad"),
        ("It's a moth.", "moth"),
        ("The camouflaged animal in the image is a frog sitting on a leaf.", "frog"),
        ("The animal is called an owl.", "owl"),
        ("The name of the animal is owl.", "owl"),
        ("Name: owl", "owl"),
        ("Answer: snake", "snake"),
        ("The camouflaged frog", "frog"),
        ("frog, lizard, or toad", "frog"),
        ("frog or toad", "frog"),
        ("a bird of prey", "bird"),
        ("leaf-tailed gecko", "leaf-tailed gecko"),
        ("a leafy sea dragon", "leafy sea dragon"),
        ("very small brown leafy sea dragon", "leafy sea dragon"),
        ("Frog</s>", "frog"),
        ("青蛙", "青蛙"),
        ("No.", "none"),
        ("There is no polyp in this image", "none"),
        ("I cannot see any animal", "none"),
        ("None", "none"),
        ("", ""),
        ("  \n ", ""),
        ("...", ""),
        ("the", ""),
    ],
)
def test_names(answer: str, name: str) -> None:
    assert parse_name(answer) == name


@given(st.text(max_size=80))
def test_names_are_short_plain_words_whatever_was_said(answer: str) -> None:
    """Defects 6 and 11: brackets and quotation marks reach CLIP; an empty answer crashes."""
    name = parse_name(answer)
    assert not set(name) & set("[](){}\"'\n.,") or "'" in name.strip("'")
    assert len(name.split()) <= 3
    assert name == name.strip()


@pytest.mark.parametrize(
    ("answer", "frame", "expected"),
    [
        # relative corners of the patch itself (patch: 100 high, 200 wide)
        ("[0.1, 0.2, 0.5, 0.6]", PLAIN, [(20, 20, 100, 60)]),
        ("[0.5,0.6,0.1,0.2]", PLAIN, [(20, 20, 100, 60)]),
        ("The box is [.1,.2,.5,.6].", PLAIN, [(20, 20, 100, 60)]),
        ("x1=0.1, y1=0.2, x2=0.5, y2=0.6", PLAIN, [(20, 20, 100, 60)]),
        ("The 1 cat is at [0.1, 0.2, 0.5, 0.6] of 2.", PLAIN, [(20, 20, 100, 60)]),
        ("[-0.1, 0.2, 1.2, 0.9]", PLAIN, [(0, 20, 200, 90)]),
        ("[0, 0, 1, 1]", PLAIN, [(0, 0, 200, 100)]),
        # integers
        ("[20, 20, 100, 60]", PLAIN, [(20, 20, 100, 60)]),
        ("The box (of the frog) is 20 20 100 60", PLAIN, [(20, 20, 100, 60)]),
        ("The box (of [the] {frog}) is 20 20 100 60", PLAIN, [(20, 20, 100, 60)]),
        ("The box (of [the frog) is 20 20 100 60", PLAIN, []),  # cut in its brackets
        ("(20,20),(100,60)", PLAIN, [(20, 20, 100, 60)]),
        ("[100, 200, 500, 600]", PLAIN, [(20, 20, 100, 60)]),
        ("[100, 200, 500, 600]", CoordinateFrame(False, "thousand"), [(20, 20, 100, 60)]),
        ("[20, 20, 100, 60]", CoordinateFrame(False, "thousand"), [(4, 2, 20, 6)]),
        ('[{"bbox_2d": [20, 20, 100, 60], "label": "frog 2"}]', CoordinateFrame(False, "pixel"), [(20, 20, 100, 60)]),
        # the padded square (200 x 200, patch 50 pixels down)
        ("[0.1, 0.35, 0.5, 0.55]", PADDED, [(20, 20, 100, 60)]),
        ("[0, 0, 1, 1]", PADDED, [(0, 0, 200, 100)]),
        ("[20, 70, 100, 110]", PADDED, [(20, 20, 100, 60)]),
        ("[100, 350, 500, 550]", CoordinateFrame(True, "thousand"), [(20, 20, 100, 60)]),
        # several
        ("[0.1,0.2,0.5,0.6] and [0.5,0.2,0.6,0.6]", PLAIN, [(20, 20, 100, 60), (100, 20, 120, 60)]),
        # of no use
        ("[0, 0, 0, 0]", PLAIN, []),
        ("[0.3, 0.2, 0.3, 0.6]", PLAIN, []),
        ("[0.1, 0.0, 0.5, 0.2]", PADDED, []),
        ("0.1 0.2 0.3", PLAIN, []),
        ("0.1 0.2 0.3 0.4 0.5", PLAIN, []),
        ("10%, 20%, 30%, 40%", PLAIN, []),
        ("There is no box.", PLAIN, []),
        ("", PLAIN, []),
    ],
)
def test_boxes(answer: str, frame: CoordinateFrame, expected: list[tuple[float, ...]]) -> None:
    """Defect 3: integers do not parse, and the echoed seed box ends a patch."""
    boxes = parse_boxes(answer, frame, height=100, width=200)
    assert [pytest.approx(box.as_tuple()) for box in boxes] == expected


@given(st.text(alphabet="0123456789.,-[]() e%", max_size=120), st.sampled_from([PLAIN, PADDED]))
def test_boxes_never_leave_the_patch_and_nothing_crashes(answer: str, frame: CoordinateFrame) -> None:
    for box in parse_boxes(answer, frame, 30, 50):
        assert box.clip(30, 50) == box


def test_huge_numbers_are_no_box() -> None:
    assert parse_boxes(f"[0, 0, {'9' * 400}, 1]", PLAIN, 10, 10) == []


PATCHES = make_patches(100, 200, (1, 2))


def talk(*names: str, box: str = "[0.1,0.2,0.5,0.6]", environment: str = "Leaf.") -> list[tuple[str, ...]]:
    return [("A caption.", name, environment, box) for name in names]


def test_candidates_keep_patch_name_environment_and_box_in_image_pixels() -> None:
    found = collect_candidates(PATCHES, talk("Frog", "Frog.", "Lizard", "a frog", "toad"), TASK, PLAIN)
    assert found.names == ("frog", "lizard", "toad")
    assert [c.patch for c in found.candidates] == [0, 1, 2, 3, 4]
    assert [c.environment for c in found.candidates] == ["leaf"] * 5
    assert found.boxes[0] == Box(20, 20, 100, 60)
    assert found.boxes[2] == Box(110, 20, 150, 60)  # the right half begins at x = 100
    assert found.captions == ("A caption.",) * 5
    assert found.candidates[2].answers == ("A caption.", "Lizard", "Leaf.", "[0.1,0.2,0.5,0.6]")


def test_a_patch_keeps_its_name_when_its_box_is_of_no_use() -> None:
    found = collect_candidates(PATCHES, talk("Frog", "Frog", "Frog", "Frog", "Frog", box="no box"), TASK, PLAIN)
    assert len(found.candidates) == 5
    assert found.boxes == (None,) * 5


def test_several_boxes_become_the_box_around_all() -> None:
    answers = talk(*["frog"] * 5, box="[0.1,0.2,0.3,0.4] [0.6,0.1,0.8,0.3]")
    assert collect_candidates(PATCHES, answers, TASK, PLAIN).boxes[0] == Box(20, 10, 160, 40)


@pytest.mark.parametrize("vague", ["animal", "Camouflaged animal", "animals", "none", "No", "object", ""])
def test_vague_names_count_only_without_better_ones(vague: str) -> None:
    found = collect_candidates(PATCHES, talk("Frog", vague, vague, vague, vague), TASK, PLAIN)
    assert found.names == ("frog",)
    assert all(box is not None for box in found.boxes)


def test_the_task_prompt_as_the_only_name() -> None:
    assert collect_candidates(PATCHES, talk(*["Animal"] * 5), TASK, PLAIN).names == ("animal",)
    assert collect_candidates(PATCHES, talk(*["polyp"] * 5), TaskPrompt("polyp"), PLAIN).names == ("polyp",)


def test_nothing_but_denials() -> None:
    assert collect_candidates(PATCHES, talk(*["none"] * 5), TASK, PLAIN).names == ("camouflaged animal",)
    refused = collect_candidates(PATCHES, talk(*["none"] * 5), TASK, PLAIN, "abstain")
    assert (refused.names, refused.candidates) == ((), ())
    assert "sees no camouflaged animal" in refused.reason


def test_no_answer_at_all_is_a_reason_not_a_crash() -> None:
    """Defect 11: an empty answer raises an IndexError."""
    found = collect_candidates(PATCHES, [("", "", "", "")] * 5, TASK, PLAIN)
    assert found.candidates == ()
    assert "named no camouflaged animal" in found.reason


@pytest.mark.parametrize(
    ("environment", "expected"),
    [("Moss", "moss"), ("Frog", NO_ENVIRONMENT), ("", NO_ENVIRONMENT), ("none", NO_ENVIRONMENT)],
)
def test_environment_is_never_the_object(environment: str, expected: str) -> None:
    found = collect_candidates(PATCHES, talk(*["frog"] * 5, environment=environment), TASK, PLAIN)
    assert {c.environment for c in found.candidates} == {expected}


def test_environment_of_a_patch_without_one_is_the_commonest() -> None:
    answers = [
        ("", "frog", "moss", ""),
        ("", "frog", "", ""),
        ("", "", "sand", ""),
        ("", "owl", "sand", ""),
        ("", "frog", "sand", ""),
    ]
    found = collect_candidates(PATCHES, answers, TASK, PLAIN)
    assert found.environment_of(0, "frog") == "moss"
    assert found.environment_of(1, "frog") == "sand"
    assert found.environment_of(2, "frog") == "sand"
    assert found.environment_of(0, "moss") == "sand"


@pytest.mark.parametrize(("noun", "other"), [("polyp", "colon"), ("lesion", "pink")])
def test_the_noun_of_a_task_is_a_name_like_any_other(noun: str, other: str) -> None:
    answers = talk(other.capitalize(), *[noun.capitalize()] * 4)
    found = collect_candidates(PATCHES, answers, TaskPrompt(noun), PLAIN)
    assert found.names == (noun, other)  # the one that more patches gave comes first
    assert len(found.candidates) == 5


def test_the_head_noun_of_a_task_is_a_name_too() -> None:
    found = collect_candidates(PATCHES, talk(*["Lesion"] * 4, "Pink"), TaskPrompt("skin lesion"), PLAIN)
    assert found.names == ("lesion", "pink")


@pytest.mark.parametrize("vague", ["Creature", "a hidden animal", "camouflaged", "Something", "Species"])
def test_hypernyms_and_adjectives_of_hiding_are_no_names(vague: str) -> None:
    assert collect_candidates(PATCHES, talk(*[vague] * 4, "Frog"), TASK, PLAIN).names == ("frog",)
