"""What the towers are trained on: views of scenes, and windows around single things, every cell labelled exactly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.models.adapters.imaging import pad_to_square, square_frame
from int_model.nano.pool import PooledScene
from int_model.nano.world import NAMES

SIDE, CELL = 112, 8
WINDOW = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One training picture ``uint8 [S, S, 3]`` of G x G cells, what each cell shows and where the things are.

    Attributes:
        cells: ``int64 [G, G]`` index into WORDS, -100 = not asked.
        word: index into WORDS for the class token.
        boxes: ``float32 [G, G, 4]`` centre and size of the thing in this cell, as parts of a whole view; 0 = none.
        things: ``int64 [G, G]`` index into NAMES, -1 = none, -2 = not asked.
        corner: row and column of the picture's first cell in a whole view's grid; (0, 0) if it is whole itself.
    """

    image: NDArray[np.uint8]
    cells: NDArray[np.int64]
    word: int
    boxes: NDArray[np.float32]
    things: NDArray[np.int64]
    corner: tuple[int, int] = (0, 0)


def make_view(scene: PooledScene, rng: np.random.Generator) -> View:
    """A random view: whole scene, a part like INT's patches, a thing with some margin, or a thing on black."""
    kind = rng.choice(4, p=[0.48, 0.26, 0.15, 0.11])
    image, ids = scene.image, scene.ids
    height, width = ids.shape
    word = scene.target
    if kind == 1:
        h, w = [(height // 2, width), (height, width // 2), (height // 2, width // 2)][int(rng.integers(3))]
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        image, ids = image[y : y + h, x : x + w], ids[y : y + h, x : x + w]
    elif kind >= 2 and scene.names:
        pick = int(rng.integers(len(scene.names)))
        mask = ids == pick + 1
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size > 8 and cols.size > 8:
            word = scene.names[pick]
            if kind == 3:
                image = np.where(mask[..., None], image, 0).astype(np.uint8)
                ids = np.where(mask, ids, 255).astype(np.uint8)
            margin = rng.uniform(0.0, 0.5) if kind == 2 else rng.choice([0.05, 2.0])
            my, mx = int(margin * rows.size), int(margin * cols.size)
            ys = slice(max(0, rows[0] - int(my * rng.uniform(0.3, 1))), rows[-1] + 1 + int(my * rng.uniform(0.3, 1)))
            xs = slice(max(0, cols[0] - int(mx * rng.uniform(0.3, 1))), cols[-1] + 1 + int(mx * rng.uniform(0.3, 1)))
            image, ids = image[ys, xs], ids[ys, xs]
    if rng.random() < 0.6:
        side, x, y = square_frame(*ids.shape)
        image = pad_to_square(image)
        padded = np.full((side, side), 255, dtype=np.uint8)
        padded[y : y + ids.shape[0], x : x + ids.shape[1]] = ids
        ids = padded
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if image.shape[0] > SIDE else cv2.INTER_LINEAR)
    ids = cv2.resize(ids, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    jitter = image.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
    return _label(
        np.clip(jitter, 0, 255).astype(np.uint8), np.ascontiguousarray(ids), scene, word, on_black=bool(kind == 3)
    )


def make_window(scene: PooledScene, rng: np.random.Generator) -> View:
    """A square of WINDOW pixels around a random thing (sometimes around nothing), at the scale of views."""
    height, width = scene.ids.shape
    pick = int(rng.integers(len(scene.names)))
    mask = scene.ids == pick + 1
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    image, ids = scene.image, scene.ids
    on_black = False
    if rows.size < 8 or cols.size < 8 or rng.random() < 0.08:
        word, centre, side = -1, rng.uniform((0, 0), (height, width)), float(rng.uniform(60, 120))
    else:
        word = scene.names[pick]
        extent = max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1
        side = extent / float(rng.uniform(0.5, 1.1))
        centre = np.array([rows[0] + rows[-1], cols[0] + cols[-1]]) / 2 + rng.uniform(-0.22, 0.22, 2) * side
        if rng.random() < 0.12:
            on_black = True
            image, ids = np.where(mask[..., None], image, 0).astype(np.uint8), np.where(mask, ids, 255).astype(np.uint8)
    scale = WINDOW / side
    move = np.array([[scale, 0, WINDOW / 2 - scale * centre[1]], [0, scale, WINDOW / 2 - scale * centre[0]]])
    if rng.random() < 0.5:
        move = np.array([[-1, 0, WINDOW], [0, 1, 0]]) @ np.vstack([move, [0, 0, 1]])
    fill, size = np.round(np.asarray(MEAN) * 255).tolist(), (WINDOW, WINDOW)
    cut = cv2.warpAffine(np.ascontiguousarray(image), move, size, flags=cv2.INTER_LINEAR, borderValue=fill)
    owner = cv2.warpAffine(np.ascontiguousarray(ids), move, size, flags=cv2.INTER_NEAREST, borderValue=255)
    jitter = cut.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
    room = (SIDE - WINDOW) // CELL + 1
    corner = (int(rng.integers(room)), int(rng.integers(room)))
    return _label(np.clip(jitter, 0, 255).astype(np.uint8), owner, scene, word, on_black=on_black, corner=corner)


def _label(
    image: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    scene: PooledScene,
    word: int,
    *,
    on_black: bool,
    corner: tuple[int, int] | None = None,
) -> View:
    """What a picture shows, from its ids (255 = padding); things that a window's border cuts get no box."""
    grid = ids.shape[0] // CELL
    cells = np.full((grid, grid), len(NAMES) + scene.environment, dtype=np.int64)
    things = np.full((grid, grid), -1, dtype=np.int64)
    boxes = np.zeros((grid, grid, 4), dtype=np.float32)
    blocks = ids.reshape(grid, CELL, grid, CELL)
    outside = (blocks == 255).mean(axis=(1, 3)) > 0.5
    best = np.full((grid, grid), 0.25)
    shift = np.array([corner[1], corner[0]]) * CELL if corner else np.zeros(2)
    seen: list[tuple[int, int]] = []
    for number, name in enumerate(scene.names, start=1):
        mask = ids == number
        area = int(mask.sum())
        if area < 30:
            continue
        seen.append((area, name))
        cover = (blocks == number).mean(axis=(1, 3))
        take = cover > best
        best = np.maximum(best, cover)
        cells[take], things[take], boxes[take] = name, -2, 0
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        low, high = np.array([cols[0], rows[0]]), np.array([cols[-1] + 1, rows[-1] + 1])
        if corner and (low.min() == 0 or high.max() == ids.shape[0]):
            continue
        centre = (low + high) / 2
        boxes[take] = np.concatenate([centre + shift, high - low]) / SIDE
        ys, xs = np.nonzero(take & (cover > 0.4))
        # the most central of the cells that it fills answer for it
        distance = np.hypot((xs + 0.5) * CELL - centre[0], (ys + 0.5) * CELL - centre[1])
        for i in np.argsort(distance)[:3]:
            things[ys[i], xs[i]] = name
    empty = outside & (best <= 0.25)
    cells[empty], things[empty] = -100, -1
    if on_black:
        things[things == -1] = -2
    if word < 0 or (word < len(NAMES) and word not in [name for _, name in seen]):
        word = max(seen)[1] if seen else len(NAMES) + scene.environment
    return View(image, cells, word, boxes, things, corner or (0, 0))
