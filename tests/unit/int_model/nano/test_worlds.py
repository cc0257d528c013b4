"""Every world: scenes are functions of their numbers, masks lie inside, factors do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from int_model.evaluation import Selected
from int_model.nano.drawing import ANY, Cell
from int_model.nano.examples import NanoScenes
from int_model.nano.glyphs import FONT, drawn, glyph
from int_model.nano.scenes import Scene, SceneGenerator
from int_model.nano.world import ANIMALS, NAMES, OBJECTS, TASKS
from int_model.nano.worlds import STRENGTHS, WORLDS, table_cells, world_named

everywhere = pytest.mark.parametrize("name", list(WORLDS))


def some(name: str, cell: Cell = ANY, count: int = 6, seed: int = 5) -> list[Scene]:
    return [WORLDS[name].scene(seed, index, cell) for index in range(count)]


def distance_of_colours(scene: Scene) -> float:
    rest = ~np.any([thing.mask for thing in scene.objects], axis=0)
    return float(np.abs(scene.image[scene.mask].mean(0) - scene.image[rest].mean(0)).mean())


def test_one_world_is_held_out_and_choices_are_confirmed_elsewhere() -> None:
    uses = [world.use for world in WORLDS.values()]
    assert uses.count("held-out") == 1
    assert uses.count("choose") >= 2
    assert uses.count("confirm") >= 2
    assert world_named("drift").use == "held-out"
    with pytest.raises(ValueError, match="no world 'mars'; choose one of: home, mosaic"):
        world_named("mars")


def test_the_first_world_is_the_kit_s_test_set() -> None:
    generator = SceneGenerator("test", 2501)
    for index, scene in enumerate(some("home", count=4, seed=2501)):
        assert np.array_equal(scene.image, generator.scene(index).image)


@everywhere
def test_a_scene_depends_on_its_numbers_alone(name: str) -> None:
    cell = Cell(place="away", targets=2)
    first = some(name, cell, 3)
    assert [scene.image.tobytes() for scene in reversed(first)] == [
        WORLDS[name].scene(5, index, cell).image.tobytes() for index in (2, 1, 0)
    ]
    assert len({scene.image.tobytes() for scene in [*first, *some(name, cell, 3, seed=6)]}) == 6


@everywhere
def test_masks_are_of_the_image_s_size_and_apart(name: str) -> None:
    for scene in some(name, Cell(targets=3, clutter=3), 4):
        stack = np.sum([thing.mask for thing in scene.objects], axis=0)
        assert stack.shape == scene.image.shape[:2]
        assert stack.max() == 1
        assert all(thing.mask.sum() > 80 for thing in scene.targets)
        assert np.array_equal(scene.mask, np.any([thing.mask for thing in scene.targets], axis=0))
        assert scene.name in TASKS[scene.task].names


@everywhere
@pytest.mark.parametrize(("targets", "clutter"), [(0, 2), (1, 0), (5, 1), (2, 4)])
def test_as_many_things_as_asked_for(name: str, targets: int, clutter: int) -> None:
    for scene in some(name, Cell(targets=targets, clutter=clutter), 3):
        assert (scene.factors.targets, scene.factors.clutter) == (targets, clutter)
        assert len(scene.targets) == targets
        assert {thing.name for thing in scene.objects} - {scene.name} <= set(OBJECTS)
        assert scene.mask.any() == (targets > 0)


@everywhere
def test_places(name: str) -> None:
    homes = [(ANIMALS[scene.name][1], scene) for scene in some(name, Cell(place="home", targets=1))]
    assert all(scene.environment == home and scene.factors.place == "home" for home, scene in homes)
    away = [(ANIMALS[scene.name][1], scene) for scene in some(name, Cell(place="away", targets=1))]
    assert all(scene.environment != home and scene.factors.place == "away" for home, scene in away)


@everywhere
def test_camouflage_brings_animals_closer_to_their_surroundings(name: str) -> None:
    means = {}
    for label, strengths in STRENGTHS.items():
        scenes = some(name, Cell(strengths, 0, "away", 1), 16)
        assert all(strengths[0] <= scene.factors.camouflage <= strengths[1] for scene in scenes)
        means[label] = np.mean([distance_of_colours(scene) for scene in scenes])
    assert means["hidden"] < 0.8 * means["plain"]
    assert means["hidden"] < means["half"]


def test_worlds_look_different() -> None:
    """The spread of neighbouring pixels' differences tells the textures apart."""
    rough = {}
    for name in WORLDS:
        empty = some(name, Cell(targets=0, clutter=0), 8)
        rough[name] = np.mean([np.abs(np.diff(scene.image.astype(float), axis=1)).mean() for scene in empty])
    values = sorted(rough.values())
    assert values[-1] > 1.5 * values[0], rough


def test_a_cell_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 5 targets"):
        Cell(targets=6)
    with pytest.raises(ValueError, match="within 0 to 1"):
        Cell((0.5, 1.5))


def test_scenes_of_a_world_as_examples() -> None:
    table = NanoScenes(2, (1, 2), "mosaic", table=True)
    assert len(table) == 2 * 2 * len(table_cells()) == 48
    part = list(Selected(table, range(5, 48, 12)))
    assert [example.id for example in part] == [table[place].id for place in (5, 17, 29, 41)]
    assert {example.group for example in (table[place] for place in range(48))} == set(table_cells())
    assert len({table[place].id for place in range(48)}) == 48
    empty = NanoScenes(1, world="woven", cell=Cell(targets=0))[0]
    assert (empty.name, empty.instances, empty.truth.any()) == (None, (), False)
    with pytest.raises(ValueError, match="no world 'mars'"):
        NanoScenes(1, world="mars")


@pytest.mark.skipif(not FONT.is_file(), reason="the emoji font is missing: apt-get install fonts-noto-color-emoji")
def test_the_atlas_holds_what_the_font_draws() -> None:
    for character in (*(character for character, _ in ANIMALS.values()), *OBJECTS.values()):
        assert np.array_equal(glyph(character), drawn(character))


def test_no_font_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("int_model.nano.glyphs.FONT", Path("/nowhere"))
    assert {scene.name for scene in some("home", count=3)} <= set(NAMES)
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        glyph("\U0001f9ff")
