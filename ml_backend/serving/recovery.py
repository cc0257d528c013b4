"""A batch through the models, whatever it takes: out of memory it is halved, after another failure images go alone.

Knows no torch: what the models can do about their memory they offer as methods (`Relieves`, `HasCpuTwin`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from ml_backend.errors import EngineError

_log = logging.getLogger(__name__)
_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
_TOO_LARGE = (
    "the accelerator has not enough memory for this image, even alone; use a smaller profile or a smaller image, or "
    "set INT_OOM_FALLBACK=cpu"
)

MemoryEvent = Literal["retried", "cpu", "failed"]
"""A batch, image or click that was tried again; an image that went to the CPU; one that had to be given up."""


class Segments(Protocol):
    """What the engine drives; see ``int_model.strategies.registry.Strategy``."""

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """One segmentation per image, in order."""
        ...


@runtime_checkable
class HasStrategies(Protocol):
    """What loaded models offer besides `Segments` if they know several ways to segment."""

    def of_strategy(self, name: str) -> Segments:
        """The strategy of that name; see ``int_model.strategies.registry.STRATEGIES``."""
        ...


@runtime_checkable
class Relieves(Protocol):
    """Models that can give memory back."""

    def relieve(self) -> None:
        """Empty caches, in this process and on the accelerator. Called from any thread."""
        ...


@runtime_checkable
class HasCpuTwin(Protocol):
    """Models that may have a second copy in main memory, for images that the accelerator is too small for."""

    def on_cpu(self) -> Segments | None:
        """The copy, loaded when first asked for; None if there is to be none. Raises whatever loading raises."""
        ...


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt failed. Holds no exception: its traceback would keep the tensors of the attempt alive."""

    message: str
    memory: bool


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that memory ran out (torch's, the system's, CUDA's)."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        named = any(cls.__name__ == "OutOfMemoryError" for cls in type(current).__mro__)
        told = isinstance(current, RuntimeError) and any(sign in str(current).lower() for sign in _SIGNS)
        if named or told or isinstance(current, MemoryError):
            return True
        current = current.__cause__ or current.__context__
    return False


def relieve(models: object) -> None:
    """Let the models give memory back, if they can. Never raises."""
    if not isinstance(models, Relieves):
        return
    try:
        models.relieve()
    except Exception:  # noqa: BLE001 - the batch is tried again anyway
        _log.exception("the accelerator's memory could not be freed")


def segment_each(
    models: Segments,
    images: Sequence[Image],
    task: TaskPrompt,
    strategy: str = "",
    on_memory: Callable[[MemoryEvent], None] = lambda _: None,
) -> Iterator[tuple[int, Segmentation | EngineError]]:
    """Every image's result or error with its place in ``images``, each as soon as it is known. Raises nothing.

    Out of memory: caches are emptied, the batch is halved and tried again, and no later part of it is larger. An image
    that does not fit alone is tried once more (now that all caches are empty), then on the CPU where the models offer
    it, then it fails; the others go on. After any other failure the images of the batch are tried one by one.
    """
    start, limit = 0, max(1, len(images))
    while start < len(images):
        part = range(start, min(start + limit, len(images)))
        outcome = _attempt(models, [images[i] for i in part], task, strategy)
        if not isinstance(outcome, _Failure):
            yield from zip(part, outcome, strict=True)
            start = part.stop
        elif len(part) > 1:
            if outcome.memory:
                limit = len(part) // 2
                _log.warning("out of memory with %d images; trying %d at once", len(part), limit)
                relieve(models)
                on_memory("retried")
            else:
                limit = 1
                _log.warning("a batch of %d images failed; trying them one by one", len(part))
        else:
            yield start, _alone(models, images[start], task, strategy, outcome, on_memory)
            start += 1


def _alone(
    models: Segments,
    image: Image,
    task: TaskPrompt,
    strategy: str,
    failure: _Failure,
    on_memory: Callable[[MemoryEvent], None],
) -> Segmentation | EngineError:
    """What else can be done for an image that failed alone."""
    if not failure.memory:
        return EngineError(f"the models failed on this image: {failure.message}")
    relieve(models)
    on_memory("retried")
    again = _attempt(models, [image], task, strategy)
    if not isinstance(again, _Failure):
        return again[0]
    if not again.memory:
        return EngineError(f"the models failed on this image: {again.message}")
    relieve(models)
    try:
        twin = models.on_cpu() if isinstance(models, HasCpuTwin) else None
    except Exception as error:  # noqa: BLE001 - whatever loading raises, only this image fails
        _log.exception("the models cannot be loaded on the CPU")
        on_memory("failed")
        return EngineError(f"{_TOO_LARGE.partition(';')[0]}, and the CPU cannot take it: {_sentence(error)}")
    if twin is None:
        on_memory("failed")
        return EngineError(_TOO_LARGE)
    on_memory("cpu")
    last = _attempt(twin, [image], task, strategy)
    if not isinstance(last, _Failure):
        return last[0]
    on_memory("failed")
    return EngineError(f"{_TOO_LARGE.partition(';')[0]}, and on the CPU it failed too: {last.message}")


def _attempt(
    models: Segments, images: Sequence[Image], task: TaskPrompt, strategy: str
) -> list[Segmentation] | _Failure:
    try:
        results = _chosen(models, strategy).segment(images, task)
    except Exception as error:  # noqa: BLE001 - whatever a model raises, the engine lives on
        memory = is_out_of_memory(error)
        _log.warning("%d images failed: %s", len(images), type(error).__name__, exc_info=not memory)
        return _Failure(_sentence(error), memory)
    if len(results) != len(images):
        return _Failure(f"the strategy gave {len(results)} results for {len(images)} images", memory=False)
    return results


def _chosen(models: Segments, strategy: str) -> Segments:
    if not strategy:
        return models
    if not isinstance(models, HasStrategies):
        raise EngineError(f"the loaded models know no strategy but their own; remove model_strategy='{strategy}'")
    return models.of_strategy(strategy)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
