"""Answers as real vision-language models word them, with what is to be read from each."""

from __future__ import annotations

import pickle

import pytest

from int_model.models.protocols import Answer, CoordinateFrame, was_cut
from int_model.strategies.negative_mining.candidates import parse_boxes, parse_name

FRAME = CoordinateFrame(padded=False)
BOX = (20.0, 20.0, 100.0, 60.0)
SECOND = (120.0, 20.0, 160.0, 60.0)

NAMES = [
    # LLaVA: a word, a sentence, capitals, plurals
    ("Owl", "owl"),
    ("owl", "owl"),
    ("OWL", "owl"),
    ("Owl.", "owl"),
    ("Owl</s>", "owl"),
    (" Owl\n", "owl"),
    ("Owls", "owls"),
    ("Frogs.", "frogs"),
    ("An owl", "owl"),
    ("An owl.", "owl"),
    ("The owl", "owl"),
    ("It is an owl.", "owl"),
    ("It's an owl.", "owl"),
    ("This is a leaf-tailed gecko.", "leaf-tailed gecko"),
    ("The camouflaged animal is an owl.", "owl"),
    ("The camouflaged animal is a frog, which is hiding in the leaves.", "frog"),
    ("The name of the camouflaged animal is Owl.", "owl"),
    ("The name of the camouflaged animal is an owl.", "owl"),
    ("The answer is frog.", "frog"),
    ("Answer: Frog", "frog"),
    ("Name: Frog.", "frog"),
    ("Animal: stick insect", "stick insect"),
    ("Stick insect", "stick insect"),
    ("Leafy Sea Dragon", "leafy sea dragon"),
    ("A camouflaged owl", "owl"),
    ("Camouflaged lizard", "lizard"),
    ("A hidden chameleon in the foliage", "chameleon"),
    ("An owl is sitting on a tree branch.", "owl"),
    ("A frog blending in with the leaves", "frog"),
    ("There is a caterpillar on the leaf.", "caterpillar"),
    ("The animal in the image is a spider.", "spider"),
    ("The image shows an animal that looks like a moth.", "moth"),
    ("It looks like a crab.", "crab"),
    ("The animal appears to be a lizard.", "lizard"),
    ("The camouflaged animal seems to be a snake.", "snake"),
    ("The animal is likely a grasshopper.", "grasshopper"),
    ("It is most likely a praying mantis.", "praying mantis"),
    ("The creature resembles a seahorse.", "seahorse"),
    ("It can be identified as a pipefish.", "pipefish"),
    ("A species of frog", "frog"),
    ("A type of owl.", "owl"),
    ("Frog or toad", "frog"),
    ("Frog, toad, or lizard", "frog"),
    ("Polyp", "polyp"),
    ("Skin lesion", "skin lesion"),
    ('"Owl"', "owl"),
    ('The name is "Owl".', "owl"),
    ("“Horned owl”", "horned owl"),
    # Qwen-VL and InternVL: openings, markdown, tags, JSON
    ("Sure! The animal is an owl.", "owl"),
    ("Sure, owl.", "owl"),
    ("Yes, owl", "owl"),
    ("Certainly! Owl", "owl"),
    ("Of course. It is a frog.", "frog"),
    ("**Owl**", "owl"),
    ("**Owl**.", "owl"),
    ("The animal is a **horned owl**.", "horned owl"),
    ("**Answer:** Owl", "owl"),
    ("# Owl", "owl"),
    ("- Owl", "owl"),
    ("`owl`", "owl"),
    ("The camouflaged animal is:\n\n**Owl**", "owl"),
    ("<ref>owl</ref><box>[[100, 200, 500, 600]]</box>", "owl"),
    ("<ref> The owl</ref><box>(100,200),(500,600)</box>", "owl"),
    ("<|object_ref_start|>owl<|object_ref_end|><|box_start|>(100,200),(500,600)<|box_end|>", "owl"),
    ("Owl<|im_end|>", "owl"),
    ('{"name": "Owl"}', "owl"),
    ('{"animal": "Horned owl", "confidence": 0.9}', "horned owl"),
    ('```json\n{"name": "owl"}\n```', "owl"),
    ('```json\n[{"bbox_2d": [20, 20, 100, 60], "label": "frog"}]\n```', "frog"),
    ("[{'label': 'frog'}]", "frog"),
    # Chinese
    ("青蛙", "青蛙"),
    ("猫头鹰。", "猫头鹰"),
    ("这是一只青蛙。", "青蛙"),
    ("图中的动物是猫头鹰。", "猫头鹰"),
    ("伪装的动物是一只变色龙,隐藏在树叶中。", "变色龙"),
    ("一只绿色的青蛙", "青蛙"),
    ("答案:青蛙", "青蛙"),
    ("没有动物。", "none"),
    ("无法识别该动物", "none"),
    ("无", "none"),
    # refusals
    ("None", "none"),
    ("No.", "none"),
    ("No animal", "none"),
    ("There is no camouflaged animal in the image.", "none"),
    ("I cannot see any animal in this image.", "none"),
    ("I'm sorry, but I can't identify the animal.", "none"),
    ("Sorry, I am unable to determine the species.", "none"),
    ("I don't see any animal.", "none"),
    ("The animal is not visible.", "none"),
    ("Nothing", "none"),
    ("Unknown", "unknown"),
    # cut by the token limit, or gone on after the answer
    ("The name of the camouflaged", ""),
    ("The name of the camouflaged animal", ""),
    ("The name of", ""),
    ("The name of the camouflaged animal is", ""),
    ("The name of the camouflaged animal is a", ""),
    ("The camouflaged animal is a", ""),
    ("The animal appears to be", ""),
    ('The name is "Ow', ""),
    ('{"name": "Ow', ""),
    ('```json\n[{"bbox_2d": [20, 20, 100', ""),
    ("Owl\n\nThe owl is", "owl"),
    ("Owl\n\nThe owl is a nocturnal bird", "owl"),
    ("Owl\nThe animal", "owl"),
    ("Owl. The owl is a", "owl"),
    ("Owl, which is", "owl"),
    ("The camouflaged animal is: Owl", "owl"),
    ("Owl. It is a bird of prey.", "owl"),
    ("", ""),
]

BOXES = [
    # LLaVA: a list in [0, 1], bare and in a sentence
    ("[0.1, 0.2, 0.5, 0.6]", FRAME, [BOX]),
    ("[0.10,0.20,0.50,0.60]", FRAME, [BOX]),
    ("The bounding box of the camouflaged animal is [0.1, 0.2, 0.5, 0.6].", FRAME, [BOX]),
    ("Bounding box: [0.1, 0.2, 0.5, 0.6]</s>", FRAME, [BOX]),
    ("**[0.1, 0.2, 0.5, 0.6]**", FRAME, [BOX]),
    ("0.1, 0.2, 0.5, 0.6", FRAME, [BOX]),
    ("0.1 0.2 0.5 0.6", FRAME, [BOX]),
    ("The box is 0.1, 0.2, 0.5, 0.6.", FRAME, [BOX]),
    ("(0.1, 0.2, 0.5, 0.6)", FRAME, [BOX]),
    ("{0.1, 0.2, 0.5, 0.6}", FRAME, [BOX]),
    ("[0.1, 0.2, 0.5, 0.6] and [0.6, 0.2, 0.8, 0.6]", FRAME, [BOX, SECOND]),
    ("[[0.1, 0.2, 0.5, 0.6], [0.6, 0.2, 0.8, 0.6]]", FRAME, [BOX, SECOND]),
    ("1. [0.1, 0.2, 0.5, 0.6]\n2. [0.6, 0.2, 0.8, 0.6]", FRAME, [BOX, SECOND]),
    ("[0.5, 0.6, 0.1, 0.2]", FRAME, [BOX]),
    # in words
    ("x1=0.1, y1=0.2, x2=0.5, y2=0.6", FRAME, [BOX]),
    ("x1: 0.1, y1: 0.2, x2: 0.5, y2: 0.6", FRAME, [BOX]),
    ("The top-left corner is at (20, 20) and the bottom-right corner at (100, 60).", FRAME, [BOX]),
    ("There are 2 frogs; one from (20, 20) to (100, 60).", FRAME, [BOX]),
    ("x: 20, y: 20, width: 80, height: 40", FRAME, [BOX]),
    ("From 0.1 to 0.5 across, and that is all", FRAME, []),
    # pixel and 0-1000 scales
    ("[20, 20, 100, 60]", FRAME, [BOX]),
    ("[100, 200, 500, 600]", FRAME, [BOX]),
    ("[100, 200, 500, 600]", CoordinateFrame(False, "thousand"), [BOX]),
    ("(20,20),(100,60)", FRAME, [BOX]),
    ("(20,20),(100,60) (120,20),(160,60)", FRAME, [BOX, SECOND]),
    ("[20, 20], [100, 60]", FRAME, [BOX]),
    # Qwen-VL, Qwen2-VL and InternVL tags: 0-1000 whatever the size
    ("<ref>owl</ref><box>(100,200),(500,600)</box>", FRAME, [BOX]),
    ("<box>(10,20),(50,60)</box>", FRAME, [(2.0, 2.0, 10.0, 6.0)]),
    ("<ref>owl</ref><box>(100,200),(500,600)</box><box>(600,200),(800,600)</box>", FRAME, [BOX, SECOND]),
    ("<|object_ref_start|>owl<|object_ref_end|><|box_start|>(100,200),(500,600)<|box_end|>", FRAME, [BOX]),
    ("<ref>owl</ref><box>[[100, 200, 500, 600]]</box>", FRAME, [BOX]),
    ("<ref>owls</ref><box>[[100, 200, 500, 600], [600, 200, 800, 600]]</box>", FRAME, [BOX, SECOND]),
    ("<box>[[0.1, 0.2, 0.5, 0.6]]</box>", FRAME, [BOX]),
    # JSON
    ('[{"bbox_2d": [20, 20, 100, 60], "label": "frog"}]', CoordinateFrame(False, "pixel"), [BOX]),
    ('{"bbox_2d": [100, 200, 500, 600]}', CoordinateFrame(False, "thousand"), [BOX]),
    ('```json\n[\n\t{"bbox_2d": [20, 20, 100, 60], "label": "frog"}\n]\n```', FRAME, [BOX]),
    (
        '```json\n[{"bbox_2d": [20, 20, 100, 60], "label": "a"}, {"bbox_2d": [120, 20, 160, 60], "label": "b"}]\n```',
        FRAME,
        [BOX, SECOND],
    ),
    ('```json\n{"bbox": [\n  20,\n  20,\n  100,\n  60\n]}\n```', FRAME, [BOX]),
    ('{"x1": 20, "y1": 20, "x2": 100, "y2": 60}', FRAME, [BOX]),
    (
        '[{"x1": 20, "y1": 20, "x2": 100, "y2": 60}, {"x1": 120, "y1": 20, "x2": 160, "y2": 60}]',
        FRAME,
        [BOX, SECOND],
    ),
    ('{"x": 20, "y": 20, "width": 80, "height": 40}', FRAME, [BOX]),
    # Chinese
    ("边界框为[0.1, 0.2, 0.5, 0.6]。", FRAME, [BOX]),
    ("左上角(20, 20),右下角(100, 60)", FRAME, [BOX]),
    ("没有目标。", FRAME, []),
    # refusals and echoes
    ("There is no camouflaged animal.", FRAME, []),
    ("I'm sorry, I cannot give coordinates.", FRAME, []),
    ("[0, 0, 0, 0]", FRAME, []),
    ("[]", FRAME, []),
    ("[x1, y1, x2, y2]", FRAME, []),
    ("", FRAME, []),
    # cut by the token limit
    ("[0.21, 0.35, 0.78, 0.", FRAME, []),
    ("[0.21, 0.35, 0.78, 0.9", FRAME, []),
    ("[123, 456, 789, 90", FRAME, []),
    ("The bounding box is [0.21, 0.35, 0.78, 0.", FRAME, []),
    ("0.21, 0.35, 0.78, 0.", FRAME, []),
    ("[0.21, 0.35", FRAME, []),
    ("(20,20),(100,60", FRAME, []),
    ("<box>(100,200),(500,60", FRAME, []),
    ("x1 = 20, y1 = 20, (x2 = 100, y2 = 6", FRAME, []),
    ('{"x1": 20, "y1": 20, "x2": 100, "y2": 6', FRAME, []),
    ('```json\n[{"bbox_2d": [20, 20, 100, 6', FRAME, []),
    ('[{"bbox_2d": [20, 20, 100, 60], "label": "frog"}, {"bbox_2d": [120, 20, 16', FRAME, [BOX]),
    ("[[0.1, 0.2, 0.5, 0.6], [0.6, 0.2,", FRAME, [BOX]),
]


CUT_NAMES = [
    ("The camouflaged animal is a cha", ""),
    ("It is a leaf-tailed ge", "leaf-tailed"),
    ("This is a chameleon wh", "chameleon"),
    ("Owl\n\nThe owl is a nocturnal bi", "owl"),
    ("Owl, which li", "owl"),
    ("这张图片中的动物是变色龙，它正", "变色龙"),
    ("这张图片中的动物是变", ""),
    ("Grassho", ""),
]
CUT_BOXES: list[tuple[str, list[tuple[float, ...]]]] = [
    ("20, 20, 100, 6", []),
    ("20, 20, 100, 60, and the ot", [BOX]),
    ("[20, 20, 100, 60]", [BOX]),
    ("[20, 20, 100, 60] is the bo", [BOX]),
    ("x1=20 y1=20 x2=100 y2=6", []),
]


@pytest.mark.parametrize(("answer", "name"), CUT_NAMES)
def test_of_an_answer_that_did_not_end_by_itself_the_last_word_is_not_read(answer: str, name: str) -> None:
    assert parse_name(Answer(answer, ended=False)) == name
    assert parse_name(Answer(answer)) == parse_name(answer) != ""


@pytest.mark.parametrize(("answer", "expected"), CUT_BOXES)
def test_nor_are_bare_numbers_at_which_it_breaks_off(answer: str, expected: list[tuple[float, ...]]) -> None:
    boxes = parse_boxes(Answer(answer, ended=False), FRAME, height=100, width=200)
    assert [pytest.approx(box.as_tuple()) for box in boxes] == expected
    assert len(parse_boxes(Answer(answer), FRAME, height=100, width=200)) == 1


def test_an_answer_is_its_text() -> None:
    cut = Answer("Owl", ended=False)
    assert (cut, was_cut(cut), was_cut(Answer("Owl")), was_cut("Owl")) == ("Owl", True, False, False)
    assert was_cut(pickle.loads(pickle.dumps(cut)))  # noqa: S301 our own


def test_the_table_is_long_enough() -> None:
    assert len(NAMES) + len(BOXES) >= 120


@pytest.mark.parametrize(("answer", "name"), NAMES)
def test_names(answer: str, name: str) -> None:
    assert parse_name(answer) == name


@pytest.mark.parametrize(("answer", "frame", "expected"), BOXES)
def test_boxes(answer: str, frame: CoordinateFrame, expected: list[tuple[float, ...]]) -> None:
    """The patch is 100 pixels high and 200 wide."""
    boxes = parse_boxes(answer, frame, height=100, width=200)
    assert [pytest.approx(box.as_tuple()) for box in boxes] == expected
