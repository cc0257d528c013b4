"""Scenes of one style: glyphs of any number, at home or not, disguised to any degree, among other things or alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Mask
from int_model.nano.glyphs import glyph
from int_model.nano.scenes import SIDE, Canvas, Place, Scene, SceneObject, smudge
from int_model.nano.styles import Style
from int_model.nano.textures import TextureBank
from int_model.nano.world import ANIMALS, ENVIRONMENTS, OBJECTS

TASK = "camouflaged animal"
CAMOUFLAGE = (0.35, 0.85)
_TARGETS = (0.06, 0.54, 0.2, 0.1, 0.06, 0.04)  # how often a scene holds 0 to 5 of what is sought
_CLUTTER = (0.25, 0.3, 0.2, 0.15, 0.1)  # how often 0 to 4 other things
_LARGEST = (0.6, 0.42, 0.36, 0.32, 0.3)
_ATTEMPTS = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """What scenes are asked to be like; None leaves it to chance. ``camouflage`` is a range of strengths in [0, 1].

    Raises ``ValueError`` for more than 5 targets, more than 4 other things, or a range outside of [0, 1].
    """

    camouflage: tuple[float, float] | None = None
    clutter: int | None = None
    place: Place | None = None
    targets: int | None = None

    def __post_init__(self) -> None:
        low, high = self.camouflage or (0.0, 1.0)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"camouflage is a range within 0 to 1, not {low} to {high}")
        if not 0 <= (self.clutter or 0) <= len(_CLUTTER) - 1 or not 0 <= (self.targets or 0) <= len(_TARGETS) - 1:
            raise ValueError("a scene holds 0 to 5 targets and 0 to 4 other things")


ANY = Cell()


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """A glyph to be placed: its window's corner, and in the window alpha ``[h, w]`` and colour ``[h, w, 3]``."""

    y: int
    x: int
    alpha: NDArray[np.float32]
    colour: Canvas


@dataclass
class StyledScenes:
    """Draws scenes of a style; scene (seed, index, cell) is the same for ever.

    ``tiles`` numbers the texture tiles to draw from, ``choose`` may pick name and environment together
    (``(rng, place)`` to both; by default every animal is as likely), ``smudges`` is how often a free region is painted
    over as an inpainter would.
    """

    style: Style
    tiles: range = range(24)
    choose: Callable[[np.random.Generator, Place | None], tuple[str, str]] | None = None
    smudges: float = 0.0
    targets: tuple[float, ...] = _TARGETS
    _glyphs: dict[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        first = self.tiles.start
        self._bank = TextureBank(lambda environment, n: self.style.tile(environment, first + n), len(self.tiles))
        self._grain = np.random.default_rng(self.style.number).standard_normal((512, 512, 3)).astype(np.float32)

    def scene(self, seed: int, index: int, cell: Cell = ANY) -> Scene:
        """Scene ``index`` of ``seed``, as ``cell`` wants it."""
        for attempt in range(_ATTEMPTS):
            found = self._draw(np.random.default_rng([self.style.number, seed, index, attempt]), cell)
            if found is not None:
                return found
        raise RuntimeError(f"no place for what {cell} asks for in {_ATTEMPTS} attempts")

    def _draw(self, rng: np.random.Generator, cell: Cell) -> Scene | None:
        """A scene; None if not everything found a place."""
        name, environment = (self.choose or any_animal)(rng, cell.place)
        height, width = [(SIDE, SIDE), (SIDE, SIDE), (SIDE * 3 // 4, SIDE), (SIDE, SIDE * 3 // 4)][int(rng.integers(4))]
        canvas = self._bank.cut(environment, (height, width), rng).astype(np.float32)
        count = int(rng.choice(len(self.targets), p=self.targets))
        others = int(rng.choice(len(_CLUTTER), p=_CLUTTER))
        count = count if cell.targets is None else cell.targets
        others = others if cell.clutter is None else cell.clutter
        todo = [(name, True)] * count + [(str(rng.choice(list(OBJECTS))), False)] * min(1, others)
        todo += [(str(rng.choice(list(OBJECTS))), False) for _ in range(others - 1)]
        taken = np.zeros((height, width), dtype=np.bool_)
        objects: list[SceneObject] = []
        for thing, sought in todo:
            strength = float(rng.uniform(*(cell.camouflage or CAMOUFLAGE)) if sought else rng.uniform(0.2, 0.7))
            largest = _LARGEST[count - 1] if sought else 0.36
            pose = self._placed(thing, rng, largest, taken)
            if pose is None:
                return None
            rows, cols = (slice(pose.y, pose.y + pose.alpha.shape[0]), slice(pose.x, pose.x + pose.alpha.shape[1]))
            texture = self._bank.cut(environment, (pose.alpha.shape[0], pose.alpha.shape[1]), rng).astype(np.float32)
            ground = canvas[rows, cols]
            canvas[rows, cols] = self.style.blend(ground, pose.alpha, pose.colour, texture, strength, rng)
            mask = np.zeros((height, width), dtype=np.bool_)
            mask[rows, cols] = pose.alpha > 0.5
            objects = [SceneObject(o.name, o.mask & ~mask, o.camouflage) for o in objects]
            objects.append(SceneObject(thing, mask, strength))
            taken |= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        if any(thing.mask.sum() < 150 for thing in objects):
            return None
        if rng.random() < self.smudges:
            canvas = smudge(canvas, taken, rng)
        y, x = (int(v) for v in rng.integers(0, 512 - SIDE, 2))
        canvas = canvas * rng.uniform(0.9, 1.1) + 2.5 * self._grain[y : y + height, x : x + width]
        image = np.clip(canvas, 0, 255).astype(np.uint8)
        return Scene(image, TASK, environment, name if count else "", tuple(objects))

    def _placed(self, name: str, rng: np.random.Generator, largest: float, taken: Mask) -> Pose | None:
        """A pose that hides no more than a twentieth of itself behind others; smaller with every failure."""
        for trial in range(16):
            size = max(0.17, float(rng.uniform(0.22, largest)) * 0.96**trial)
            pose = self._posed(name, rng, size, taken.shape)
            solid = pose.alpha > 0.5
            window = taken[pose.y : pose.y + solid.shape[0], pose.x : pose.x + solid.shape[1]]
            if solid.sum() > 200 and (solid & window).sum() <= 0.05 * solid.sum():
                return pose
        return None

    def _posed(self, name: str, rng: np.random.Generator, size: float, shape: tuple[int, ...]) -> Pose:
        if name not in self._glyphs:
            self._glyphs[name] = self.style.family(glyph(ANIMALS[name][0] if name in ANIMALS else OBJECTS[name]))
        turn, shear = np.deg2rad(rng.uniform(-40, 40)), rng.uniform(-0.18, 0.18)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
            [[1, shear], [0, 1]]
        )
        matrix = size * SIDE / 120 * matrix @ np.diag([rng.choice([-1.0, 1.0]), rng.uniform(0.9, 1.1)])
        margin, reach = 0.4 * size * SIDE, 0.85 * size * SIDE + 8
        cx, cy = rng.uniform(margin, shape[1] - margin), rng.uniform(margin, shape[0] - margin)
        x1, y1 = max(0, int(cx - reach)), max(0, int(cy - reach))
        x2, y2 = min(shape[1], int(cx + reach) + 1), min(shape[0], int(cy + reach) + 1)
        centre = np.array([cx - x1, cy - y1])
        affine = np.hstack([matrix, (centre - matrix @ np.array([68.0, 68.0]))[:, None]])
        warped = cv2.warpAffine(self._glyphs[name], affine, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR)
        hsv = cv2.cvtColor(warped[..., :3], cv2.COLOR_RGB2HSV)
        hue = int(rng.uniform(-self.style.hue, self.style.hue))
        hsv[..., 0] = ((hsv[..., 0].astype(np.int32) + hue) % 180).astype(np.uint8)
        colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
        return Pose(y1, x1, warped[..., 3].astype(np.float32) / 255, colour)


def any_animal(rng: np.random.Generator, place: Place | None) -> tuple[str, str]:
    """Every animal is as likely, half of them at home unless ``place`` says where."""
    name = str(rng.choice(list(ANIMALS)))
    at_home = rng.random() < 0.5 if place is None else place == "home"
    away = str(rng.choice([environment for environment in ENVIRONMENTS if environment != ANIMALS[name][1]]))
    return name, ANIMALS[name][1] if at_home else away
