"""Which models, which strategy, and how it is configured: one object for every command and for the environment."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from int_model.core.config import StrategyConfig
from int_model.core.options import ConfigError, fitting, leaves, nested
from int_model.core.types import Progress
from int_model.models import suite as suites
from int_model.models.identity import profile_fingerprint
from int_model.models.profile import Profile, read_profile
from int_model.strategies.base import Strategy, StrategyEntry
from int_model.strategies.registry import DEFAULT_STRATEGY, STRATEGIES, make_strategy

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What a user chose about models and method.

    A configuration has five layers; a later one wins: the strategy's defaults, the preset, the profile's table
    ``int`` (what its models need), ``INT_CONFIG`` of the environment, ``--set`` of the command line. The last two are
    one table here, ``changes``.

    A user's preset and changes must suit the strategy, else they are an error. Where several strategies run side by
    side each takes what it has, and an option is an error only if none of them has it. The profile's table ``int``
    belongs to the models and not to the user: every strategy takes what it has of it.

    Attributes:
        profile: name of a shipped profile or path of a profile file.
        overrides: of the profile, with dotted keys, e.g. ``{"segmenter.id": "facebook/sam-vit-base"}``.
        strategy: name of the strategy.
        preset: name of a preset; "" for none.
        changes: options of the strategy, nested or dotted, e.g. ``{"iterations.count": 3}``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    """

    profile: str = "nano"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = DEFAULT_STRATEGY
    preset: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"

    def read_profile(self) -> Profile:
        """The profile with its overrides. Raises ``ProfileError`` (a ``ValueError``)."""
        return read_profile(self.profile, self.overrides)

    def config(self, strategy: str = "") -> StrategyConfig:
        """The configuration of the strategy, or of another one over the same models, which takes what it has.

        Raises:
            ValueError: the strategy, the preset or the profile does not exist.
            ConfigError: the strategy lacks an option, or a value is out of range.
        """
        self._check([self.strategy])
        return self._config(strategy or self.strategy)

    def configs(self, strategies: Sequence[str]) -> dict[str, StrategyConfig]:
        """The configuration of each of ``strategies``, which run side by side; raises as ``config``."""
        names = tuple(dict.fromkeys(strategies))
        self._check(names)
        return {name: self._config(name) for name in names}

    def fingerprints(self) -> dict[str, str]:
        """Of every strategy over these models: 64 hex digits that change with any checkpoint or option that it reads.

        Loads nothing; raises as ``config``.
        """
        models = profile_fingerprint(self.read_profile())
        described = {name: json.dumps([name, self.config(name).fingerprint(), models]) for name in STRATEGIES}
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in described.items()}

    def changed(self) -> tuple[str, ...]:
        """The changes as ``KEY=VALUE``, for people."""
        return tuple(_text(key, value) for key, value in leaves(self.changes))

    def overridden(self) -> tuple[str, ...]:
        """The overrides of the profile as ``ROLE.KEY=VALUE``, for people."""
        return tuple(_text(key, value) for key, value in leaves(self.overrides))

    def load_suite(
        self, on_role: suites.Progress | None = None, *, device: str = "", strategies: Sequence[str] = ()
    ) -> ModelSuite:
        """Load the models. Slow; imports the deep-learning libraries.

        Args:
            on_role: see ``load_suite`` of ``int_model.models.suite``.
            device: another than that of these options.
            strategies: that the models are for; only the chosen one if empty.

        Raises:
            ValueError: the profile or the device does not exist, or the profile lacks a model that a strategy needs.
            WeightsError: weights are absent, incomplete or unreadable (a ``RuntimeError``).
        """
        profile = self.read_profile()
        for name in strategies or [self.strategy]:
            STRATEGIES.named(name).check_roles(profile.roles, profile.name)
        return suites.load_suite(profile, device=device or self.device, progress=on_role)

    def make(self, suite: ModelSuite, progress: Progress | None = None) -> Strategy:
        """The strategy over loaded models; raises as ``config``."""
        return make_strategy(self.strategy, suite, self.config(), progress)

    def load(
        self, on_role: suites.Progress | None = None, progress: Progress | None = None
    ) -> tuple[ModelSuite, Strategy]:
        """Models and strategy; a wrong option is told before anything is loaded. Raises as both do."""
        config = self.config()
        suite = self.load_suite(on_role)
        return suite, make_strategy(self.strategy, suite, config, progress)

    def _config(self, strategy: str) -> StrategyConfig:
        """All layers, as far as the strategy has their options."""
        entry, profile = STRATEGIES.named(strategy), self.read_profile()
        own = entry.config().merged(fitting(entry.config, _preset(self.preset)))
        try:
            needed = own.merged(fitting(entry.config, profile.int_overrides))
        except ConfigError as error:
            raise ConfigError(f"profile '{profile.name}', table [int]: {error}") from error
        return entry.configured(needed, fitting(entry.config, nested(self.changes)))

    def _check(self, strategies: Sequence[str]) -> None:
        """Raise for what none of the ``strategies`` has, and for options in the profile that no strategy has."""
        entries = [STRATEGIES.named(name) for name in strategies]
        preset = _preset(self.preset)
        if not any(_fits(entry, preset) for entry in entries):
            suited = ", ".join(entry.name for entry in STRATEGIES.values() if _fits(entry, preset))
            raise ConfigError(
                f"the preset '{self.preset}' sets options that {' and '.join(strategies)} "
                f"{'lacks' if len(strategies) == 1 else 'lack'}; it fits: {suited}"
            )
        entries[0].configured(entries[0].config(), _unknown(self.changes, entries))
        profile = self.read_profile()
        try:
            STRATEGIES[DEFAULT_STRATEGY].config().merged(_unknown(profile.int_overrides, STRATEGIES.values()))
        except ConfigError as error:
            raise ConfigError(f"profile '{profile.name}', table [int]: {error}") from error


def preset_names() -> tuple[str, ...]:
    """Names of the bundled presets, sorted."""
    return tuple(
        sorted(path.name.removesuffix(".toml") for path in _presets().iterdir() if path.name.endswith(".toml"))
    )


def read_preset(name: str) -> dict[str, Any]:
    """The options that a bundled preset sets, nested. Raises ``ConfigError`` for an unknown name."""
    if name not in preset_names():
        raise ConfigError(f"there is no preset '{name}'; choose one of: {', '.join(preset_names())}")
    return tomllib.loads((_presets() / f"{name}.toml").read_text(encoding="utf-8"))


def _presets() -> Traversable:
    return resources.files("int_model.core") / "presets"


def _preset(name: str) -> dict[str, Any]:
    return read_preset(name) if name else {}


def _fits(entry: StrategyEntry, overrides: Mapping[str, Any]) -> bool:
    return fitting(entry.config, overrides) == overrides


def _unknown(changes: Mapping[str, Any], entries: Iterable[StrategyEntry]) -> dict[str, Any]:
    """The ``changes`` that suit none of the strategies, nested."""
    known, unknown = list(entries), {}
    for option, value in leaves(nested(changes)):
        if not any(_fits(entry, nested({option: value})) for entry in known):
            unknown[option] = value
    return nested(unknown)


def _text(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"
