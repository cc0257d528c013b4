"""The comparison as one self-contained HTML page: tables, drawings, best and worst images, links to their reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from int_model.evaluation import plots
from int_model.evaluation.doubt import of_evaluation
from int_model.evaluation.metrics import COST, METRICS
from int_model.evaluation.protocol import PROTOCOLS
from int_model.evaluation.records import Record
from int_model.evaluation.result import Difference, Evaluation, Summary
from int_model.evaluation.statistics import Interval
from int_model.html.charts import width_of_names
from int_model.html.environment import render
from int_model.html.pictures import data_uri
from int_model.html.text import number
from int_model.io import drawing

SHOWN = 3
"""Best and worst images of each variant."""

CONTESTED = 6
"""Images on which variants differ most."""

MOST_CELLS = 40_000
"""The table of all images is left out beyond so many results; the JSON has them."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One result's picture."""

    title: str
    series: int
    variant: str
    iou: float
    name: str
    picture: str
    link: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table: value and interval as text; ``tone`` is ``best``, a verdict or ""."""

    value: str = "–"
    interval: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A variant in the tables of a slice: the quality of its masks, and what they cost."""

    summary: Summary
    quality: list[Cell]
    cost: list[Cell]


def render_page(evaluation: Evaluation, store: Path | None = None, link: str = "") -> str:
    """The page's HTML.

    Args:
        evaluation: what to show.
        store: the folder of kept results, whose pictures are put into the page; None: none are shown.
        link: where that folder lies as seen from the page, e.g. ``results``; "" makes no links.
    """
    names = [variant.name for variant in evaluation.variants]
    protocol = PROTOCOLS.get(evaluation.setting.protocol)
    known = {metric for summary in evaluation.summaries for metric in summary.figures}
    headline = [m for m in (protocol.headline if protocol else ("iou", "mae")) if m in known]
    cost = [m for m in ("named", "empty", *COST) if m in known]
    everything = evaluation.summary() if evaluation.summaries else []
    gaps = [gap for gap in evaluation.differences if gap.slice == "all"]
    baselines = {gap.baseline for gap in gaps}
    baseline = baselines.pop() if len(baselines) == 1 else ""
    gap_space = width_of_names([plots.pair_name(gap, baseline) for gap in gaps])
    pictures = _Pictures(evaluation, store, link)
    doubt = of_evaluation(evaluation)
    return render(
        "int_model.evaluation",
        "evaluation.html.j2",
        setting=evaluation.setting,
        protocol=protocol,
        variants=evaluation.variants,
        names=names,
        images=len({record.example for record in evaluation.records}),
        failures=evaluation.failures(),
        headline=[METRICS[m] for m in headline],
        cost=[METRICS[m] for m in cost],
        slices=[(name, _rows(evaluation.summary(name), headline, cost)) for name in evaluation.slices()],
        panel_charts=[(METRICS[m], plots.figure_chart(m, everything, width_of_names(names))) for m in headline],
        cost_chart=plots.cost_chart(everything, headline[0]) if headline else None,
        doubt=doubt,
        doubt_chart=None if doubt is None else plots.doubt_chart(doubt),
        share_chart=plots.share_chart(evaluation.records, names),
        gap_charts=[(METRICS[m], plots.difference_chart(m, gaps, names, gap_space, baseline)) for m in headline[:3]],
        baseline=baseline,
        gap_rows=_gap_rows(gaps, headline),
        all_figures=[
            (metric, [_cell(name, row.figures.get(name)) for row in everything])
            for name, metric in METRICS.items()
            if name in known
        ],
        contested=pictures.contested(),
        extremes=pictures.extremes(),
        every=pictures.every(),
        colours=(("found rightly", drawing.CORRECT), ("found wrongly", drawing.EXTRA), ("missed", drawing.MISSED)),
        numbered=len(names) > plots.MOST_NAMED,
    )


def _cell(metric: str, figure: Interval | None, tone: str = "", *, sign: bool = False) -> Cell:
    if figure is None or not math.isfinite(figure.value):
        return Cell()
    value, low, high = (number(v, METRICS[metric].digits, sign=sign) for v in (figure.value, figure.low, figure.high))
    told = metric not in COST[2:] and math.isfinite(figure.low)
    return Cell(value, f"{low} to {high}" if told else "", tone)


def _rows(summaries: Sequence[Summary], headline: Sequence[str], cost: Sequence[str]) -> list[Row]:
    best: dict[str, str] = {}
    for metric in (*headline, *cost):
        side = METRICS[metric].better
        own = {s.variant: s.figures[metric].value for s in summaries if metric in s.figures}
        own = {name: value for name, value in own.items() if math.isfinite(value)}
        if side != "neither" and len(set(own.values())) > 1:
            best[metric] = (max if side == "higher" else min)(own, key=lambda name: own[name])

    def cells(row: Summary, columns: Sequence[str]) -> list[Cell]:
        return [_cell(m, row.figures.get(m), "best" if best.get(m) == row.variant else "") for m in columns]

    return [Row(summary, cells(summary, headline), cells(summary, cost)) for summary in summaries]


def _gap_rows(gaps: Sequence[Difference], columns: Sequence[str]) -> list[tuple[str, str, list[Cell]]]:
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for gap in gaps:
        cell = _cell(gap.metric, gap.interval, gap.verdict, sign=True)
        found.setdefault((gap.variant, gap.baseline), {})[gap.metric] = cell
    return [(*pair, [cells.get(metric, Cell()) for metric in columns]) for pair, cells in found.items()]


class _Pictures:
    """Results by image, with their kept pictures."""

    def __init__(self, evaluation: Evaluation, store: Path | None, link: str) -> None:
        self._names = [variant.name for variant in evaluation.variants]
        self._store, self._link = store, link
        self._done = [r for r in evaluation.records if r.done and r.metrics.get("iou") is not None]
        self._seeds = len(evaluation.setting.seeds) > 1
        self._records = evaluation.records

    def extremes(self) -> list[tuple[int, str, list[Shown], list[Shown]]]:
        """Per variant its worst and its best images, worst first; () where nothing can be shown."""
        out = []
        for i, name in enumerate(self._names):
            own = sorted((r for r in self._done if r.variant == name and r.picture), key=_iou)
            if own and self._store is not None:
                shown = min(SHOWN, len(own) // 2) or 1
                worst, best = own[:shown], own[len(own) - shown :][::-1]
                out.append((i, name, [self._shown(r) for r in worst], [self._shown(r) for r in best]))
        return out

    def contested(self) -> list[list[Shown]]:
        """The images on which the variants' IoU differs most, with every variant's picture (first seed)."""
        if self._store is None or len(self._names) < 2:
            return []
        by_image: dict[str, dict[str, Record]] = {}
        for record in self._done:
            by_image.setdefault(record.example, {}).setdefault(record.variant, record)
        spread = {
            key: max(map(_iou, own.values())) - min(map(_iou, own.values()))
            for key, own in by_image.items()
            if len(own) == len(self._names) and all(r.picture for r in own.values())
        }
        widest = sorted((k for k in spread if spread[k] > 0), key=lambda k: -spread[k])[:CONTESTED]
        return [[self._shown(by_image[key][name]) for name in self._names[:6]] for key in widest]

    def every(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """Per image, for each variant: text, link, class. Empty if that would be too much for a page."""
        if len(self._records) > MOST_CELLS:
            return []
        rows: dict[tuple[str, int], dict[str, Record]] = {}
        for record in self._records:
            rows.setdefault((record.example, record.seed), {})[record.variant] = record
        out = []
        for (example, seed), own in rows.items():
            cells = [self._entry(own.get(name)) for name in self._names]
            out.append((f"{example}, seed {seed}" if self._seeds else example, cells))
        return out

    def _entry(self, record: Record | None) -> tuple[str, str, str]:
        if record is None:
            return "–", "", ""
        if not record.done:
            return "failed", "", "bad"
        kind = "empty" if record.metrics.get("empty") == 1.0 else ""
        return number(record.metrics.get("iou"), 2), self._href(record), kind

    def _shown(self, record: Record) -> Shown:
        data = b""
        with suppress(OSError):
            data = (self._store / record.picture).read_bytes() if self._store and record.picture else b""
        return Shown(
            title=record.example,
            series=self._names.index(record.variant),
            variant=record.variant,
            iou=_iou(record),
            name="" if record.name is None or record.name.lower() == record.task.lower() else record.name,
            picture=data_uri("image/jpeg", data) if data else "",
            link=self._href(record),
            reason=record.reason,
        )

    def _href(self, record: Record) -> str:
        if not self._link or not (record.page or record.picture):
            return ""
        return f"{quote(self._link)}/{record.page or record.picture}"


def _iou(record: Record) -> float:
    return float(record.metrics.get("iou") or 0.0)
