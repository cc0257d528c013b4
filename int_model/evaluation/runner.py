"""Images x variants x seeds through the models, with what they cost; every finished result is kept and reused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Segmentation
from int_model.evaluation.examples import BrokenExample, Example, Variant
from int_model.evaluation.memory import PeakMemory, peak_memory
from int_model.evaluation.protocol import PROTOCOLS, Protocol, score
from int_model.evaluation.records import Record
from int_model.evaluation.result import Evaluation, Setting, VariantInfo, conclude
from int_model.evaluation.sharing import SharedCalls
from int_model.evaluation.store import ResultStore, result_key
from int_model.io.drawing import comparison
from int_model.io.files import explain_failure
from int_model.models.suite import ModelSuite
from int_model.report import ReportBuilder
from int_model.strategies.base import Strategy
from int_model.strategies.registry import make_strategy

Progress = Callable[[int, int | None, str], None]
"""Called as ``progress(done, total, text)``: results so far, of how many (None: not known), and what was last done."""

ROUNDS = 1000

_log = logging.getLogger(__name__)


def evaluate(
    examples: Iterable[Example | BrokenExample],
    variants: Sequence[Variant],
    suite: ModelSuite | Callable[[int], ModelSuite],
    *,
    seeds: Sequence[int] = (0,),
    cache_dir: Path | None = None,
    config: IntConfig | None = None,
    protocol: Protocol | str = "native",
    batch_size: int = 4,
    pages: bool = False,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
    facts: dict[str, str] | None = None,
    share_calls: bool = False,
) -> Evaluation:
    """Run every variant on every example with every seed, and sum up.

    Args:
        examples: read once, a few at a time; ids are unique. A ``BrokenExample`` is a failure of every variant.
        variants: names are unique; the first is the baseline of paired differences where there are many.
        suite: the models; for several seeds a function that gives the models of a seed (called once per seed; their
            fingerprints must differ, else the seeds would repeat the same answers).
        seeds: of the models. What is fixed, such as greedy decoding and OpenCV inpainting, has no seed to vary.
        cache_dir: finished results are kept here and never made twice, also after a killed run and by several
            processes at once. A result is named by image, truth, task, strategy, configuration, models, seed,
            protocol and program version. Failures are tried again.
        config: what the variants change; None: the defaults with what the models need.
        protocol: a ``Protocol`` or the name of one.
        batch_size: examples that go through the models together.
        pages: also keep a page per result that shows how it came about (needs ``cache_dir``).
        rounds: resamplings of the bootstrap.
        progress: told after every micro-batch and example.
        facts: put into the outcome's setting, for people.
        share_calls: ask the models each question once (see ``SharedCalls``): several times faster where variants
            differ in little. ``seconds`` are then wall time plus what the shared answers took when they were made.

    Raises:
        ValueError: no examples, no variants, equal names or ids, unknown options.
    """
    chosen = _protocol(protocol)
    models = _Models(suite, tuple(seeds), share_calls)
    base = config if config is not None else IntConfig().merged(models.of(seeds[0]).int_overrides)
    run = _Run(_prepared(variants, base), models, ResultStore(cache_dir), chosen, pages, progress)
    if isinstance(examples, Sized):
        run.total = len(examples) * len(variants) * len(seeds)
    records = list(run.records(examples, batch_size))
    if not records:
        raise ValueError("there are no images to evaluate")
    first = models.of(seeds[0])
    setting = Setting(
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        version=version("int-backend"),
        profile=first.profile,
        device=first.device,
        models={str(seed): models.of(seed).fingerprint for seed in seeds},
        protocol=chosen.name,
        seeds=tuple(seeds),
        rounds=rounds,
        facts=facts or {},
    )
    order = {plan.variant.name: i for i, plan in enumerate(run.plans)}
    records.sort(key=lambda record: order[record.variant])  # stable: examples keep their order within a variant
    return conclude(setting, [plan.info() for plan in run.plans], records)


def _protocol(protocol: Protocol | str) -> Protocol:
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol '{protocol}'; choose one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]


@dataclass(frozen=True, slots=True)
class _Plan:
    variant: Variant
    config: IntConfig

    def info(self) -> VariantInfo:
        own = self.variant
        return VariantInfo(own.name, own.strategy, dict(own.config), self.config.fingerprint(), own.note)


def _prepared(variants: Sequence[Variant], base: IntConfig) -> list[_Plan]:
    if not variants:
        raise ValueError("there is nothing to compare; give at least one variant")
    names = [variant.name for variant in variants]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ValueError(f"two variants are called '{double}'; give each its own name")
    return [_Plan(variant, variant.configured(base)) for variant in variants]


class _Models:
    """The suite of each seed, made when first needed."""

    def __init__(self, suite: ModelSuite | Callable[[int], ModelSuite], seeds: tuple[int, ...], share: bool) -> None:
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError("give at least one seed, and each only once")
        if isinstance(suite, ModelSuite) and len(seeds) > 1:
            raise ValueError(
                "one suite answers the same for every seed; give a function that loads the models of a seed, or vary "
                "the examples, for instance with NanoScenes(..., seeds=...)"
            )
        self._suite = suite
        self._made: dict[int, ModelSuite] = {}
        self._shared: dict[int, SharedCalls] | None = {} if share else None
        self.seeds = seeds

    def of(self, seed: int) -> ModelSuite:
        if seed not in self._made:
            made = self._suite if isinstance(self._suite, ModelSuite) else self._suite(seed)
            twin = next((s for s, other in self._made.items() if other.fingerprint == made.fingerprint), None)
            if twin is not None:
                raise ValueError(
                    f"the models of seeds {twin} and {seed} are the same, so their answers would be, too; these models "
                    "have nothing that a seed changes: use one seed"
                )
            if self._shared is not None:
                self._shared[seed] = SharedCalls()
                made = self._shared[seed].over(made)
            self._made[seed] = made
        return self._made[seed]

    def saved(self, seed: int) -> float:
        """Seconds that shared answers took when they were made, so far."""
        return self._shared[seed].saved if self._shared is not None else 0.0


@dataclass(slots=True)
class _Run:
    plans: list[_Plan]
    models: _Models
    store: ResultStore
    protocol: Protocol
    pages: bool
    progress: Progress | None
    total: int | None = None
    done: int = 0
    _strategies: dict[tuple[int, str], Strategy] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def records(self, examples: Iterable[Example | BrokenExample], batch_size: int) -> Iterator[Record]:
        waiting: dict[str, list[Example]] = {}
        for example in examples:
            if example.id in self._seen:
                raise ValueError(f"two examples are called '{example.id}'; ids must be unique")
            self._seen.add(example.id)
            if isinstance(example, BrokenExample):
                yield from self._broken(example)
                continue
            batch = waiting.setdefault(example.task, [])
            batch.append(example)
            if len(batch) == batch_size:
                yield from self._batch(waiting.pop(example.task))
        for batch in waiting.values():
            yield from self._batch(batch)

    def _broken(self, example: BrokenExample) -> Iterator[Record]:
        for seed in self.models.seeds:
            for plan in self.plans:
                self._tell(1, f"{plan.variant.name}: {example.id}: {example.error}")
                yield Record(example.id, example.task, example.group, plan.variant.name, seed, error=example.error)

    def _batch(self, batch: Sequence[Example]) -> Iterator[Record]:
        digests = [example.digests() for example in batch]
        fresh: dict[str, Record] = {}  # results of this batch, also where nothing is kept on disk
        for seed in self.models.seeds:
            suite = self.models.of(seed)
            for plan in self.plans:
                keys = [
                    result_key(
                        *digest,
                        example.task,
                        plan.variant.strategy,
                        plan.config.fingerprint(),
                        suite.fingerprint,
                        seed,
                        self.protocol.name,
                        version("int-backend"),
                    )
                    for example, digest in zip(batch, digests, strict=True)
                ]
                known = [fresh.get(key) or self.store.get(key) for key in keys]
                todo = [i for i, record in enumerate(known) if record is None]
                made = self._work([batch[i] for i in todo], [keys[i] for i in todo], plan, seed)
                for i, new in zip(todo, made, strict=True):
                    known[i] = new
                    if new.done:
                        fresh[new.key] = new
                self._tell(len(batch) - len(todo), f"{plan.variant.name}: kept from before")
                for example, record in zip(batch, known, strict=True):
                    if record is not None:
                        yield record.under(
                            example=example.id, task=example.task, group=example.group, variant=plan.variant.name
                        )

    def _work(self, batch: Sequence[Example], keys: Sequence[str], plan: _Plan, seed: int) -> Iterator[Record]:
        """New results; if the batch fails, its images go one by one, so that only the one at fault is a failure."""
        if not batch:
            return
        strategy = self._strategy(plan, seed)
        task = TaskPrompt(batch[0].task)
        saved, begun = self.models.saved(seed), time.perf_counter()
        try:
            with peak_memory() as peak:
                results = strategy.segment([example.image for example in batch], task)
            seconds = (time.perf_counter() - begun + self.models.saved(seed) - saved) / len(batch)
        except Exception as error:  # noqa: BLE001 whatever a model throws is this image's failure, not the run's
            _log.debug("%s failed on %s", plan.variant.name, [example.id for example in batch], exc_info=True)
            if len(batch) > 1:
                for example, key in zip(batch, keys, strict=True):
                    yield from self._work([example], [key], plan, seed)
                return
            yield self._failed(batch[0], keys[0], plan, seed, explain_failure(error))
            return
        for example, key, found in zip(batch, keys, results, strict=True):
            yield self._scored(example, key, plan, seed, found, seconds, peak)

    def _scored(
        self,
        example: Example,
        key: str,
        plan: _Plan,
        seed: int,
        found: Segmentation,
        seconds: float,
        peak: PeakMemory,
    ) -> Record:
        try:
            figures = score(found, example.truth, example.instances, example.name, self.protocol)
        except ValueError as error:
            return self._failed(example, key, plan, seed, str(error))
        calls = dict(found.trace.calls)
        cost = {
            "seconds": seconds,
            "calls": float(sum(calls.values())),
            "peak_rss_mb": peak.rss_mb,
            "peak_cuda_mb": peak.cuda_mb,
        }
        record = Record(
            example=example.id,
            task=example.task,
            group=example.group,
            variant=plan.variant.name,
            seed=seed,
            key=key,
            metrics={**figures.metrics, **cost},
            detections=figures.detections,
            calls=calls,
            name=found.name,
            score=found.score,
            reason=found.reason,
            curves=figures.curves,
        )
        self._tell(1, f"{plan.variant.name}: {example.id}: IoU {figures.metrics['iou']:.2f}, {seconds:.1f} s")
        if self.store.folder is None:
            return record
        picture = comparison(example.image, found.mask, example.truth)
        return self.store.put(record, picture, self._page(example, plan, found, seconds) if self.pages else None)

    def _page(self, example: Example, plan: _Plan, found: Segmentation, seconds: float) -> str:
        facts = [("Variant", plan.variant.name), ("Strategy", plan.variant.strategy)]
        page = ReportBuilder(example.task, facts, score_key=plan.config.pnm.key)
        page.add(example.id, example.image, found, seconds=seconds)
        return page.render()

    def _failed(self, example: Example, key: str, plan: _Plan, seed: int, error: str) -> Record:
        self._tell(1, f"{plan.variant.name}: {example.id}: {error}")
        return Record(example.id, example.task, example.group, plan.variant.name, seed, key, error)

    def _strategy(self, plan: _Plan, seed: int) -> Strategy:
        place = (seed, plan.variant.name)
        if place not in self._strategies:
            self._strategies[place] = make_strategy(plan.variant.strategy, self.models.of(seed), plan.config)
        return self._strategies[place]

    def _tell(self, done: int, text: str) -> None:
        self.done += done
        if self.progress is not None and done:
            self.progress(self.done, self.total, text)
