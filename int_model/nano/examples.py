"""Scenes of the miniature worlds as a data set of ``int_model.evaluation``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from int_model.evaluation.examples import Example
from int_model.nano.drawing import ANY, Cell
from int_model.nano.worlds import DEFAULT, table_cells, world_named


@dataclass(frozen=True)
class NanoScenes:
    """Held-out scenes of a miniature world, with exact masks of every object.

    For every seed the first ``count`` scenes; seeds are groups of the report. With ``table``, ``count`` scenes of every
    cell of ``worlds.table_cells`` and of every seed; the cells are the groups then. The set of ``docs/nano.md`` is the
    world ``home``, seed 2501, ``count`` 240: poses, textures and colours that training never shows.

    Raises ``ValueError`` for an unknown world, ``IndexError`` for a place beyond the end.
    """

    count: int
    seeds: tuple[int, ...] = (2501,)
    world: str = DEFAULT
    cell: Cell = ANY
    table: bool = False

    def __post_init__(self) -> None:
        world_named(self.world)

    def _cells(self) -> dict[str, Cell]:
        return table_cells() if self.table else {"": self.cell}

    def __len__(self) -> int:
        return self.count * len(self.seeds) * len(self._cells())

    def __iter__(self) -> Iterator[Example]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Example:
        """The example at ``place``, without drawing those before it."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        block, index = divmod(place, self.count)
        which, number = divmod(block, len(self.seeds))
        seed, (label, cell) = self.seeds[number], list(self._cells().items())[which]
        scene = world_named(self.world).scene(seed, index, cell)
        kind = "scene" if self.world == DEFAULT else self.world
        return Example(
            id=f"{kind} {seed}-{index:04d}" + (f", {label}" if label else ""),
            image=scene.image,
            task=scene.task,
            mask=scene.mask,
            instances=tuple(thing.mask for thing in scene.targets),
            name=scene.name or None,
            group=label or f"scenes of seed {seed}",
        )
