"""The models that the settings ask for: what identifies them, known at once, and how to load them, later.

``int_model``'s loading code imports nothing heavy before it is called.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.interactive.clicks import ClickSegmenter
from int_model.interactive.shared_segmenter import SharedSegmenter
from int_model.learning.adaptation import Adaptation
from int_model.models.memory import accelerator_memory, release_memory
from int_model.models.protocols import Segmenter
from int_model.models.suite import ModelSuite
from int_model.strategies.base import Strategy
from int_model.strategies.model_options import ModelOptions
from int_model.strategies.registry import make_strategy
from ml_backend.learning.bundles import read_bundle
from ml_backend.settings import Settings

_log = logging.getLogger(__name__)
_KEPT_VERSIONS = 8  # each holds a copy of the segmenter's decoder, about 16 MB
Read = Callable[[str], Adaptation]
"""What a version of a project learned, by its id; raises ``ValueError`` or ``StoreError``."""


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


class Breaks:
    """A strategy's progress callback: does nothing between the stages of a micro-batch until it is told what."""

    def __init__(self) -> None:
        self.work: Callable[[], None] = lambda: None

    def __call__(self, *_: object) -> None:
        """See ``int_model.core.types.Progress``."""
        self.work()


@dataclass(frozen=True, eq=False)
class Models:
    """Loaded models: strategies for images, and for clicks the same segmenter, which the two share call by call."""

    strategy: Strategy
    clicks: ClickSegmenter
    suite: ModelSuite
    options: ModelOptions
    _made: dict[str, Strategy]
    _cpu: CpuTwin
    _learned: Learned
    _breaks: Breaks
    _adaptation: Adaptation | None = None

    @classmethod
    def of(
        cls,
        suite: ModelSuite,
        options: ModelOptions,
        embedding_cache_bytes: int,
        load_on_cpu: Callable[[], ModelSuite] | None = None,
        learned: Learned | None = None,
    ) -> Models:
        """Both over one suite, under what was learned if anything was.

        ``load_on_cpu`` makes the same suite in main memory, if that is wanted. Raises ``ValueError`` for options that
        do not suit the strategy.
        """
        learned = learned or Learned()
        adaptation = learned.adaptation
        shared = SharedSegmenter(suite.segmenter)
        clicks = ClickSegmenter(
            shared.urgent,
            identity=suite.fingerprint,
            cache_bytes=embedding_cache_bytes,
            learned=_Recent(lambda version: _adapted_clicks(learned.of(version), shared.urgent)).get,
        )
        own = replace(suite, segmenter=shared)
        breaks = Breaks()
        made = _adapted(functools.partial(options.make, progress=breaks), own, adaptation)
        twin = CpuTwin(load_on_cpu if suite.device != "cpu" else None, options, learned)
        return cls(made, clicks, own, options, {options.strategy: made}, twin, learned, breaks, adaptation)

    def on_break(self, work: Callable[[], None]) -> None:
        """Have ``work`` called after each stage of a micro-batch, whatever strategy or version is at it."""
        self._breaks.work = work

    def of_adapter(self, adapter: str) -> Models:
        """The same models under a project's version; those used last are kept. By the engine's thread only.

        Raises:
            ValueError: there is no such version, or it was trained on another segmenter.
            StoreError: the database cannot be used.
        """
        if adapter in ("", self._learned.own):
            return self
        return self._versions.get(adapter)

    @functools.cached_property
    def _versions(self) -> _Recent[Models]:
        return _Recent(lambda adapter: self.under(self._learned.of(adapter)))

    @property
    def adaptation(self) -> Adaptation | None:
        """What these models serve under, or None."""
        return self._adaptation

    def under(self, adaptation: Adaptation) -> Models:
        """The same models under an adaptation."""
        made = _adapted(functools.partial(self.options.make, progress=self._breaks), self.suite, adaptation)
        return replace(self, strategy=made, _made={self.options.strategy: made}, _adaptation=adaptation)

    def of_strategy(self, name: str) -> Strategy:
        """Another strategy over the same loaded models, made when first asked for; by the engine's thread only.

        The user's preset and options are for the service's strategy; this one takes those that it has.

        Raises ``ValueError`` for an unknown name, or models that the strategy cannot work with.
        """
        if name not in self._made:
            config = self.options.config(name)
            self._made[name] = _adapted(
                lambda suite: make_strategy(name, suite, config, self._breaks), self.suite, self._adaptation
            )
        return self._made[name]

    @property
    def name(self) -> str:
        """The strategy's."""
        return self.strategy.name

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


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What may have been learned on top of the models.

    Attributes:
        adaptation: what the process was started with, or None; ``own`` is its id, or "".
        read: reads the versions of projects; None: there are none.
    """

    adaptation: Adaptation | None = None
    own: str = ""
    read: Read | None = None

    def of(self, adapter: str) -> Adaptation:
        """What that version learned. Raises ``ValueError`` or ``StoreError``."""
        if adapter == self.own and self.adaptation is not None:
            return self.adaptation
        if self.read is None:
            raise ValueError(f"the project's version {adapter} is not loaded here")
        return self.read(adapter)


_Made = TypeVar("_Made")


class _Recent(Generic[_Made]):
    """What was made for the versions that were used last. For one thread."""

    def __init__(self, make: Callable[[str], _Made]) -> None:
        self._make = make
        self._kept: OrderedDict[str, _Made] = OrderedDict()

    def get(self, version: str) -> _Made:
        """Made when first asked for."""
        if version not in self._kept:
            self._kept[version] = self._make(version)
        self._kept.move_to_end(version)
        while len(self._kept) > _KEPT_VERSIONS:
            self._kept.popitem(last=False)
        return self._kept[version]


def _adapted_clicks(adaptation: Adaptation, segmenter: Segmenter) -> Segmenter:
    from int_model.learning.applied import AdaptedClicks  # needs torch, which is loaded by now

    return AdaptedClicks(adaptation, segmenter)


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
        self, load: Callable[[], ModelSuite] | None, options: ModelOptions, learned: Learned | None = None
    ) -> None:
        self._load = load
        self._options = options
        self._learned = learned
        self._models: Models | None = None
        self._why = ""

    def models(self) -> Models | None:
        """See ``Models.on_cpu``."""
        if self._why:
            raise RuntimeError(self._why)
        if self._models is None and self._load is not None:
            _log.warning("loading the models a second time, on the CPU")
            try:
                self._models = Models.of(self._load(), self._options, 0, learned=self._learned)
            except Exception as error:
                self._why = (
                    f"the models cannot be loaded there ({' '.join(str(error).split()) or type(error).__name__})"
                )
                raise RuntimeError(self._why) from error
        return self._models


def load_strategy(settings: Settings, read: Read | None = None) -> Models:
    """Load the models and make the strategy; ``read`` reads the versions of projects. Slow; imports torch.

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
    own = (None, "") if settings.adapter is None else read_bundle(settings.adapter, options.read_profile())
    learned = Learned(own[0], own[1], read)
    return Models.of(load(settings.device), options, settings.embedding_cache_bytes, twin, learned)
