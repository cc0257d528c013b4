"""Worlds of drawn scenes behind one interface, so that nothing is tuned on a single one.

``WORLDS["mosaic"].scene(seed, index, Cell(place="away"))`` is a function of its arguments alone. A world's ``use`` says
what it may be used for: defaults are *chosen* on some, *confirmed* on others, and ``drift`` is *held out*: no choice
(option, threshold, training) may ever look at it; it is only reported.

All worlds show the animals of ``int_model.nano.world`` and the task prompt "camouflaged animal" (``home`` shows polyps
and lesions too), so both bundled kits can be asked about each of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from int_model.nano.drawing import ANY, TASK, Cell, StyledScenes
from int_model.nano.scenes import Place, Scene, SceneGenerator
from int_model.nano.styles import DRIFT, MOSAIC, NATURAL, WOVEN

Use = Literal["choose", "confirm", "held-out"]
Draw = Callable[[int, int, Cell], Scene]
DEFAULT = "home"
STRENGTHS: dict[str, tuple[float, float]] = {"plain": (0.0, 0.25), "half": (0.4, 0.6), "hidden": (0.7, 0.95)}
CLUTTER: dict[str, int] = {"clean": 0, "cluttered": 3}
PLACES: tuple[Place, ...] = ("home", "away")


@dataclass(frozen=True, slots=True)
class World:
    """A world: what it may be used for, how it looks, its scenes."""

    name: str
    use: Use
    looks: str
    draw: Draw

    def scene(self, seed: int, index: int, cell: Cell = ANY) -> Scene:
        """Scene ``index`` of ``seed``, as ``cell`` wants it; the same for ever."""
        return self.draw(seed, index, cell)


def table_cells() -> dict[str, Cell]:
    """The cells of the table "where does INT pay?": camouflage x clutter x place, by label."""
    return {
        f"{strength}, {clutter}, {place}": Cell(STRENGTHS[strength], CLUTTER[clutter], place)
        for strength, clutter, place in itertools.product(STRENGTHS, CLUTTER, PLACES)
    }


def world_named(name: str) -> World:
    """The world of this name. Raises ``ValueError`` that lists the names."""
    if name not in WORLDS:
        raise ValueError(f"there is no world '{name}'; choose one of: {', '.join(WORLDS)}")
    return WORLDS[name]


def _home() -> Draw:
    generators: dict[tuple[int, Cell], SceneGenerator] = {}

    def generator(seed: int, cell: Cell) -> SceneGenerator:
        if (seed, cell) not in generators:
            fixed = {"targets": cell.targets, "clutter": cell.clutter, "place": cell.place}
            kind = {} if cell == ANY else {"tasks": (TASK,), "weights": (1.0,)}
            strength = {} if cell.camouflage is None else {"camouflage": cell.camouflage}
            generators[seed, cell] = SceneGenerator("test", seed, **fixed, **kind, **strength)  # type: ignore[arg-type]
        return generators[seed, cell]

    def draw(seed: int, index: int, cell: Cell) -> Scene:
        for attempt in range(100):  # the first world leaves out what finds no place
            scene = generator(seed, cell).scene(index + 1_000_003 * attempt)
            found = scene.factors
            if cell.targets in (None, found.targets) and cell.clutter in (None, found.clutter):
                return scene
        raise RuntimeError(f"no place for what {cell} asks for")

    return draw


def _styled(scenes: StyledScenes) -> Draw:
    return lambda seed, index, cell: scenes.scene(seed, index, cell)


WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World("home", "choose", "the kit's own: noise, cells and strokes; glyphs recoloured by the texture", _home()),
        World(
            "mosaic",
            "choose",
            "flat stones between joints; blocky glyphs; mean and spread of colour matched to the ground",
            _styled(StyledScenes(MOSAIC)),
        ),
        World(
            "habits",
            "confirm",
            "the second kit's own: natural patterns, animals in their own colours; half of them out of place",
            _styled(StyledScenes(NATURAL, tiles=range(1000, 1024))),
        ),
        World(
            "woven",
            "confirm",
            "crossing threads; glyphs as reliefs of one colour; the ground runs on through the body",
            _styled(StyledScenes(WOVEN)),
        ),
        World(
            "drift",
            "held-out",
            "spots and stripes; hatched glyphs; coarse tones of the ground, fine ones of the body",
            _styled(StyledScenes(DRIFT)),
        ),
    )
}
"""By name; ``home`` is the default, ``drift`` is held out."""
