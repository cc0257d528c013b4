"""The comparison as one self-contained HTML page: tables, drawings, best and worst images, links to their stories."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from int_model.evaluation import plots
from int_model.evaluation.metrics import COST, METRICS
from int_model.evaluation.protocol import PROTOCOLS
from int_model.evaluation.records import Record
from int_model.evaluation.result import Difference, Evaluation, Summary
from int_model.evaluation.statistics import Interval
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
    """A figure in a table: value and interval as text, whether it is the column's best, and a verdict's class."""

    value: str
    interval: str = ""
    best: bool = False
    verdict: str = ""


def render_page(evaluation: Evaluation, store: Path | None = None, link: str = "") -> str:
    """The page's HTML.

    Args:
        evaluation: what to show.
        store: the folder of kept results, whose pictures are put into the page; None: none are shown.
        link: where that folder lies as seen from the page, e.g. ``results``; "" makes no links.
    """
    names = [variant.name for variant in evaluation.variants]
    protocol = PROTOCOLS.get(evaluation.setting.protocol)
    headline = [m for m in (protocol.headline if protocol else ("iou", "mae")) if _known(evaluation, m)]
    space = plots.label_space(names)
    pairs = list(dict.fromkeys((gap.variant, gap.baseline) for gap in evaluation.differences))
    single = pairs[0][1] if len({baseline for _, baseline in pairs}) == 1 else ""
    pair_space = plots.label_space([plots.pair_label(a, b, single) for a, b in pairs])
    everything = evaluation.summary() if evaluation.summaries else []
    gaps = [gap for gap in evaluation.differences if gap.slice == "all"]
    view = _Pictures(evaluation, store, link)
    folder = resources.files("int_model.evaluation") / "templates"
    environment = Environment(
        loader=PackageLoader("int_model.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    text = environment.get_template(
        "evaluation.html.j2"
    ).render(
        style=Markup((folder / "evaluation.css").read_text(encoding="utf-8")),  # noqa: S704 our own file
        setting=evaluation.setting,
        protocol=protocol,
        variants=evaluation.variants,
        images=len({record.example for record in evaluation.records}),
        failures=evaluation.failures(),
        metrics=METRICS,
        headline=[METRICS[m] for m in headline],
        cost=[METRICS[m] for m in _also(evaluation)],
        slices=[_table(evaluation.summary(name), headline, _also(evaluation)) for name in evaluation.slices()],
        panels=[p for m in headline if (p := plots.figure_panel(m, everything, space))],
        cost_chart=plots.cost_chart(everything, headline[0]) if headline else None,
        cost_metric=METRICS[headline[0]] if headline else None,
        share_chart=plots.share_chart(evaluation.records, names),
        gap_panels=[p for m in headline[:3] if (p := plots.difference_panel(m, gaps, names, pair_space, single))],
        baseline=single,
        gap_rows=_gap_rows(gaps, pairs, headline),
        all_figures=_all_figures(everything),
        contested=view.contested(),
        extremes=view.extremes(),
        every=view.every(),
        colours={"right": drawing.CORRECT, "extra": drawing.EXTRA, "missed": drawing.MISSED},
        numbered=len(names) > plots.MOST_NAMED,
        width=plots.WIDTH,
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for what is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _known(evaluation: Evaluation, metric: str) -> bool:
    return any(metric in summary.figures for summary in evaluation.summaries)


def _also(evaluation: Evaluation) -> list[str]:
    return [m for m in ("named", "empty", *COST) if _known(evaluation, m)]


def _cell(metric: str, figure: Interval | None, *, best: bool) -> Cell:
    if figure is None or not math.isfinite(figure.value):
        return Cell("–")
    digits = METRICS[metric].digits
    return Cell(number(figure.value, digits), "" if metric in COST[2:] else _spread(figure, digits), best)


def _spread(figure: Interval, digits: int, *, sign: bool = False) -> str:
    if not math.isfinite(figure.low):
        return ""
    return f"{number(figure.low, digits, sign=sign)} to {number(figure.high, digits, sign=sign)}"


def _table(rows: Sequence[Summary], headline: Sequence[str], cost: Sequence[str]) -> dict[str, object]:
    best: dict[str, str] = {}
    for metric in (*headline, *cost):
        side = METRICS[metric].better
        own = {r.variant: r.figures[metric].value for r in rows if metric in r.figures}
        own = {name: value for name, value in own.items() if math.isfinite(value)}
        if side != "neither" and len(set(own.values())) > 1:
            best[metric] = (max if side == "higher" else min)(own, key=lambda name: own[name])

    def cells(row: Summary, columns: Sequence[str]) -> list[Cell]:
        return [_cell(m, row.figures.get(m), best=best.get(m) == row.variant) for m in columns]

    told = [(row, {"figures": cells(row, headline), "cost": cells(row, cost)}) for row in rows]
    return {"name": rows[0].slice, "rows": told}


def _gap_rows(
    gaps: Sequence[Difference], pairs: Sequence[tuple[str, str]], columns: Sequence[str]
) -> list[tuple[str, str, list[Cell]]]:
    found = {(gap.variant, gap.baseline, gap.metric): gap for gap in gaps}
    out = []
    for variant, baseline in pairs:
        cells = []
        for metric in columns:
            gap = found.get((variant, baseline, metric))
            if gap is None:
                cells.append(Cell("–"))
                continue
            digits, i = METRICS[metric].digits, gap.interval
            value, spread = number(i.value, digits, sign=True), _spread(i, digits, sign=True)
            cells.append(Cell(value, spread, verdict=gap.verdict))
        out.append((variant, baseline, cells))
    return out


def _all_figures(rows: Sequence[Summary]) -> list[tuple[str, str, list[Cell]]]:
    out = []
    for name, metric in METRICS.items():
        if any(name in row.figures for row in rows):
            arrow = {"higher": "↑", "lower": "↓", "neither": ""}[metric.better]
            cells = [_cell(name, row.figures.get(name), best=False) for row in rows]
            out.append((f"{metric.label} {arrow}".strip(), metric.meaning, cells))
    return out


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
        by_image = self._by_image()
        if self._store is None or len(self._names) < 2:
            return []
        spread = {
            key: max(map(_iou, own.values())) - min(map(_iou, own.values()))
            for key, own in by_image.items()
            if len(own) == len(self._names) and all(r.picture for r in own.values())
        }
        widest = sorted((k for k in spread if spread[k] > 0), key=lambda k: -spread[k])[:CONTESTED]
        limit = self._names[:6]
        return [[self._shown(by_image[key][name]) for name in limit] for key in widest]

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

    def _by_image(self) -> Mapping[str, dict[str, Record]]:
        out: dict[str, dict[str, Record]] = {}
        for record in self._done:
            out.setdefault(record.example, {}).setdefault(record.variant, record)
        return out

    def _shown(self, record: Record) -> Shown:
        data = b""
        if self._store is not None and record.picture:
            try:
                data = (self._store / record.picture).read_bytes()
            except OSError:
                data = b""
        return Shown(
            title=record.example,
            series=self._names.index(record.variant),
            variant=record.variant,
            iou=_iou(record),
            name="" if record.name is None or record.name.lower() == record.task.lower() else record.name,
            picture=f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}" if data else "",
            link=self._href(record),
            reason=record.reason,
        )

    def _href(self, record: Record) -> str:
        if not self._link or not (record.page or record.picture):
            return ""
        return f"{quote(self._link)}/{record.page or record.picture}"


def _iou(record: Record) -> float:
    return float(record.metrics.get("iou") or 0.0)
