"""Images through a strategy into the store, in micro-batches; what is there already is not done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from int_model.core.task_prompt import TaskPrompt
from int_model.datasets.contents import LabelPlan
from int_model.datasets.store import DatasetStore, KnownFile
from int_model.io.files import Source, read_source
from int_model.runner.isolation import Failure
from int_model.runner.results import StoredResult
from int_model.runner.runner import Made, Pass, run
from int_model.runner.store import Entry, ResultKey
from int_model.strategies.base import Segments


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: ``todo`` paths in order; ``done`` images are finished, ``failed`` ones failed before."""

    todo: tuple[Path, ...]
    done: int
    failed: int


def make_plan(store: DatasetStore, paths: Sequence[Path], labels: Sequence[LabelPlan], *, retry_failed: bool) -> Plan:
    """Which images lack a result of a label. Failures count as done unless ``retry_failed``."""
    todo, done, failed = [], 0, 0
    for path in paths:
        known = store.file(path)
        if known is None:
            todo.append(path)
            continue
        states = [store.failed(plan.key(known.digest)) for plan in labels]
        broken = bool(known.error) or any(states)
        if (None in states and not known.error) or (broken and retry_failed):
            todo.append(path)
        else:
            done, failed = done + (not broken), failed + broken
    return Plan(tuple(todo), done, failed)


class _Label(Pass[Source, StoredResult | Failure]):
    """The results of a label's prompt."""

    def __init__(self, strategy: Segments, plan: LabelPlan, version: str, *, retry_failed: bool) -> None:
        super().__init__(strategy, TaskPrompt(plan.prompt))
        self._plan, self._version, self._retry_failed = plan, version, retry_failed

    def key(self, item: Source) -> ResultKey:
        return self._plan.key(item.digest)

    def conclude(self, item: Source, outcome: Made | Failure) -> StoredResult | Failure:  # noqa: ARG002
        if isinstance(outcome, Failure):
            return outcome
        return StoredResult.of(outcome.segmentation, outcome.seconds, self._version)

    def entry(self, result: StoredResult | Failure) -> Entry | None:
        if isinstance(result, StoredResult):
            return Entry(result.pack())
        return None if result.transient else Entry(error=result.explain())

    def recall(self, entry: Entry) -> StoredResult | Failure | None:
        if not entry.error:
            return StoredResult.unpack(entry.payload)
        return None if self._retry_failed else Failure("", entry.error, expected=True)


def collect(
    store: DatasetStore,
    todo: Sequence[Path],
    strategy: Segments,
    labels: Sequence[LabelPlan],
    *,
    batch_size: int,
    version: str,
    retry_failed: bool = False,
) -> Iterator[tuple[Source, str]]:
    """Segment images and save each micro-batch before the next begins; yields every file with its error, or "".

    A file that cannot be read, or an image on which a prompt fails, is saved with its error; the others go on.
    Identical files are segmented once.

    Args:
        store: where results go.
        todo: paths, e.g. of `make_plan`.
        strategy: makes the masks.
        labels: whose prompts are looked for.
        batch_size: images that go through the models together.
        version: of this program, kept with each result.
        retry_failed: whether an earlier failure of the same image is tried again.
    """
    passes = [_Label(strategy, plan, version, retry_failed=retry_failed) for plan in labels]
    for batch in run(map(read_source, todo), lambda _: passes, batch_size=batch_size, store=store):
        store.keep_files([KnownFile.of(source) for source, _ in batch])
        for source, results in batch:
            failures = (result.explain() for result in results if isinstance(result, Failure))
            yield source, source.error or next(failures, "")
