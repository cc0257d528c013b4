"""The miniature world's held-out scenes as a data set of ``int_model.evaluation``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from int_model.evaluation.examples import BrokenExample, Example
from int_model.nano.scenes import SceneGenerator


@dataclass(frozen=True)
class NanoScenes:
    """Held-out scenes of the bundled miniature world, with exact masks of every object.

    For every seed the first ``count`` scenes; seeds are groups of the report. Poses, textures and colours are ones
    that training never shows. The set of ``docs/nano.md`` is seed 2501, ``count`` 240.
    """

    count: int
    seeds: tuple[int, ...] = (2501,)
    camouflage: tuple[float, float] = (0.35, 0.85)

    def __len__(self) -> int:
        return self.count * len(self.seeds)

    def __iter__(self) -> Iterator[Example | BrokenExample]:
        for seed in self.seeds:
            generator = SceneGenerator("test", seed, camouflage=self.camouflage)
            for index in range(self.count):
                scene = generator.scene(index)
                yield Example(
                    id=f"scene {seed}-{index:04d}",
                    image=scene.image,
                    task=scene.task,
                    mask=scene.mask,
                    instances=tuple(thing.mask for thing in scene.targets),
                    name=scene.name,
                    group=f"scenes of seed {seed}",
                )
