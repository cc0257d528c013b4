"""All strategies: those of this package and those of installed packages, found when first asked for.

A strategy is one module that calls ``register`` (see ``base``). A module of this package is found by itself; another
package names its module as an entry point of the group ``int_model.strategies``.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from int_model import strategies
from int_model.core.config import StrategyConfig
from int_model.core.options import fitting
from int_model.core.types import Progress
from int_model.strategies.base import ENTRIES, Strategy, StrategyEntry
from int_model.strategies.tiling import Tiled

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

DEFAULT_STRATEGY = "int"
ENTRY_POINTS = "int_model.strategies"

_log = logging.getLogger(__name__)


class Registry(Mapping[str, StrategyEntry]):
    """The strategies by name: the default first, the others in alphabetical order."""

    def __getitem__(self, name: str) -> StrategyEntry:
        _discover()
        return ENTRIES[name]

    def __iter__(self) -> Iterator[str]:
        _discover()
        return iter(sorted(ENTRIES, key=lambda name: (name != DEFAULT_STRATEGY, name)))

    def __len__(self) -> int:
        _discover()
        return len(ENTRIES)

    def named(self, name: str) -> StrategyEntry:
        """The strategy of that name. Raises ``ValueError`` that lists the names if there is none."""
        if name not in self:
            raise ValueError(f"there is no strategy '{name}'; choose one of: {', '.join(self)}")
        return self[name]


STRATEGIES = Registry()


def make_strategy(
    name: str, suite: ModelSuite, config: StrategyConfig | None = None, progress: Progress | None = None
) -> Strategy:
    """The strategy of that name over a suite of models; without ``config`` the defaults with the suite's overrides.

    A given ``config`` is used as it is. With ``tiling.over_pixels`` set, larger images are worked on in tiles. Raises
    ``ValueError`` for an unknown name, for a configuration of another strategy, and for a strategy that needs models
    which the suite has not.
    """
    entry = STRATEGIES.named(name)
    entry.check_roles([role for role in entry.needs if getattr(suite, role) is not None], suite.profile)
    if config is None:
        config = default_config(name, suite.int_overrides)
    elif not isinstance(config, entry.config):
        raise ValueError(
            f"the strategy '{name}' has a configuration of its own, {entry.config.__name__}, not "
            f"{type(config).__name__}; make it with default_config('{name}')"
        )
    strategy = entry.make(suite, config, progress)
    return Tiled(strategy, config) if config.tiling.over_pixels else strategy


def default_config(name: str, models: Mapping[str, Any] | None = None) -> StrategyConfig:
    """The defaults of the strategy of that name, with those options of ``models`` that it has.

    ``models`` is what a profile says about the method, nested. Raises ``ValueError`` for an unknown name, a
    ``ConfigError`` for a value out of range.
    """
    entry = STRATEGIES.named(name)
    return entry.config().merged(fitting(entry.config, models or {}))


@functools.cache
def _discover() -> None:
    """Import every module that may hold a strategy; each registers its own."""
    for module in pkgutil.walk_packages(strategies.__path__, f"{strategies.__name__}."):
        importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001 another's package must not keep ours from working
            _log.warning("the strategy '%s' (%s) cannot be used: %s", entry.name, entry.value, error)
