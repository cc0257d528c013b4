"""A trained point generator as a source of points (PPT, arXiv 2404.11998): ``sam.point_source = ppt``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from int_model.core.config import IntConfig
from int_model.core.options import ConfigError
from int_model.core.point_options import PointGeneratorConfig
from int_model.models.calls import ModelCalls
from int_model.models.identity import folder_of, is_bundled
from int_model.point_prompting.role import PointPrompts, PointQuery

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite
    from int_model.point_prompting.generator.bundle import TrainedGenerator
    from int_model.point_prompting.generator.grounding import PointGrounder

_FILE = "generator.safetensors"


class PointGeneration:
    """The ``PointPrompter`` of PPT: what the generator finds for the name, after its filters."""

    def __init__(self, grounder: PointGrounder) -> None:
        self._grounder = grounder

    def prompt(self, calls: ModelCalls, queries: Sequence[PointQuery]) -> list[PointPrompts]:
        """See ``PointPrompter.prompt``; no points where the generator finds nothing of that name."""
        found, _ = self._grounder.points(
            calls,
            [query.owner for query in queries],
            [query.image for query in queries],
            [query.name for query in queries],
        )
        return [PointPrompts(points.points, points.labels) for points in found]


def make(suite: ModelSuite, config: IntConfig) -> PointGeneration:
    """The point prompter over the suite. Raises ``ConfigError`` or ``GeneratorError``."""
    return PointGeneration(grounder_of(suite, config.ppt))


def grounder_of(suite: ModelSuite, options: PointGeneratorConfig) -> PointGrounder:
    """The generator that the options name, over a suite.

    Raises:
        ConfigError: the options name none.
        GeneratorError: there is no such file, or it was trained on other models.
    """
    from int_model.point_prompting.generator.filters import PointFilter
    from int_model.point_prompting.generator.grounding import PointGrounder

    if not options.generator:
        raise ConfigError(
            f"the profile '{suite.profile}' names no trained point generator: train one, and give its file as "
            "ppt.generator"
        )
    how = PointFilter(options.positive, options.negative, options.max_points, negatives=options.negatives)
    return PointGrounder(suite, trained(path_of(options.generator)), how)


def path_of(generator: str) -> Path:
    """The file that ``ppt.generator`` means."""
    folder = folder_of(generator) if is_bundled(generator) else None
    return Path(generator).expanduser() if folder is None else folder / _FILE


def trained(path: Path) -> TrainedGenerator:
    """The generator of a file, read once as long as the file stays the same. Raises ``GeneratorError``."""
    from int_model.point_prompting.generator.bundle import read

    if not path.is_file():
        return read(path)  # which says what is wrong
    return _kept(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _kept(path: Path, changed: int) -> TrainedGenerator:
    from int_model.point_prompting.generator.bundle import read

    del changed
    return read(path)
