"""Images x variants x seeds through the models, with what they cost; every finished result is kept and reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from int_model.core.config import StrategyConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.evaluation.examples import BrokenExample, Example, Variant
from int_model.evaluation.memory import PeakMemory, peak_memory
from int_model.evaluation.protocol import Protocol, Score, chosen_protocol, score
from int_model.evaluation.records import Record, pack_record, unpack_record
from int_model.evaluation.result import Evaluation, Setting, VariantInfo, conclude
from int_model.evaluation.sharing import SharedCalls
from int_model.io.drawing import comparison
from int_model.io.outputs import display_name, write_atomic
from int_model.models.suite import ModelSuite
from int_model.report import ReportBuilder
from int_model.report.contrast import score_key
from int_model.runner.isolation import Failure
from int_model.runner.runner import Made, Pass, run
from int_model.runner.store import Entry, ResultKey, ResultStore, fingerprint
from int_model.strategies.base import Strategy
from int_model.strategies.registry import default_config, make_strategy

Progress = Callable[[int, int | None, str], None]
"""Called as ``progress(done, total, text)``: results so far, of how many (None: not known), and what was last done."""

ROUNDS = 1000
STORE = "results.sqlite"


def evaluate(
    examples: Iterable[Example | BrokenExample],
    variants: Sequence[Variant],
    suite: ModelSuite | Callable[[int], ModelSuite],
    *,
    seeds: Sequence[int] = (0,),
    cache_dir: Path | None = None,
    configs: Mapping[str, StrategyConfig] | None = None,
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
        configs: what the variants change, by strategy; where none is given, the defaults with what the models need.
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
    chosen = chosen_protocol(protocol)
    _refuse_older(cache_dir)
    models = _Models(suite, tuple(seeds), share_calls)
    plans = _prepared(variants, configs or {}, models)
    total = len(examples) * len(variants) * len(seeds) if isinstance(examples, Sized) else None
    with ResultStore(None if cache_dir is None else cache_dir / STORE, shared=True) as store:
        work = _Work(plans, models, store, cache_dir, chosen, pages, progress, total)
        records = work.run(examples, batch_size)
    if not records:
        raise ValueError("there are no images to evaluate")
    setting = _setting(models, chosen, rounds, facts or {})
    return conclude(setting, [plan.info() for plan in plans], records)


def _refuse_older(folder: Path | None) -> None:
    if folder is not None and next(folder.glob("??/*.json"), None) is not None:
        raise ValueError(
            f"the results in '{display_name(folder)}' were made by an earlier version of this program; choose another "
            "--out"
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    variant: Variant
    config: StrategyConfig

    def info(self) -> VariantInfo:
        own = self.variant
        return VariantInfo(own.name, own.strategy, dict(own.config), self.config.fingerprint(), own.note)


def _prepared(variants: Sequence[Variant], configs: Mapping[str, StrategyConfig], models: _Models) -> list[_Plan]:
    if not variants:
        raise ValueError("there is nothing to compare; give at least one variant")
    names = [variant.name for variant in variants]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ValueError(f"two variants are called '{double}'; give each its own name")
    plans = []
    for variant in variants:
        config = configs.get(variant.strategy)
        if config is None:
            config = default_config(variant.strategy, models.of(models.seeds[0]).int_overrides)
        plans.append(_Plan(variant, variant.configured(config)))
    return plans


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


def _setting(models: _Models, protocol: Protocol, rounds: int, facts: Mapping[str, str]) -> Setting:
    first = models.of(models.seeds[0])
    return Setting(
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        version=version("int-backend"),
        profile=first.profile,
        device=first.device,
        models={str(seed): models.of(seed).fingerprint for seed in models.seeds},
        protocol=protocol.name,
        seeds=models.seeds,
        rounds=rounds,
        facts=facts,
    )


@dataclass(slots=True)
class _Work:
    """All variants and seeds over the examples."""

    plans: list[_Plan]
    models: _Models
    store: ResultStore
    folder: Path | None
    protocol: Protocol
    pages: bool
    progress: Progress | None
    total: int | None
    done: int = 0
    records: list[Record] = field(default_factory=list)
    _strategies: dict[tuple[int, str], Strategy] = field(default_factory=dict)

    def run(self, examples: Iterable[Example | BrokenExample], batch_size: int) -> list[Record]:
        """Every record; by variant, examples in the order of their batches."""
        batches = run(
            self._readable(examples), self._passes, batch_size=batch_size, store=self.store, group=lambda e: e.task
        )
        for batch in batches:
            for of_one_pass in zip(*(results for _, results in batch), strict=True):
                self.records += of_one_pass
        order = {plan.variant.name: i for i, plan in enumerate(self.plans)}
        return sorted(self.records, key=lambda record: order[record.variant])

    def _readable(self, examples: Iterable[Example | BrokenExample]) -> Iterator[Example]:
        seen: set[str] = set()
        for example in examples:
            if example.id in seen:
                raise ValueError(f"two examples are called '{example.id}'; ids must be unique")
            seen.add(example.id)
            if isinstance(example, Example):
                yield example
                continue
            for seed in self.models.seeds:
                for plan in self.plans:
                    name = plan.variant.name
                    self.records.append(
                        Record(example.id, example.task, example.group, name, seed, error=example.error)
                    )
                    self.tell(1, f"{name}: {example.id}: {example.error}")

    def _passes(self, batch: Sequence[Example]) -> list[_VariantPass]:
        digests = {example.id: example.digests() for example in batch}
        every = [(seed, plan) for seed in self.models.seeds for plan in self.plans]
        return [_VariantPass(self, plan, seed, batch[0].task, digests) for seed, plan in every]

    def strategy(self, plan: _Plan, seed: int) -> Strategy:
        """The variant's strategy with the models of a seed, made once: it keeps what texts mean to the models."""
        place = (seed, plan.variant.name)
        if place not in self._strategies:
            self._strategies[place] = make_strategy(plan.variant.strategy, self.models.of(seed), plan.config)
        return self._strategies[place]

    def tell(self, done: int, text: str) -> None:
        self.done += done
        if self.progress is not None and done:
            self.progress(self.done, self.total, text)


class _VariantPass(Pass[Example, Record]):
    """A variant with the models of a seed. Results know nothing of its name: the same work has one result."""

    def __init__(self, work: _Work, plan: _Plan, seed: int, task: str, digests: Mapping[str, tuple[str, str]]) -> None:
        self._suite = work.models.of(seed)
        super().__init__(work.strategy(plan, seed), TaskPrompt(task))
        self._work, self._plan, self._seed, self._digests = work, plan, seed, digests
        self._peak = PeakMemory()

    def run(self, items: Sequence[Example], store: ResultStore | None) -> list[Record]:
        found = zip(items, super().run(items, store), strict=True)
        name = self._plan.variant.name
        return [record.under(example=e.id, task=e.task, group=e.group, variant=name) for e, record in found]

    def key(self, item: Example) -> ResultKey:
        image, truth = self._digests[item.id]
        parts = (truth, self._plan.variant.strategy, self._plan.config.fingerprint(), self._suite.fingerprint)
        return ResultKey(
            image, item.task, fingerprint(*parts, self._seed, self._work.protocol.name, version("int-backend"))
        )

    def attempt(self, items: Sequence[Example]) -> list[Made]:
        models = self._work.models
        saved = models.saved(self._seed)
        with peak_memory() as self._peak:
            made = super().attempt(items)
        extra = (models.saved(self._seed) - saved) / len(items)
        return [replace(one, seconds=one.seconds + extra) for one in made]

    def conclude(self, item: Example, outcome: Made | Failure) -> Record:
        name = self._plan.variant.name
        base = Record(item.id, item.task, item.group, name, self._seed, self.key(item).name)
        if isinstance(outcome, Failure):
            return self._failed(base, outcome.explain())
        found = outcome.segmentation
        try:
            figures = score(found, item.truth, item.instances, item.name, self._work.protocol)
        except ValueError as error:
            return self._failed(base, str(error))
        iou = figures.metrics["iou"]
        self._work.tell(1, f"{name}: {item.id}: IoU {iou:.2f}, {outcome.seconds:.1f} s")
        return self._illustrated(item, outcome, self._measured(base, outcome, figures))

    def entry(self, result: Record) -> Entry | None:
        return Entry(pack_record(result)) if result.done else None

    def recall(self, entry: Entry) -> Record | None:
        try:
            return unpack_record(entry.payload)
        except ValueError:
            return None

    def recalled(self, count: int) -> None:
        self._work.tell(count, f"{self._plan.variant.name}: kept from before")

    def _failed(self, base: Record, error: str) -> Record:
        self._work.tell(1, f"{base.variant}: {base.example}: {error}")
        return replace(base, error=error)

    def _measured(self, base: Record, made: Made, figures: Score) -> Record:
        found, calls = made.segmentation, dict(made.segmentation.trace.calls)
        cost = {
            "seconds": made.seconds,
            "calls": float(sum(calls.values())),
            "peak_rss_mb": self._peak.rss_mb,
            "peak_cuda_mb": self._peak.cuda_mb,
        }
        return replace(
            base,
            metrics={**figures.metrics, **cost},
            detections=figures.detections,
            calls=calls,
            name=found.name,
            score=float(found.score),
            reason=found.reason,
            curves=figures.curves,
        )

    def _illustrated(self, item: Example, made: Made, record: Record) -> Record:
        """The record with the files of its picture and, if wanted, of its page."""
        folder = self._work.folder
        if folder is None:
            return record
        place = f"{record.key[:2]}/{record.key}"
        write_atomic(folder / f"{place}.jpg", comparison(item.image, made.segmentation.mask, item.truth))
        if not self._work.pages:
            return replace(record, picture=f"{place}.jpg")
        facts = [("Variant", self._plan.variant.name), ("Strategy", self._plan.variant.strategy)]
        key = score_key(self._plan.config)
        page = ReportBuilder(item.task, facts, score_key=key)
        page.add(item.id, item.image, made.segmentation, seconds=made.seconds)
        write_atomic(folder / f"{place}.html", page.render().encode())
        return replace(record, picture=f"{place}.jpg", page=f"{place}.html")
