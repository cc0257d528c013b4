"""Scenes of the miniature world with exact masks.

An animal's glyph is turned, sheared and recoloured with the texture around it (camouflage of graded strength), other
glyphs lie about as distractors; polyps and lesions are drawn. A scene is a function of (split, seed, index) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Image, Mask, union
from int_model.nano.glyphs import glyph
from int_model.nano.textures import Split, TextureBank, texture
from int_model.nano.world import ANIMALS, ENVIRONMENTS, LESIONS, MEDICAL_DISTRACTOR, OBJECTS, POLYPS, TASKS

SIDE = 192
Canvas = NDArray[np.float32]
Place = Literal["home", "away"]


@dataclass(frozen=True, slots=True, eq=False)
class SceneObject:
    """One thing in a scene: its visible pixels, its name, how strongly it is camouflaged (0 none, 1 fully)."""

    name: str
    mask: Mask
    camouflage: float

    @property
    def box(self) -> Box:
        """The tight box of the visible pixels."""
        box = Box.of_mask(self.mask)
        if box is None:
            raise ValueError("a scene keeps no invisible objects")
        return box


@dataclass(frozen=True, slots=True)
class Factors:
    """What makes a scene hard. An empty scene has camouflage 0 and no place.

    ``camouflage`` is the mean strength of the sought things in [0, 1], ``clutter`` the number of other things.
    """

    camouflage: float
    clutter: int
    place: Place | None
    targets: int


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image, its task prompt, environment, and all things in it (the sought ones share one name; "" if none)."""

    image: Image
    task: str
    environment: str
    name: str
    objects: tuple[SceneObject, ...]

    @property
    def targets(self) -> tuple[SceneObject, ...]:
        """The objects that the task asks for."""
        return tuple(thing for thing in self.objects if thing.name == self.name)

    @property
    def mask(self) -> Mask:
        """All sought pixels; none in an empty scene."""
        return union((self.image.shape[0], self.image.shape[1]), [thing.mask for thing in self.targets])

    @property
    def factors(self) -> Factors:
        """What makes it hard. Polyps and lesions are always at home."""
        found = self.targets
        home = ANIMALS[self.name][1] if self.name in ANIMALS else self.environment
        place: Place = "home" if home == self.environment else "away"
        strength = sum(thing.camouflage for thing in found) / max(1, len(found))
        return Factors(strength, len(self.objects) - len(found), place if found else None, len(found))


@dataclass
class SceneGenerator:
    """Draws scenes.

    ``avoid`` names animals that never appear, ``smudges`` adds blurred patches (training only), ``camouflage`` is the
    range of strengths of the sought animals (0: their own colours, 1: the texture's). ``targets`` (0 to 5), ``clutter``
    (other things, at most 4) and ``place`` fix what is else drawn at random; they concern animals only.
    """

    split: Split
    seed: int = 0
    avoid: tuple[str, ...] = ()
    smudges: bool = False
    camouflage: tuple[float, float] = (0.35, 0.85)
    tiles: int = 24
    tasks: tuple[str, ...] = ("camouflaged animal", "polyp", "skin lesion")
    weights: tuple[float, ...] = (0.76, 0.12, 0.12)
    targets: int | None = None
    clutter: int | None = None
    place: Place | None = None
    _glyphs: dict[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._bank = TextureBank(lambda environment, seed: texture(environment, self.split, seed), self.tiles)

    def scene(self, index: int) -> Scene:
        """Scene number ``index``; the same for ever for one (split, seed, index)."""
        rng = np.random.default_rng([self.seed, int(self.split == "test"), index])
        task = str(rng.choice(self.tasks, p=np.asarray(self.weights) / sum(self.weights)))
        shape = [(SIDE, SIDE), (SIDE, SIDE), (SIDE * 3 // 4, SIDE), (SIDE, SIDE * 3 // 4)][int(rng.integers(4))]
        if task == "camouflaged animal":
            return self._animal_scene(rng, shape)
        return self._medical_scene(rng, shape, task)

    def _animal_scene(self, rng: np.random.Generator, shape: tuple[int, int]) -> Scene:
        names = [name for name in ANIMALS if name not in self.avoid]
        name = names[int(rng.integers(len(names)))]
        home = ANIMALS[name][1]
        environment = self._environment(home, rng)
        canvas = self._bank.cut(environment, shape, rng).astype(np.float32)
        count = int(rng.choice([1, 2, 3], p=[0.7, 0.24, 0.06]))
        count = count if self.targets is None else self.targets
        things = int(rng.choice([0, 1, 2], p=[0.3, 0.45, 0.25]))
        things = things if self.clutter is None else self.clutter
        todo = [(name, True)] * count + [(str(rng.choice(list(OBJECTS))), False) for _ in range(things)]
        masks: list[tuple[str, Mask, float]] = []
        taken = np.zeros(shape, dtype=np.bool_)
        for thing, sought in todo:
            largest = (0.6, 0.42, 0.36, 0.32, 0.3)[count - 1] if sought else 0.4
            strength = float(rng.uniform(*self.camouflage) if sought else rng.uniform(0.2, 0.7))
            for _ in range(12):
                alpha, colour = self.posed(thing, rng, float(rng.uniform(0.3 if count == 1 else 0.24, largest)), shape)
                solid = alpha > 0.5
                if solid.sum() > 250 and (solid & taken).sum() < 0.04 * solid.sum():
                    break
            else:
                if not sought or masks:
                    continue
            texture = self._bank.cut(environment, shape, rng).astype(np.float32)
            canvas = camouflaged(canvas, alpha, colour, texture, strength, rng)
            taken |= cv2.dilate(solid.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            masks = [(n, m & ~solid, s) for n, m, s in masks]  # what is drawn later lies on top
            masks.append((thing, solid, strength))
        cover: Mask = np.zeros(shape, dtype=np.bool_)
        if rng.random() < 0.15 and masks:  # something of the surroundings lies over a part
            canvas, cover = self._occlude(canvas, masks[0][1], environment, rng)
        if self.smudges and rng.random() < 0.25:
            canvas = smudge(canvas, taken, rng)
        objects = [SceneObject(n, m & ~cover, s) for n, m, s in masks]
        return _finish(canvas, "camouflaged animal", environment, name if count else "", objects, rng)

    def _environment(self, home: str, rng: np.random.Generator) -> str:
        at_home = rng.random() < 0.5
        anywhere = home if at_home else str(rng.choice(ENVIRONMENTS))
        if self.place == "home":
            return home
        while self.place == "away" and anywhere == home:
            anywhere = str(rng.choice(ENVIRONMENTS))
        return anywhere

    def posed(
        self, name: str, rng: np.random.Generator, size: float, shape: tuple[int, int]
    ) -> tuple[NDArray[np.float32], Canvas]:
        """Alpha ``[H, W]`` in [0, 1] and colour of a glyph, turned, sheared and placed at random."""
        if name not in self._glyphs:
            character = ANIMALS[name][0] if name in ANIMALS else OBJECTS[name]
            self._glyphs[name] = glyph(character)
        source = self._glyphs[name]
        # poses: the test set has angles and shears that lie in gaps of the training set's
        angle = rng.choice([-1, 1]) * rng.uniform(14, 22) if self.split == "test" else _train_angle(rng)
        shear = rng.uniform(0.06, 0.1) if self.split == "test" else rng.choice([rng.uniform(-0.2, 0.05), 0.15])
        scale = size * SIDE / 120
        turn = np.deg2rad(angle)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
            [[1, shear], [0, 1]]
        )
        matrix = scale * matrix @ np.diag([rng.choice([-1.0, 1.0]), rng.uniform(0.9, 1.1)])
        margin = 0.38 * size * SIDE
        centre = np.array([rng.uniform(margin, shape[1] - margin), rng.uniform(margin, shape[0] - margin)])
        affine = np.hstack([matrix, (centre - matrix @ np.array([68.0, 68.0]))[:, None]])
        warped = cv2.warpAffine(source, affine, (shape[1], shape[0]), flags=cv2.INTER_AREA | cv2.INTER_LINEAR)
        alpha = warped[..., 3].astype(np.float32) / 255
        hsv = cv2.cvtColor(warped[..., :3], cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int32) + int(rng.integers(180))) % 180
        return alpha, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)

    def _occlude(self, canvas: Canvas, mask: Mask, environment: str, rng: np.random.Generator) -> tuple[Canvas, Mask]:
        ys, xs = np.nonzero(mask)
        pick = int(rng.integers(len(ys)))
        blob = np.zeros(mask.shape, dtype=np.uint8)
        radius = float(rng.uniform(0.12, 0.22)) * np.sqrt(mask.sum()) * 2
        axes = (int(radius), int(radius * rng.uniform(0.35, 0.8)))
        cv2.ellipse(blob, (int(xs[pick]), int(ys[pick])), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        cover = blob > 0
        if (mask & ~cover).sum() < 0.6 * mask.sum():
            return canvas, np.zeros_like(mask)
        height, width = mask.shape
        texture = self._bank.cut(environment, (height, width), rng).astype(np.float32)
        return np.where(cover[..., None], texture, canvas), cover

    def _medical_scene(self, rng: np.random.Generator, shape: tuple[int, int], task: str) -> Scene:
        environment = TASKS[task].environments[0]
        name = str(rng.choice(POLYPS if task == "polyp" else LESIONS))
        canvas = self._bank.cut(environment, shape, rng).astype(np.float32)
        count = int(rng.choice([1, 2], p=[0.8, 0.2]))
        masks: list[tuple[str, Mask, float]] = []
        taken = np.zeros(shape, dtype=np.bool_)
        for thing in [name] * count + [MEDICAL_DISTRACTOR] * int(rng.integers(3)):
            bubble = thing == MEDICAL_DISTRACTOR
            for _ in range(12):
                size = float(rng.uniform(0.06, 0.11) if bubble else rng.uniform(0.12, 0.27 if count == 1 else 0.2))
                alpha, depth = _blob(
                    rng, shape, size * SIDE, {"adenoma": 0.17, "melanoma": 0.24, "rash": 0.12}.get(thing, 0.05)
                )
                solid = alpha > 0.5
                if solid.sum() > 150 and not (solid & taken).any():
                    break
            else:
                continue
            strength = float(rng.uniform(0.3, 0.8))
            canvas = _lesion(canvas, thing, alpha, depth, 1 - strength, rng)
            taken |= cv2.dilate(solid.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
            masks.append((thing, solid, strength))
        canvas = _hairs(canvas, rng) if task == "skin lesion" else _vignette(canvas, rng)
        if self.smudges and rng.random() < 0.25:
            canvas = smudge(canvas, taken, rng)
        return _finish(canvas, task, environment, name, [SceneObject(*m) for m in masks], rng)


def _train_angle(rng: np.random.Generator) -> float:
    side = float(rng.choice([-1, 1]))
    return side * float(rng.uniform(0, 12) if rng.random() < 0.5 else rng.uniform(24, 45))


def camouflaged(
    canvas: Canvas, alpha: NDArray, colour: Canvas, texture: Canvas, strength: float, rng: np.random.Generator
) -> Canvas:
    """Blend a glyph in: its shading stays, its colours move towards the texture by ``strength``."""
    inside = alpha > 0.5
    shade = colour.mean(axis=-1)
    shade = (shade - shade[inside].mean()) / 255
    disguised = texture * (1 + 0.9 * shade[..., None]) + 70 * shade[..., None] + rng.uniform(-14, 14)
    mixed = (1 - strength) * colour + strength * disguised
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.6)[..., None]
    return canvas * (1 - soft) + np.clip(mixed, 0, 255) * soft


def _blob(rng: np.random.Generator, shape: tuple[int, int], radius: float, rough: float) -> tuple[NDArray, NDArray]:
    """A rounded shape: alpha ``[H, W]`` in [0, 1] and depth (1 in the middle, 0 at the border)."""
    margin = radius * 1.1
    cx = rng.uniform(min(margin, shape[1] / 2), max(shape[1] - margin, shape[1] / 2))
    cy = rng.uniform(min(margin, shape[0] / 2), max(shape[0] - margin, shape[0] / 2))
    squash, turn = rng.uniform(0.65, 1.0), rng.uniform(0, np.pi)
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    u = (xs - cx) * np.cos(turn) + (ys - cy) * np.sin(turn)
    v = (-(xs - cx) * np.sin(turn) + (ys - cy) * np.cos(turn)) / squash
    phi = np.arctan2(v, u)
    border = np.ones_like(phi)
    for wave in range(2, 8):
        border += rough * rng.normal(0, 1) / np.sqrt(wave) * np.cos(wave * phi + rng.uniform(0, 6.3))
    distance = np.hypot(u, v) / (radius * np.clip(border, 0.5, 1.6))
    return np.clip((1 - distance) * radius / 2 + 0.5, 0, 1), np.clip(1 - distance, 0, 1)


def _lesion(
    canvas: Canvas, name: str, alpha: NDArray, depth: NDArray, contrast: float, rng: np.random.Generator
) -> Canvas:
    """Draw a polyp, a lesion or a bubble with ``contrast`` in [0, 1] against its surroundings."""
    a, d = alpha[..., None], depth[..., None]
    grain = cv2.GaussianBlur(rng.normal(0, 1, alpha.shape).astype(np.float32), (0, 0), 3)[..., None] * 6
    if name == "adenoma":
        body = canvas * [0.92, 0.72, 0.72] + 46 * np.sqrt(d) - 20 + 22 * np.clip(grain, -1, 1) * (0.5 + contrast)
    elif name == "lipoma":
        body = canvas * [1.0, 1.02, 0.72] + [18, 26, -6] + 60 * np.sqrt(d) - 30
    elif name == "mole":
        body = canvas * [0.52, 0.42, 0.38] + 10 * d
    elif name == "melanoma":
        body = canvas * [0.5, 0.4, 0.42] + np.clip(grain, -1.5, 1.5) * [34, 10, 22]
    elif name == "rash":
        spots = (grain > 0.05).astype(np.float32)
        body = canvas * (1 - spots * [0.0, 0.36, 0.34]) + spots * [14, 0, 0]
    elif name == MEDICAL_DISTRACTOR:
        ring = np.exp(-(((d - 0.16) / 0.1) ** 2))
        body = canvas + 80 * ring + 30 * (d > 0.75)
    else:
        raise ValueError(f"no such lesion: {name!r}")
    weight = a if name == MEDICAL_DISTRACTOR else a * (0.45 + 0.55 * contrast)
    return canvas * (1 - weight) + np.clip(body, 0, 255) * weight


def _hairs(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 6))):
        points = np.stack([rng.integers(0, width, 3), rng.integers(0, height, 3)], axis=-1).astype(np.float64)
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
        cv2.polylines(image, [curve.astype(np.int32)], False, (60, 44, 36), 1, cv2.LINE_AA)
    return image.astype(np.float32)


def _vignette(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    height, width = canvas.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    distance = np.hypot((xs / width - rng.uniform(0.35, 0.65)), (ys / height - rng.uniform(0.35, 0.65)))
    return canvas * (1.12 - 0.75 * np.clip(distance, 0, 1))[..., None]


def smudge(canvas: Canvas, keep_off: Mask, rng: np.random.Generator) -> Canvas:
    """Fill a free region as an inpainter would, so that such a region carries no meaning for what is trained on it."""
    height, width = keep_off.shape
    region = np.zeros((height, width), dtype=np.uint8)
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    axes = (int(rng.uniform(0.08, 0.25) * width), int(rng.uniform(0.08, 0.25) * height))
    if rng.random() < 0.5:
        cv2.ellipse(region, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    else:
        cv2.rectangle(
            region, (centre[0] - axes[0], centre[1] - axes[1]), (centre[0] + axes[0], centre[1] + axes[1]), 255, -1
        )
    region[keep_off] = 0
    if not region.any() or region.all():
        return canvas
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return cv2.inpaint(image, region, 3, cv2.INPAINT_TELEA).astype(np.float32)


def _finish(
    canvas: Canvas, task: str, environment: str, name: str, objects: list[SceneObject], rng: np.random.Generator
) -> Scene:
    grain = rng.standard_normal(canvas.shape, dtype=np.float32)
    canvas = canvas * rng.uniform(0.9, 1.1) + 2.5 * grain
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(image, task, environment, name, tuple(thing for thing in objects if thing.mask.any()))
