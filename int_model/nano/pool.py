"""A pool of drawn scenes on disk, so that training reads instead of drawing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.nano.scenes import SIDE, SceneGenerator
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES

CHUNK = 500
LIGHT_FROM, LIGHT = 32, (0.0, 0.5)  # from this chunk on, animals that are easier to see


@dataclass(frozen=True, slots=True, eq=False)
class PooledScene:
    """One scene: image ``uint8 [H, W, 3]``, ids ``uint8 [H, W]`` (0 background, i object i-1), names by object."""

    image: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    names: tuple[int, ...]
    target: int
    environment: int
    task: str


class ScenePool:
    """Scenes drawn once by `draw`; indexable, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._meta: list[dict[str, Any]] = []
        self._images: list[NDArray[np.uint8]] = []
        self._ids: list[NDArray[np.uint8]] = []
        for path in sorted(folder.glob("*.json")):
            self._meta += json.loads(path.read_text())
            self._images.append(np.load(path.with_suffix(".images.npy"), mmap_mode="r"))
            self._ids.append(np.load(path.with_suffix(".ids.npy"), mmap_mode="r"))
        if not self._meta:
            raise FileNotFoundError(f"{folder} holds no scenes; run python -m int_model.nano.train scenes")

    def __len__(self) -> int:
        return len(self._meta)

    def names(self, index: int) -> tuple[int, ...]:
        """Indices into NAMES of what scene ``index`` shows, without reading its picture."""
        return tuple(self._meta[index]["names"])

    def __getitem__(self, index: int) -> PooledScene:
        meta = self._meta[index]
        height, width = meta["shape"]
        chunk, row = divmod(index, CHUNK)
        return PooledScene(
            np.asarray(self._images[chunk][row, :height, :width]),
            np.asarray(self._ids[chunk][row, :height, :width]),
            tuple(meta["names"]),
            meta["target"],
            meta["environment"],
            meta["task"],
        )

    def __iter__(self) -> Iterator[PooledScene]:
        return (self[i] for i in range(len(self)))


def _draw_chunk(folder: Path, seed: int, chunk: int) -> None:
    stem = folder / f"{chunk:04d}.json"
    if stem.is_file():
        return
    camouflage = LIGHT if chunk >= LIGHT_FROM else SceneGenerator.camouflage
    generator = SceneGenerator("train", seed, smudges=True, tiles=40, camouflage=camouflage)
    images = np.zeros((CHUNK, SIDE, SIDE, 3), dtype=np.uint8)
    ids = np.zeros((CHUNK, SIDE, SIDE), dtype=np.uint8)
    meta = []
    for row in range(CHUNK):
        scene = generator.scene(chunk * CHUNK + row)
        height, width = scene.image.shape[:2]
        images[row, :height, :width] = scene.image
        for number, thing in enumerate(scene.objects, start=1):
            ids[row, :height, :width][thing.mask] = number
        meta.append(
            {
                "shape": [height, width],
                "names": [NAMES.index(thing.name) for thing in scene.objects],
                "target": NAMES.index(scene.name),
                "environment": ALL_ENVIRONMENTS.index(scene.environment),
                "task": scene.task,
            }
        )
    np.save(stem.with_suffix(".images.npy"), images)
    np.save(stem.with_suffix(".ids.npy"), ids)
    stem.write_text(json.dumps(meta))


def draw(folder: Path, count: int, *, seed: int = 0, processes: int = 2) -> ScenePool:
    """Draw ``count`` training scenes (rounded up to whole chunks of 500); what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = -(-count // CHUNK)
    with ProcessPoolExecutor(processes) as workers:
        list(workers.map(_draw_chunk, [folder] * chunks, [seed] * chunks, range(chunks)))
    return ScenePool(folder)
