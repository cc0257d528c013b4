"""Scenes of the miniature world with several things and expressions that refer to one of them.

Expressions say a name, a colour, a place, a size or a neighbour: "the frog", "the red bee", "the left fish", "the small
duck", "the crab next to the boot". A scene is a function of (split, seed, index) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from int_model.core.types import Image, Mask
from int_model.nano.scenes import SIDE, Canvas, SceneGenerator, camouflaged
from int_model.nano.textures import Split, TextureBank, texture
from int_model.nano.world import ANIMALS, ENVIRONMENTS, OBJECTS
from int_model.point_prompting.generator.expressions import Described, Kind, singling_out

HUES: dict[str, float] = {"red": 0, "yellow": 27, "green": 60, "blue": 112, "purple": 146}
"""Colour words with their hue as OpenCV counts it (0 to 179)."""
SaidKind = Kind | Literal["absent"]
_NAMES = (*ANIMALS, *OBJECTS)


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One thing in a scene: name, colour word, visible pixels."""

    name: str
    colour: str
    mask: Mask

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y), the mean of its pixels."""
        ys, xs = np.nonzero(self.mask)
        return float(xs.mean()), float(ys.mean())

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True)
class Expression:
    """A text and the thing that it means (its number in the scene); -1 where the scene shows nothing like it."""

    text: str
    thing: int
    kind: SaidKind


@dataclass(frozen=True, slots=True, eq=False)
class ReferringScene:
    """An image, the things in it, and what can be said to mean one of them."""

    image: Image
    things: tuple[Thing, ...]
    expressions: tuple[Expression, ...]


@dataclass
class ReferringScenes:
    """Draws scenes; ``most`` things at most, a single one for object-centric images."""

    split: Split
    seed: int = 0
    most: int = 4
    tiles: int = 16
    camouflage: tuple[float, float] = (0.0, 0.35)
    _scenes: SceneGenerator = field(init=False, repr=False)
    _bank: TextureBank = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._scenes = SceneGenerator(self.split, self.seed, tiles=1)
        self._bank = TextureBank(functools.partial(_tile, self.split), self.tiles)

    def scenes(self, count: int) -> Iterator[ReferringScene]:
        """The first ``count`` scenes."""
        return (self.scene(index) for index in range(count))

    def scene(self, index: int) -> ReferringScene:
        """Scene number ``index``; the same for ever for one (split, seed, index)."""
        rng = np.random.default_rng([self.seed, 77 + int(self.split == "test"), self.most, index])
        shape = [(SIDE, SIDE), (SIDE, SIDE), (SIDE * 3 // 4, SIDE), (SIDE, SIDE * 3 // 4)][int(rng.integers(4))]
        environment = str(rng.choice(ENVIRONMENTS))
        canvas = self._bank.cut(environment, shape, rng).astype(np.float32)
        taken: Mask = np.zeros(shape, dtype=np.bool_)
        things: list[Thing] = []
        for name, colour in self._cast(rng):
            placed = self._place(name, colour, taken, rng, shape)
            if placed is None:
                continue
            alpha, painted = placed
            texture = self._bank.cut(environment, shape, rng).astype(np.float32)
            canvas = camouflaged(canvas, alpha, painted, texture, float(rng.uniform(*self.camouflage)), rng)
            solid = alpha > 0.5
            taken |= cv2.dilate(solid.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            things = [Thing(thing.name, thing.colour, thing.mask & ~solid) for thing in things]
            things.append(Thing(name, colour, solid))
        grain = rng.standard_normal(canvas.shape, dtype=np.float32)
        image = np.clip(canvas * rng.uniform(0.9, 1.1) + 2.5 * grain, 0, 255).astype(np.uint8)
        return ReferringScene(image, tuple(things), tuple(expressions(things, shape, rng)))

    def _cast(self, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Names and colours of what is to be drawn; often two of a kind, so that a name alone does not do."""
        count = 1 if self.most == 1 else int(rng.integers(2, self.most + 1))
        names = [str(name) for name in rng.choice(_NAMES, count, replace=False)]
        if count > 1 and rng.random() < 0.6:
            names[1] = names[0]
        colours = [str(rng.choice(list(HUES))) for _ in names]
        return list(zip(names, colours, strict=True))

    def _place(
        self, name: str, colour: str, taken: Mask, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Canvas, Canvas] | None:
        """Alpha and paint of a thing where little else lies; None if no place was found."""
        low, high = (0.32, 0.6) if self.most == 1 else (0.2, 0.38)
        for _ in range(12):
            alpha, painted = self._scenes.posed(name, rng, float(rng.uniform(low, high)), shape)
            solid = alpha > 0.5
            if solid.sum() > 220 and (solid & taken).sum() < 0.03 * solid.sum():
                return alpha, tinted(painted, colour, rng)
        return None


def _tile(split: Split, environment: str, number: int) -> Image:
    return texture(environment, split, number)


def tinted(painted: Canvas, colour: str, rng: np.random.Generator) -> Canvas:
    """The thing in the hue of a colour word: all its pixels have that hue, the shading stays."""
    hsv = cv2.cvtColor(np.clip(painted, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = int(HUES[colour] + rng.uniform(-5, 5)) % 180
    hsv[..., 1] = np.maximum(hsv[..., 1], 150)
    hsv[..., 2] = np.clip(hsv[..., 2], 70, 235)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


def expressions(things: list[Thing], shape: tuple[int, int], rng: np.random.Generator) -> list[Expression]:
    """What can be said of a scene, each true of exactly one thing; at the end two that are true of none."""
    if len(things) == 1:
        only = things[0]
        text = f"a {only.colour} {only.name}" if rng.random() < 0.6 else f"a {only.name}"
        return [Expression(text, 0, "attribute" if only.colour in text else "name")]
    described = [
        Described(t.name, t.colour, (t.centre[0] / shape[1], t.centre[1] / shape[0]), t.area / (shape[0] * shape[1]))
        for t in things
    ]
    said = [
        Expression(text, number, kind)
        for number in range(len(things))
        for kind, text in singling_out(number, described)
    ]
    absent_name = str(rng.choice([name for name in _NAMES if name not in {thing.name for thing in things}]))
    said.append(Expression(f"the {absent_name}", -1, "absent"))
    if things:
        thing = things[int(rng.integers(len(things)))]
        shown = {other.colour for other in things if other.name == thing.name}
        said.append(Expression(f"the {rng.choice([c for c in HUES if c not in shown])} {thing.name}", -1, "absent"))
    return said
