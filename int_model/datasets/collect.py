"""Images through a strategy into the store, in micro-batches; what is there already is not done again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from int_model.core.task_prompt import TaskPrompt
from int_model.datasets.records import Result
from int_model.datasets.sources import FileState, KnownFile, Source, read_source
from int_model.datasets.store import Store
from int_model.io.files import Segments, explain_failure
from int_model.io.outputs import display_name

_log = logging.getLogger(__name__)


def result_key(models: str, strategy: str, config: str, prompt: TaskPrompt) -> str:
    """16 hex digits of everything that makes a result: fingerprints of models and configuration, strategy, prompt."""
    text = json.dumps([models, strategy, config, prompt.text], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: ``todo`` paths in order; ``done`` images are finished, ``failed`` ones failed before."""

    todo: tuple[Path, ...]
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Finished:
    """One image that was worked on now: the error in one sentence, or ""; objects found over all prompts."""

    path: Path
    error: str
    objects: int
    seconds: float


def known_file(store: Store, path: Path) -> KnownFile | None:
    """What the store knows of the file as it lies there now; None if it is new or was changed."""
    known = store.file(path)
    return known if known is not None and known.state == FileState.of(path) else None


def make_plan(store: Store, paths: Sequence[Path], keys: Sequence[str], *, retry_failed: bool) -> Plan:
    """Which images lack a result. Failures count as done unless ``retry_failed``."""
    todo, done, failed = [], 0, 0
    for path in paths:
        known = known_file(store, path)
        if known is None or (known.error and retry_failed):
            todo.append(path)
        elif known.error:
            failed += 1
        else:
            states = [store.state(known.digest, key) for key in keys]
            if None in states or (any(states) and retry_failed):
                todo.append(path)
            elif any(states):
                failed += 1
            else:
                done += 1
    return Plan(tuple(todo), done, failed)


def collect(
    store: Store,
    todo: Sequence[Path],
    strategy: Segments,
    prompts: Mapping[str, TaskPrompt],
    *,
    batch_size: int,
    version: str,
    retry_failed: bool = False,
) -> Iterator[Finished]:
    """Segment images and save each micro-batch before the next begins.

    A file that cannot be read, or an image on which a prompt fails, is saved with its error; the others go on.
    Identical files are segmented once.

    Args:
        store: where results go.
        todo: paths, e.g. of `make_plan`.
        strategy: makes the masks.
        prompts: by result key.
        batch_size: images that go through the models together.
        version: of this program, kept with each result.
        retry_failed: whether an earlier failure of the same image is tried again.
    """
    batch: list[Source] = []
    for path in todo:
        source = read_source(path)
        if source.image is None:
            store.save([source.known], {})
            yield Finished(path, source.known.error, 0, 0.0)
            continue
        batch.append(source)
        if len(batch) == batch_size:
            yield from _flush(store, batch, strategy, prompts, version, retry_failed)
            batch = []
    if batch:
        yield from _flush(store, batch, strategy, prompts, version, retry_failed)


def _flush(
    store: Store,
    batch: Sequence[Source],
    strategy: Segments,
    prompts: Mapping[str, TaskPrompt],
    version: str,
    retry_failed: bool,
) -> Iterator[Finished]:
    fresh: dict[tuple[str, str], Result] = {}
    for key, prompt in prompts.items():
        missing = {
            source.known.digest: source
            for source in batch
            if (state := store.state(source.known.digest, key)) is None or (state and retry_failed)
        }
        for digest, result in _segment(list(missing.values()), strategy, prompt, version):
            fresh[digest, key] = result
    store.save([source.known for source in batch], fresh)
    for source in batch:
        digest = source.known.digest
        results = [fresh.get((digest, key)) or store.result(digest, key) for key in prompts]
        present = [result for result in results if result is not None]
        error = next((result.error for result in present if result.error), "")
        objects = sum(len(result.objects) for result in present)
        yield Finished(source.known.path, error, objects, sum(result.seconds for result in present))


def _segment(batch: Sequence[Source], strategy: Segments, prompt: TaskPrompt, version: str) -> list[tuple[str, Result]]:
    """Result by digest: the batch together; if that fails, one by one, so that only the image at fault has an error."""
    images = [source.image for source in batch if source.image is not None]
    if not images:
        return []
    begun = time.perf_counter()
    try:
        segmentations = strategy.segment(images, prompt)
    except Exception as error:  # noqa: BLE001 whatever a model throws is this image's error, not the run's
        _log.debug("segmenting %s failed", [display_name(s.known.path) for s in batch], exc_info=True)
        if len(batch) > 1:
            return [found for source in batch for found in _segment([source], strategy, prompt, version)]
        return [(batch[0].known.digest, Result(error=explain_failure(error), version=version))]
    seconds = (time.perf_counter() - begun) / len(batch)
    return [
        (source.known.digest, Result.of(segmentation, seconds, version))
        for source, segmentation in zip(batch, segmentations, strict=True)
    ]
