"""The models that the settings ask for: what identifies them, known at once, and how to load them, later.

``int_model``'s loading code imports nothing heavy before it is called.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.interactive.clicks import ClickSegmenter
from int_model.interactive.shared_segmenter import SharedSegmenter
from int_model.learning.adaptation import Adaptation
from int_model.models.memory import accelerator_memory, release_memory
from int_model.models.suite import ModelSuite
from int_model.strategies.base import Strategy
from int_model.strategies.model_options import ModelOptions
from int_model.strategies.registry import make_strategy
from ml_backend.learning.bundles import read_bundle
from ml_backend.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What the models are.

    Attributes:
        profile: short name, fit for a version string.
        strategy: name of the strategy.
        fingerprint: hex digits that change with any checkpoint or option that the strategy's results depend on.
        others: the fingerprints of the other strategies over the same models, by name.
        adapter: what a project learned on top of the models, hex digits; "" for the models as they are. It becomes a
            part of versions and of the keys of kept results.
    """

    profile: str
    strategy: str
    fingerprint: str
    others: Mapping[str, str] = field(default_factory=dict, hash=False)
    adapter: str = ""

    def adapted(self, adapter: str) -> ModelIdentity:
        """The same models with what a project learned on top of them; "" keeps this identity's adapter."""
        return replace(self, adapter=adapter) if adapter else self

    def fingerprint_of(self, strategy: str) -> str:
        """The fingerprint of a strategy over these models; "" means the service's."""
        return self.others.get(strategy, self.fingerprint)

    def cache_version_of(self, strategy: str) -> str:
        """The version under which results of a strategy are kept (before any output option); "" is the service's."""
        adapter = f"-{self.adapter}" if self.adapter else ""
        return f"{self.profile}-{strategy or self.strategy}-{self.fingerprint_of(strategy)[:16]}{adapter}"


def identify(settings: Settings) -> ModelIdentity:
    """The identity of the settings' models, without loading them.

    Raises:
        ValueError: the profile, its overrides, the strategy, the preset, the strategy's options or the bundle of what
            was learned are wrong.
    """
    options = settings.models
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(options.read_profile().name).stem).strip("-") or "profile"
    fingerprints = options.fingerprints()
    adapter = "" if settings.adapter is None else read_bundle(settings.adapter, options.read_profile())[1]
    return ModelIdentity(name, options.strategy, fingerprints.pop(options.strategy), fingerprints, adapter)


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Loaded models: strategies for images, and for clicks the same segmenter, which the two share call by call."""

    strategy: Strategy
    clicks: ClickSegmenter
    suite: ModelSuite
    options: ModelOptions
    _made: dict[str, Strategy]
    _cpu: CpuTwin
    _adaptation: Adaptation | None = None

    @classmethod
    def of(
        cls,
        suite: ModelSuite,
        options: ModelOptions,
        embedding_cache_bytes: int,
        load_on_cpu: Callable[[], ModelSuite] | None = None,
        adaptation: Adaptation | None = None,
    ) -> Models:
        """Both over one suite, the strategy under what was learned if anything was.

        ``load_on_cpu`` makes the same suite in main memory, if that is wanted. Raises ``ValueError`` for options that
        do not suit the strategy.
        """
        shared = SharedSegmenter(suite.segmenter)
        clicks = ClickSegmenter(shared.urgent, identity=suite.fingerprint, cache_bytes=embedding_cache_bytes)
        own = replace(suite, segmenter=shared)
        made = _adapted(options.make, own, adaptation)
        twin = CpuTwin(load_on_cpu if suite.device != "cpu" else None, options, adaptation)
        return cls(made, clicks, own, options, {options.strategy: made}, twin, adaptation)

    def of_strategy(self, name: str) -> Strategy:
        """Another strategy over the same loaded models, made when first asked for; by the engine's thread only.

        The user's preset and options are for the service's strategy; this one takes those that it has.

        Raises ``ValueError`` for an unknown name, or models that the strategy cannot work with.
        """
        if name not in self._made:
            config = self.options.config(name)
            self._made[name] = _adapted(lambda suite: make_strategy(name, suite, config), self.suite, self._adaptation)
        return self._made[name]

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        return self.strategy.segment(images, task)

    def free_memory(self) -> None:
        """Empty the caches: encoded images that wait for clicks, and the accelerator's allocator. From any thread."""
        self.clicks.release_all()
        release_memory()

    def accelerator_memory(self) -> dict[str, int]:
        """See ``int_model.models.memory.accelerator_memory``."""
        return accelerator_memory(self.suite.device)

    def on_cpu(self) -> Models | None:
        """The same models in main memory, loaded when first asked for; None if that is not wanted or they are there.

        By the engine's thread only. Raises ``RuntimeError`` if they cannot be loaded.
        """
        return self._cpu.models()


def _adapted(make: Callable[[ModelSuite], Strategy], suite: ModelSuite, adaptation: Adaptation | None) -> Strategy:
    """The strategy as it is, or under what was learned."""
    if adaptation is None:
        return make(suite)
    from int_model.learning.applied import AdaptedStrategy  # needs torch, which is loaded by now

    return AdaptedStrategy(make, suite, adaptation)


class CpuTwin:
    """The second copy of the models. It is loaded at most once; if that fails it stays off until the next start.

    Moving the accelerator's copy back and forth instead would need no second copy, but the way back can run out of
    memory itself, clicks would wait for it, and half precision is not to be had on every CPU.
    """

    def __init__(
        self, load: Callable[[], ModelSuite] | None, options: ModelOptions, adaptation: Adaptation | None = None
    ) -> None:
        self._load = load
        self._options = options
        self._adaptation = adaptation
        self._models: Models | None = None
        self._why = ""

    def models(self) -> Models | None:
        """See ``Models.on_cpu``."""
        if self._why:
            raise RuntimeError(self._why)
        if self._models is None and self._load is not None:
            _log.warning("loading the models a second time, on the CPU")
            try:
                self._models = Models.of(self._load(), self._options, 0, adaptation=self._adaptation)
            except Exception as error:
                self._why = (
                    f"the models cannot be loaded there ({' '.join(str(error).split()) or type(error).__name__})"
                )
                raise RuntimeError(self._why) from error
        return self._models


def load_strategy(settings: Settings) -> Models:
    """Load the models and make the strategy. Slow; imports the deep-learning libraries.

    Raises:
        ValueError: profile, strategy or options are wrong.
        RuntimeError: weights are missing or do not fit.
    """
    options = settings.models
    options.config()  # a wrong option should not wait for the models

    def load(device: str) -> ModelSuite:
        return options.load_suite(
            lambda role, done, total: _log.info("loading the models: %s (%d of %d)", role, done, total), device=device
        )

    twin = (lambda: load("cpu")) if settings.oom_fallback == "cpu" else None
    learned = None if settings.adapter is None else read_bundle(settings.adapter, options.read_profile())[0]
    return Models.of(load(settings.device), options, settings.embedding_cache_bytes, twin, learned)
