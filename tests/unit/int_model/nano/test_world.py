"""The miniature world: scenes are functions of their numbers, masks are exact, train and test do not overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from int_model.nano.pool import CHUNK, draw
from int_model.nano.scenes import SIDE, Scene, SceneGenerator
from int_model.nano.textures import texture
from int_model.nano.world import ALL_ENVIRONMENTS, ANIMALS, NAMES, OBJECTS, TASKS, UNSEEN_BY_SEGMENTER, task_of


@pytest.fixture(scope="module")
def generators() -> dict[str, SceneGenerator]:
    return {split: SceneGenerator(split, 3, tiles=2) for split in ("train", "test")}  # type: ignore[arg-type]


def some(generator: SceneGenerator, count: int = 12) -> list[Scene]:
    return [generator.scene(index) for index in range(count)]


def test_the_world_is_as_large_as_promised() -> None:
    assert len(ANIMALS) >= 20
    assert len(set(NAMES)) == len(NAMES)
    assert len({glyph for glyph, _ in ANIMALS.values()} | set(OBJECTS.values())) == len(ANIMALS) + len(OBJECTS)
    assert set(TASKS) == {"camouflaged animal", "polyp", "skin lesion"}
    assert set(UNSEEN_BY_SEGMENTER) < set(ANIMALS)
    assert task_of("crab") == "camouflaged animal"
    assert task_of("guitar") is None


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_scene_depends_on_its_number_alone(split: str, generators: dict[str, SceneGenerator]) -> None:
    again = SceneGenerator(split, 3, tiles=2)  # type: ignore[arg-type]
    last_first = [again.scene(index) for index in (5, 2)]
    for scene, index in zip(last_first, (5, 2), strict=True):
        twin = generators[split].scene(index)
        assert np.array_equal(scene.image, twin.image)
        assert np.array_equal(scene.mask, twin.mask)
        assert scene.name == twin.name


@pytest.mark.parametrize("split", ["train", "test"])
def test_masks_are_exact_and_apart(split: str, generators: dict[str, SceneGenerator]) -> None:
    for scene in some(generators[split]):
        assert max(scene.image.shape[:2]) == SIDE
        assert scene.targets, "every scene shows what its task asks for"
        assert scene.name in TASKS[scene.task].names
        stack = np.sum([thing.mask for thing in scene.objects], axis=0)
        assert stack.max() == 1, "no pixel belongs to two things"
        assert np.array_equal(scene.mask, np.any([t.mask for t in scene.targets], axis=0))
        assert scene.mask.sum() > 40


def test_camouflage_brings_an_animal_closer_to_its_surroundings() -> None:
    def contrast(strength: float) -> float:
        generator = SceneGenerator(
            "train", 5, tiles=2, tasks=("camouflaged animal",), weights=(1.0,), camouflage=(strength,) * 2
        )
        values = []
        for scene in some(generator, 10):
            rest = ~np.any([thing.mask for thing in scene.objects], axis=0)
            values.append(np.abs(scene.image[scene.mask].mean(0) - scene.image[rest].mean(0)).mean())
        return float(np.mean(values))

    assert contrast(0.9) < contrast(0.0)


def test_train_and_test_textures_differ_in_scale_and_hue() -> None:
    for environment in ALL_ENVIRONMENTS[:3]:
        assert not np.array_equal(texture(environment, "train", 1), texture(environment, "test", 1))


def test_an_avoided_animal_never_appears() -> None:
    generator = SceneGenerator(
        "train", 1, avoid=tuple(list(ANIMALS)[1:]), tiles=2, tasks=("camouflaged animal",), weights=(1.0,)
    )
    assert {scene.name for scene in some(generator, 5)} == {"elephant"}


@pytest.mark.slow
def test_the_pool_gives_back_what_was_drawn(tmp_path: Path) -> None:
    pool = draw(tmp_path, 1, seed=3, processes=1)
    assert len(pool) == CHUNK
    scene = SceneGenerator("train", 3, smudges=True, tiles=40).scene(17)
    pooled = pool[17]
    assert np.array_equal(pooled.image, scene.image)
    assert np.array_equal(pooled.ids > 0, np.any([t.mask for t in scene.objects], axis=0))
    assert NAMES[pooled.target] == scene.name
