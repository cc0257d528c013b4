"""Scenes with expressions: reproducible, true of what they mean, and without masks in what training is given."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import int_model
from int_model.evaluation.referring import referring_table
from int_model.models.suite import ModelSuite, load_suite
from int_model.nano.referring.ppt import answered, figures_of, held_out, object_pairs, referring_pairs
from int_model.nano.referring.scenes import HUES, ReferringScene, ReferringScenes, tinted
from int_model.point_prompting.generator.filters import PointFilter
from int_model.point_prompting.generator.network import parameter_count
from int_model.point_prompting.ppt import path_of, trained
from int_model.strategies.ppt import PptConfig
from int_model.strategies.registry import default_config


@pytest.fixture(scope="module")
def scenes() -> list[ReferringScene]:
    return list(ReferringScenes("train", 3, tiles=2).scenes(30))


def test_a_scene_is_a_function_of_its_number(scenes: list[ReferringScene]) -> None:
    again = ReferringScenes("train", 3, tiles=2).scene(17)
    assert np.array_equal(again.image, scenes[17].image)
    assert again.expressions == scenes[17].expressions
    other = ReferringScenes("test", 3, tiles=2).scene(17)
    assert not np.array_equal(other.image[:100, :100], scenes[17].image[:100, :100])


def test_things_do_not_overlap_and_every_expression_means_one_of_them(scenes: list[ReferringScene]) -> None:
    kinds = set()
    for scene in scenes:
        for i, thing in enumerate(scene.things):
            assert not any((thing.mask & other.mask).any() for other in scene.things[:i])
        for said in scene.expressions:
            kinds.add(said.kind)
            if said.thing < 0:
                continue
            thing = scene.things[said.thing]
            assert thing.name in said.text
            if said.kind == "attribute":
                assert f"the {thing.colour} {thing.name}" == said.text
                twins = [other for other in scene.things if (other.name, other.colour) == (thing.name, thing.colour)]
                assert len(twins) == 1
    assert kinds >= {"name", "attribute", "place", "absent"}


def test_absent_expressions_are_true_of_nothing(scenes: list[ReferringScene]) -> None:
    for scene in scenes:
        shown = {thing.name for thing in scene.things} | {f"{thing.colour} {thing.name}" for thing in scene.things}
        assert all(said.text.removeprefix("the ") not in shown for said in scene.expressions if said.kind == "absent")


@pytest.mark.parametrize("colour", list(HUES))
def test_a_thing_has_the_hue_of_its_colour(colour: str) -> None:
    painted = np.random.default_rng(0).integers(30, 220, (20, 20, 3)).astype(np.float32)
    hue = cv2.cvtColor(tinted(painted, colour, np.random.default_rng(1)).astype(np.uint8), cv2.COLOR_RGB2HSV)[..., 0]
    away = np.abs((hue.astype(np.int64) - HUES[colour] + 90) % 180 - 90)
    assert np.median(away) <= 6


def test_pairs_hold_texts_only() -> None:
    alone = list(ReferringScenes("train", 3, most=1, tiles=2).scenes(3))
    objects = object_pairs(alone)
    assert [pair.text for pair in objects.pairs] == [scene.expressions[0].text for scene in alone]
    assert len(objects.object_centric().pairs) == 3
    several = list(ReferringScenes("train", 3, tiles=2).scenes(6))
    pairs = referring_pairs(several, most=3)
    for pair in pairs.pairs:
        scene = several[int(pair.image)]
        (said,) = [said for said in scene.expressions if said.text == pair.text]
        assert pair.referent == f"thing {said.thing}"
        assert said.thing >= 0
    assert max(len(own) for own in pairs.of_image().values()) <= 3


def test_held_out_pairs_are_as_many_as_asked_for_and_come_with_absent_ones() -> None:
    rows = list(islice(held_out(9, seed=5), 40))
    present = [row for row in rows if row[4] is not None]
    assert len(present) == 9
    assert 4 <= len(rows) - len(present) <= 6
    assert all(mask.shape == image.shape[:2] for _, _, image, _, mask in present if mask is not None)


# ------------------------------------------------------- the shipped generator

GENERATOR = Path(int_model.__file__).parent / "nano" / "checkpoints" / "ppt" / "generator.safetensors"


@pytest.fixture(scope="module")
def suite() -> ModelSuite:
    torch.set_num_threads(1)
    return load_suite("nano", device="cpu", offline=True)


def test_the_profile_names_the_shipped_generator(suite: ModelSuite) -> None:
    config = default_config("ppt", suite.int_overrides)
    assert isinstance(config, PptConfig)
    assert path_of(config.ppt.generator) == GENERATOR
    assert GENERATOR.stat().st_size < 2_000_000
    assert parameter_count(trained(GENERATOR).network) < 1_000_000


@pytest.mark.slow
def test_the_shipped_generator_points_at_what_is_meant(suite: ModelSuite, tmp_path: Path) -> None:
    """Above chance on two dozen pairs (a thing covers some 6 % of a scene); figures: docs/point_prompting.md."""
    kept = tmp_path / "kept.jsonl"
    scores = answered(suite, {"PPT": GENERATOR}, 24, PointFilter(), kept, lambda _: None)
    figures = referring_table(scores["PPT"], rounds=50)
    assert figures["positives on the object"].value > 0.1
    assert figures["negatives beside it"].value > 0.6
    assert figures["mIoU"].value > 0.2
    assert len(kept.read_text().splitlines()) == sum(len(own) for own in scores.values())
    again = answered(suite, {"PPT": GENERATOR}, 24, PointFilter(), kept, lambda _: None)
    assert again == scores
    assert set(figures_of(scores, PointFilter())["against_b0"]) >= {"PPT", "B1 heat map"}
