"""A batch through the loaded models: ``isolate``, with what the service can do about memory.

Knows no torch: what the models can do about their memory they offer as methods (`FreesMemory`, `HasCpuTwin`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.runner.isolation import Failure, is_out_of_memory, isolate, try_once
from int_model.strategies.base import Segments
from ml_backend.errors import EngineError, ModelsAwayError

_log = logging.getLogger(__name__)
_TOO_LARGE = (
    "the accelerator has not enough memory for this image, even alone; use a smaller profile or a smaller image, or "
    "set INT_OOM_FALLBACK=cpu"
)

MemoryEvent = Literal["retried", "cpu", "failed"]
"""A batch, image or click that was tried again; an image that went to the CPU; one that had to be given up."""


@runtime_checkable
class HasStrategies(Protocol):
    """What loaded models offer besides `Segments` if they know several ways to segment."""

    def of_strategy(self, name: str) -> Segments:
        """The strategy of that name; see ``int_model.strategies.registry.STRATEGIES``."""
        ...


@runtime_checkable
class HasVersions(Protocol):
    """What loaded models offer besides `Segments` if projects can have versions of their own over them."""

    def of_adapter(self, adapter: str) -> Segments:
        """The same models under what a project learned; "" means as they were loaded. Raises ``ValueError``."""
        ...


@runtime_checkable
class FreesMemory(Protocol):
    """Models that can give memory back."""

    def free_memory(self) -> None:
        """Empty caches, in this process and on the accelerator. Called from any thread."""
        ...


@runtime_checkable
class HasCpuTwin(Protocol):
    """Models that may have a second copy in main memory, for images that the accelerator is too small for."""

    def on_cpu(self) -> Segments | None:
        """The copy, loaded when first asked for; None if there is to be none. Raises whatever loading raises."""
        ...


def free_memory(models: object) -> None:
    """Let the models give memory back, if they can. Never raises."""
    if not isinstance(models, FreesMemory):
        return
    try:
        models.free_memory()
    except Exception:  # noqa: BLE001 - the batch is tried again anyway
        _log.exception("the accelerator's memory could not be freed")


def segment_each(
    models: Segments,
    images: Sequence[Image],
    task: TaskPrompt,
    strategy: str = "",
    on_memory: Callable[[MemoryEvent], None] = lambda _: None,
    adapter: str = "",
) -> Iterator[tuple[int, Segmentation | EngineError]]:
    """Every image's result or error with its place in ``images``, each as soon as it is known. Raises nothing.

    As ``isolate``: out of memory, caches are emptied and the batch is halved. An image that does not fit alone goes to
    the CPU where the models offer it, else it fails; the others go on. A model that cannot answer at the moment gives
    ``ModelsAwayError``.
    """

    def retry() -> None:
        _log.warning("out of memory; trying again with fewer images or emptied caches")
        free_memory(models)
        on_memory("retried")

    def rescue(image: Image, _: Failure) -> Segmentation | Failure:
        free_memory(models)
        outcome = _on_cpu(models, image, _Kind(task, strategy, adapter), on_memory)
        if isinstance(outcome, Failure):
            on_memory("failed")
        return outcome

    kind = _Kind(task, strategy, adapter)
    outcomes = isolate(_attempt(models, kind), images, free_memory=retry, rescue=rescue)
    for index, outcome in outcomes:
        if not isinstance(outcome, Failure):
            yield index, outcome
        elif outcome.memory:
            yield index, EngineError(outcome.message)
        elif outcome.transient:
            yield index, ModelsAwayError(outcome.message, retry_after=outcome.retry_after)
        else:
            yield index, EngineError(f"the models failed on this image: {outcome.message}")


class _Kind(NamedTuple):
    """What all images of a batch share."""

    task: TaskPrompt
    strategy: str
    adapter: str


def _on_cpu(
    models: Segments, image: Image, kind: _Kind, on_memory: Callable[[MemoryEvent], None]
) -> Segmentation | Failure:
    """An image that the accelerator is too small for, on the CPU; the failure's message says what became of that."""
    try:
        twin = models.on_cpu() if isinstance(models, HasCpuTwin) else None
    except Exception as error:  # noqa: BLE001 - whatever loading raises, only this image fails
        _log.exception("the models cannot be loaded on the CPU")
        why = f"{_TOO_LARGE.partition(';')[0]}, and the CPU cannot take it: {Failure.of(error).message}"
        return Failure("OutOfMemory", why, memory=True)
    if twin is None:
        return Failure("OutOfMemory", _TOO_LARGE, memory=True)
    on_memory("cpu")
    last = try_once(_attempt(twin, kind), [image])
    if not isinstance(last, Failure):
        return last[0]
    why = f"{_TOO_LARGE.partition(';')[0]}, and on the CPU it failed too: {last.message}"
    return Failure("OutOfMemory", why, memory=True)


def _attempt(models: Segments, kind: _Kind) -> Callable[[Sequence[Image]], list[Segmentation]]:
    def attempt(images: Sequence[Image]) -> list[Segmentation]:
        try:
            return _chosen(models, kind).segment(images, kind.task)
        except Exception as error:
            memory = is_out_of_memory(error)
            _log.warning("%d images failed: %s", len(images), type(error).__name__, exc_info=not memory)
            raise

    return attempt


def _chosen(models: Segments, kind: _Kind) -> Segments:
    if kind.adapter and isinstance(models, HasVersions):  # others serve what they were loaded with, and nothing else
        models = models.of_adapter(kind.adapter)
    if not (strategy := kind.strategy):
        return models
    if not isinstance(models, HasStrategies):
        raise EngineError(f"the loaded models know no strategy but their own; remove model_strategy='{strategy}'")
    return models.of_strategy(strategy)
