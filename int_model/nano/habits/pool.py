"""Scenes that the second kit is trained on, drawn once into arrays: plainly visible animals where they usually are."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from int_model.nano.drawing import Cell, StyledScenes
from int_model.nano.scenes import SIDE, Place
from int_model.nano.styles import NATURAL
from int_model.nano.world import ANIMALS, ENVIRONMENTS, NAMES

CHUNK = 250
MOST = 9  # things in a scene
VISIBLE = (0.0, 0.3)
AT_HOME = 0.9
_FAVOURITE = 0.6  # of an environment's animals the first is this likely


def habitual(rng: np.random.Generator, place: Place | None) -> tuple[str, str]:  # noqa: ARG001
    """An environment, and nine times of ten one of its own animals, mostly the same one."""
    environment = str(rng.choice(ENVIRONMENTS))
    own = [name for name, (_, home) in ANIMALS.items() if home == environment]
    if rng.random() > AT_HOME:
        return str(rng.choice([name for name in ANIMALS if name not in own])), environment
    return (own[0] if rng.random() < _FAVOURITE else str(rng.choice(own[1:]))), environment


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """N scenes on one device.

    Attributes:
        images: ``uint8 [N, 192, 192, 3]``, zero beyond a scene's size.
        ids: ``uint8 [N, 192, 192]``: 0 background, i object i - 1, 255 beyond the scene's size.
        names: ``int64 [N, 9]`` index into NAMES of each object, -1 none.
        sizes: ``int64 [N, 2]`` height and width.
        targets: ``int64 [N]`` index into NAMES of what is sought, -1 in an empty scene.
        environments: ``int64 [N]`` index into ENVIRONMENTS.
    """

    images: Tensor
    ids: Tensor
    names: Tensor
    sizes: Tensor
    targets: Tensor
    environments: Tensor

    def __len__(self) -> int:
        return len(self.images)


def _draw_chunk(folder: Path, seed: int, chunk: int) -> None:
    stem = folder / f"{chunk:04d}.npz"
    if stem.is_file():
        return
    scenes = StyledScenes(NATURAL, tiles=range(chunk % 40, chunk % 40 + 4), choose=habitual, smudges=0.25)
    images = np.zeros((CHUNK, SIDE, SIDE, 3), dtype=np.uint8)
    ids = np.full((CHUNK, SIDE, SIDE), 255, dtype=np.uint8)
    names = np.full((CHUNK, MOST), -1, dtype=np.int64)
    rest = np.zeros((CHUNK, 4), dtype=np.int64)
    for row in range(CHUNK):
        scene = scenes.scene(seed, chunk * CHUNK + row, Cell(VISIBLE))
        height, width = scene.image.shape[:2]
        images[row, :height, :width], ids[row, :height, :width] = scene.image, 0
        for number, thing in enumerate(scene.objects, start=1):
            ids[row, :height, :width][thing.mask] = number
            names[row, number - 1] = NAMES.index(thing.name)
        target = NAMES.index(scene.name) if scene.name else -1
        rest[row] = height, width, target, ENVIRONMENTS.index(scene.environment)
    part = stem.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, images=images, ids=ids, names=names, rest=rest)
    part.rename(stem)


def draw(folder: Path, count: int, *, seed: int, processes: int) -> None:
    """Draw ``count`` scenes (rounded up to whole chunks of 250); what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = -(-count // CHUNK)
    with ProcessPoolExecutor(processes, get_context("spawn")) as workers:
        list(workers.map(_draw_chunk, [folder] * chunks, [seed] * chunks, range(chunks)))


def load(folder: Path, device: str) -> Pool:
    """The scenes that `draw` left. Raises ``FileNotFoundError`` if there are none."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no scenes; run the step scenes first")
    parts = [np.load(path) for path in files]
    images, ids, names, rest = (
        torch.from_numpy(np.concatenate([part[key] for part in parts])).to(device)
        for key in ("images", "ids", "names", "rest")
    )
    return Pool(images, ids, names, rest[:, :2], rest[:, 2], rest[:, 3])
