"""What a strategy is, and how one makes itself known: ``register``, called once in the strategy's own module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from int_model.core.config import StrategyConfig
from int_model.core.options import UnknownOptionError, options_of
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Progress, Segmentation

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

ConfigT = TypeVar("ConfigT", bound=StrategyConfig)


class Segments(Protocol):
    """What segments lists of images for one task prompt."""

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """One segmentation per image (``uint8 [H, W, 3]``, sizes may differ), in order.

        Raises ``ValueError`` if an entry is not such an image; the message names its position.
        """
        ...


class Strategy(Segments, Protocol):
    """A way from a task prompt to masks."""

    @property
    def name(self) -> str:
        """One of ``STRATEGIES``."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StrategyEntry:
    """A registered strategy.

    Attributes:
        name: as in ``--strategy``.
        summary: one line for people.
        config: the class of its configuration: every option that it reads, and no other.
        make: the strategy over a suite of models, with its configuration and a progress callback or None.
        needs: roles that a profile may leave out and this strategy cannot do without, each with a clause for people
            that says what is missing and what to do about it.
    """

    name: str
    summary: str
    config: type[StrategyConfig]
    make: Callable[[ModelSuite, Any, Progress | None], Strategy]
    needs: Mapping[str, str]

    @property
    def option_names(self) -> frozenset[str]:
        """The dotted names of its options."""
        return frozenset(name for name, _ in options_of(self.config))

    def has(self, name: str) -> bool:
        """Whether it has that option or section."""
        return any(f"{option}.".startswith(f"{name}.") for option in self.option_names)

    def configured(self, base: ConfigT, overrides: Mapping[str, Any]) -> ConfigT:
        """``base`` with nested ``overrides``. Raises ``ConfigError`` that says which strategies have the option."""
        try:
            return base.merged(overrides)
        except UnknownOptionError as error:
            others = [entry.name for entry in ENTRIES.values() if entry.has(error.option)]
            elsewhere = f" (it belongs to: {', '.join(others)})" if others else ""
            raise UnknownOptionError(error.option, f"strategy '{self.name}': {error}{elsewhere}") from error

    def check_roles(self, roles: Sequence[str], profile: str) -> None:
        """Raise ``ValueError`` if the strategy needs a role that the ``profile`` does not fill."""
        for role, missing in self.needs.items():
            if role not in roles:
                raise ValueError(
                    f"the profile '{profile}' has no model for the strategy '{self.name}', which needs {missing}"
                )


ENTRIES: dict[str, StrategyEntry] = {}
"""What has been registered so far; ``int_model.strategies.registry.STRATEGIES`` finds all."""


def register(
    name: str,
    summary: str,
    config: type[ConfigT],
    make: Callable[[ModelSuite, ConfigT, Progress | None], Strategy],
    *,
    needs: Mapping[str, str] | None = None,
) -> None:
    """Make a strategy known; see ``StrategyEntry``. Raises ``ValueError`` if another one has the name."""
    if name in ENTRIES:
        raise ValueError(f"two strategies are called '{name}': {ENTRIES[name].make!r} and {make!r}; rename one")
    ENTRIES[name] = StrategyEntry(name, summary, config, make, needs or {})


def check_vlm(suite: ModelSuite, strategy: str, ability: type[Any], needed: str, instead: str) -> None:
    """Raise ``ValueError`` unless the suite's vision-language model has an ability that the strategy cannot do without.

    Args:
        suite: the models.
        strategy: its name.
        ability: a Protocol of ``int_model.models.protocols``.
        needed: the ability in words.
        instead: what to choose otherwise, as an instruction.
    """
    if not isinstance(suite.vlm, ability):
        raise ValueError(  # noqa: TRY004 a user's choice of strategy and profile, shown as one sentence
            f"the strategy '{strategy}' needs {needed}, which the vision-language model of the profile "
            f"'{suite.profile}' does not offer: {instead}"
        )
