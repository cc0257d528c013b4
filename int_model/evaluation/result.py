"""The outcome of an evaluation: every single result, summaries with intervals, paired differences; to and from JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from int_model.evaluation.metrics import METRICS
from int_model.evaluation.records import Record
from int_model.evaluation.statistics import Interval, Sample, draw, interval, sample
from int_model.io.outputs import to_json, write_atomic

FORMAT = "int-evaluation/1"
EVERYTHING = "all"
MOST_PAIRED = 6
"""Up to so many variants all pairs are compared; with more, each with the first only."""

LEAST_IMAGES = 6
"""Fewer images cannot tell two variants apart at 5 %: even all in favour have the probability 2 / 2^5 by chance."""


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """A variant as it was run: its name, strategy, changed options, and the fingerprint of the whole configuration."""

    name: str
    strategy: str
    config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """Under what conditions an evaluation was made; ``facts`` are further (label, text) pairs for people."""

    made: str
    version: str
    profile: str
    device: str
    models: Mapping[str, str]
    protocol: str
    seeds: tuple[int, ...]
    rounds: int
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """One variant on one slice (``all``, ``task: ...`` or ``group: ...``): figures with intervals, by metric name."""

    slice: str
    variant: str
    images: int
    failed: int
    figures: Mapping[str, Interval]

    def __getitem__(self, metric: str) -> Interval:
        return self.figures[metric]


@dataclass(frozen=True, slots=True)
class Difference:
    """``variant`` minus ``baseline`` in one metric, on the images that both did, resampled together."""

    slice: str
    variant: str
    baseline: str
    metric: str
    interval: Interval

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``unclear``.

        Unclear: the interval holds 0, the metric has no better side, or there are fewer than ``LEAST_IMAGES`` images.
        """
        side = METRICS[self.metric].better
        if side == "neither" or not self.interval.excludes_zero or self.interval.images < LEAST_IMAGES:
            return "unclear"
        return "better" if (self.interval.value > 0) == (side == "higher") else "worse"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that came out: ``records`` in the order of the work, ``summaries`` and ``differences`` by slice."""

    setting: Setting
    variants: tuple[VariantInfo, ...]
    records: tuple[Record, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]

    def slices(self) -> tuple[str, ...]:
        """The slices' names, ``all`` first."""
        return tuple(dict.fromkeys(summary.slice for summary in self.summaries))

    def summary(self, name: str = EVERYTHING) -> list[Summary]:
        """One row per variant, in order, for a slice. Raises ``ValueError`` for an unknown slice."""
        rows = [summary for summary in self.summaries if summary.slice == name]
        if not rows:
            raise ValueError(f"there is no slice '{name}'; choose one of: {', '.join(self.slices())}")
        return rows

    def difference(self, variant: str, baseline: str, metric: str, name: str = EVERYTHING) -> Difference:
        """A paired difference that was computed (either way round). Raises ``ValueError`` if it was not."""
        for found in self.differences:
            if found.slice == name and found.metric == metric:
                if (found.variant, found.baseline) == (variant, baseline):
                    return found
                if (found.baseline, found.variant) == (variant, baseline):
                    old = found.interval
                    turned = Interval(-old.value, -old.high, -old.low, old.images)
                    return Difference(name, variant, baseline, metric, turned)
        raise ValueError(
            f"'{variant}' and '{baseline}' were not compared in '{metric}' on '{name}'; with more than {MOST_PAIRED} "
            "variants each is compared with the first one only"
        )

    def failures(self) -> list[Record]:
        """The results that are errors."""
        return [record for record in self.records if not record.done]


def conclude(
    setting: Setting,
    variants: Sequence[VariantInfo],
    records: Sequence[Record],
    metrics: Sequence[str] = tuple(METRICS),
) -> Evaluation:
    """Summaries of all slices and paired differences; the bootstrap is seeded, so the same records give the same."""
    summaries: list[Summary] = []
    differences: list[Difference] = []
    names = [variant.name for variant in variants]
    pairs = list(itertools.combinations(names, 2)) if len(names) <= MOST_PAIRED else [(names[0], n) for n in names[1:]]
    for title, part in _slices(records):
        images = list(dict.fromkeys(record.example for record in part))
        columns, counts = draw(images, setting.rounds)
        own = {name: [record for record in part if record.variant == name] for name in names}
        samples: dict[tuple[str, str], Sample | None] = {
            (name, metric): sample(METRICS[metric], own[name], columns, counts) for name in names for metric in metrics
        }
        for name in names:
            done = {record.example for record in own[name] if record.done}
            figures = {m: s.interval() for m in metrics if (s := samples[name, m]) is not None}
            failed = sum(not record.done for record in own[name])
            summaries.append(Summary(title, name, len(done), failed, figures))
        for baseline, variant in pairs:
            for metric in metrics:
                a, b = samples[variant, metric], samples[baseline, metric]
                if a is None or b is None:
                    continue
                if a.images != b.images:
                    both = a.images & b.images
                    a = sample(METRICS[metric], [r for r in own[variant] if r.example in both], columns, counts)
                    b = sample(METRICS[metric], [r for r in own[baseline] if r.example in both], columns, counts)
                    if a is None or b is None:
                        continue
                gap = interval(a.value - b.value, a.resampled - b.resampled, len(a.images))
                differences.append(Difference(title, variant, baseline, metric, gap))
    return Evaluation(setting, tuple(variants), tuple(records), tuple(summaries), tuple(differences))


def _slices(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    found: list[tuple[str, list[Record]]] = [(EVERYTHING, list(records))] if records else []
    for label, attribute in (("task", "task"), ("group", "group")):
        values = list(dict.fromkeys(getattr(record, attribute) for record in records))
        if len(values) > 1:
            found += [(f"{label}: {v}", [r for r in records if getattr(r, attribute) == v]) for v in values if v]
    return found


_EVALUATION = TypeAdapter(Evaluation)


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as JSON (documented in docs/evaluation.md); numbers that are not defined are null."""
    told = _EVALUATION.dump_python(evaluation, mode="json", exclude={"records": {"__all__": {"curves"}}})
    for row, difference in zip(told["differences"], evaluation.differences, strict=True):
        row["verdict"] = difference.verdict
    metrics = {name: {k: v for k, v in asdict(m).items() if k != "name"} for name, m in METRICS.items()}
    order = ("variants", "summaries", "differences", "records")
    data = {"format": FORMAT, "setting": told["setting"], "metrics": metrics, **{part: told[part] for part in order}}
    write_atomic(path, to_json(data))


def load_evaluation(path: Path) -> Evaluation:
    """Read what ``save_evaluation`` wrote; only the records' threshold curves are gone.

    Raises ``ValueError`` if the file is not such an evaluation, or of another format version.
    """
    try:
        data = json.loads(path.read_bytes())
        made_for = data["format"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is not an evaluation ({error})") from error
    if made_for != FORMAT:
        raise ValueError(f"'{path}' has the format '{made_for}', this program reads '{FORMAT}'; evaluate again")
    try:
        return _EVALUATION.validate_python(data)
    except ValidationError as error:
        why = error.errors()[0]
        place = ".".join(map(str, why["loc"]))
        raise ValueError(f"'{path}' is not an evaluation that this program can read ({place}: {why['msg']})") from error
