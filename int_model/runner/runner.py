"""Images through strategies in micro-batches: results from the store or made now, failures isolated, all in order."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.io.files import Source, read_source
from int_model.models.memory import release_memory
from int_model.runner.isolation import Failure, isolate
from int_model.runner.store import Entry, ResultKey, ResultStore
from int_model.strategies.base import Segments


class Item(Protocol):
    """What goes through: anything with an image, or without one where it could not be had."""

    @property
    def image(self) -> Image | None: ...


ItemT = TypeVar("ItemT", bound=Item)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A new segmentation; ``seconds`` is the wall time of its attempt divided by the number of images in it."""

    segmentation: Segmentation
    seconds: float


class Pass(ABC, Generic[ItemT, ResultT]):
    """One strategy with one prompt over a batch, and what is made and kept of its outcomes.

    Only `key` and `conclude` must be there; what does not override `entry` and `recall` keeps nothing.
    """

    def __init__(self, strategy: Segments, prompt: TaskPrompt) -> None:
        self.strategy = strategy
        self.prompt = prompt

    @abstractmethod
    def key(self, item: ItemT) -> ResultKey:
        """What names the item's result; items of one key are worked on once."""

    @abstractmethod
    def conclude(self, item: ItemT, outcome: Made | Failure) -> ResultT:
        """The result of an item that was worked on now."""

    def entry(self, result: ResultT) -> Entry | None:  # noqa: ARG002
        """What the store keeps of a result; None for nothing."""
        return None

    def recall(self, entry: Entry) -> ResultT | None:  # noqa: ARG002
        """The result that an entry holds; None to make it anew."""
        return None

    def recalled(self, count: int) -> None:
        """Told how many results of a batch were there already."""

    def attempt(self, items: Sequence[ItemT]) -> list[Made]:
        """One call of the strategy."""
        begun = time.perf_counter()
        found = self.strategy.segment([item.image for item in items if item.image is not None], self.prompt)
        seconds = (time.perf_counter() - begun) / len(items)
        return [Made(segmentation, seconds) for segmentation in found]

    def run(self, items: Sequence[ItemT], store: ResultStore | None) -> list[ResultT]:
        """A result per item: recalled, or made now and put into the store. Raises ``StoreError``."""
        keys = [self.key(item) for item in items]
        found: dict[ResultKey, ResultT] = {}
        for key in keys:
            entry = None if store is None else store.get(key)
            kept = None if entry is None else self.recall(entry)
            if kept is not None:
                found[key] = kept
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
        self.recalled(len(items) - len(missing))
        todo = list(missing.items())
        fresh: dict[ResultKey, Entry] = {}
        attempts = isolate(self.attempt, [item for _, item in todo], free_memory=release_memory)
        for place, outcome in attempts:
            key, item = todo[place]
            found[key] = result = self.conclude(item, outcome)
            if (entry := self.entry(result)) is not None:
                fresh[key] = entry
        if store is not None and fresh:
            store.put(fresh)
        return [found[key] for key in keys]


def run(
    items: Iterable[ItemT],
    passes: Callable[[Sequence[ItemT]], Sequence[Pass[ItemT, ResultT]]],
    *,
    batch_size: int,
    store: ResultStore | None = None,
    group: Callable[[ItemT], Hashable] = lambda _: None,
    begun: Callable[[Sequence[ItemT]], None] = lambda _: None,
) -> Iterator[list[tuple[ItemT, list[ResultT]]]]:
    """Every item with its results, one of each pass, in micro-batches.

    A batch is saved before the next one is read. An image on which a pass fails has that pass's result of a failure;
    the others of its batch are not harmed. An exception that is no ``Exception``, such as Ctrl-C, comes through; what
    was saved before stays.

    Args:
        items: read lazily. Those without an image take no room in a batch and have no results.
        passes: the passes for a batch of items that have an image.
        batch_size: images that go through the models together.
        store: where results are looked up and kept; None: nowhere.
        group: only items of one group share a batch; within a group items keep their order.
        begun: told each batch before the models run.

    Raises ``StoreError`` if the store cannot be used.
    """
    for batch in micro_batches(items, batch_size, group):
        ready = [item for item in batch if item.image is not None]
        if ready:
            begun(ready)
        columns = [each.run(ready, store) for each in passes(ready)] if ready else []
        rows = iter(zip(*columns, strict=True))
        yield [(item, [] if item.image is None else list(next(rows, ()))) for item in batch]


def micro_batches(items: Iterable[ItemT], size: int, group: Callable[[ItemT], Hashable]) -> Iterator[list[ItemT]]:
    """Items in batches of ``size`` images of one group, and whatever came between them without an image."""
    waiting: dict[Hashable, list[ItemT]] = {}
    for item in items:
        place = group(item)
        batch = waiting.setdefault(place, [])
        batch.append(item)
        images = sum(one.image is not None for one in batch)
        if images == size or not images:
            yield waiting.pop(place)
    yield from waiting.values()


class _Once(Pass[Source, Made | Failure]):
    """Every file is worked on, and nothing is kept."""

    def key(self, item: Source) -> ResultKey:
        return ResultKey(str(id(item)), self.prompt.text, "")

    def conclude(self, item: Source, outcome: Made | Failure) -> Made | Failure:  # noqa: ARG002
        return outcome


def segment_files(
    paths: Iterable[Path],
    strategy: Segments,
    task: TaskPrompt,
    *,
    batch_size: int = 4,
    begun: Callable[[Sequence[Source]], None] = lambda _: None,
) -> Iterator[tuple[Source, Made | Failure]]:
    """Read and segment files, ``batch_size`` at a time; every file with its outcome, in order. See `run`."""
    once = [_Once(strategy, task)]
    for batch in run(map(read_source, paths), lambda _: once, batch_size=batch_size, begun=begun):
        for source, outcomes in batch:
            yield source, outcomes[0] if outcomes else Failure("", source.error, expected=True)
