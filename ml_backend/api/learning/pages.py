"""What a project learned, as a page: versions with their verdicts, arms, effort, worst images. Without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from int_model.html.charts import Axis, Chart, Line, Mark, nice_ticks
from int_model.html.environment import render
from int_model.html.text import number
from ml_backend.learning.effort import NOTHING, Effort
from ml_backend.learning.versions import BASE, Promotion, Version

ARM_WORDS: Mapping[str, str] = {
    "base": "the models as they are",
    "slots": "another of the segmenter's masks",
    "outlines": "another mask, threshold or offset of the outline",
    "tokens": "a vector added to the prompts of a label",
    "plm": "prompts adjusted by the image (PLM)",
    "plm_pmm": "adjusted prompts, and outlines moved to where they belong (PLM + PMM)",
    "lora": "low-rank changes of the mask decoder (LoRA)",
    "decoder": "the whole mask decoder trained",
}
_HOW = {"gate": "promoted by the gate", "promote": "promoted", "rollback": "rolled back to"}


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version as the page shows it.

    Attributes:
        version: as it is kept.
        images: annotated images that it was learned from.
        base: mean held-out IoU of the base models, with given prompts; None where the report does not say.
        own: the same of what was learned.
        gain: what the gate judged: value and lower bound, and on how many images.
        end_to_end: union IoU with the strategy's own prompts, before and after; None where it was not measured.
    """

    version: Version
    images: int
    base: float | None
    own: float | None
    gain: tuple[float, float, int] | None
    end_to_end: tuple[float, float] | None

    @property
    def arm(self) -> str:
        """What was learned, in words."""
        return ARM_WORDS.get(self.version.manifest.arm, self.version.manifest.arm)

    @property
    def verdict(self) -> str:
        """The gate's verdict in words."""
        if not self.version.accepted:
            return "Refused: " + ("; ".join(self.version.reasons) or "it showed no gain") + "."
        if self.gain is None:
            return "Accepted."
        value, lower, images = self.gain
        return (
            f"Accepted: {number(value, 3, sign=True)} IoU on {images} images that it had not seen, "
            f"at least {number(lower, 3, sign=True)}."
        )

    @property
    def state(self) -> tuple[str, str]:
        """Badge and its colour."""
        if self.version.serving:
            return "serves now", "good"
        return ("accepted", "accent") if self.version.accepted else ("refused", "warn")

    def arms(self) -> list[tuple[str, str, Mapping[str, float], str]]:
        """Arms that were compared: name, words, figures, and what became of it."""
        rows = []
        for arm, figures in _mapping(self.version.manifest.figures.get("table")).items():
            chosen = arm == self.version.manifest.arm
            what = "judged: the simplest of the best" if chosen else "compared"
            rows.append((str(arm), ARM_WORDS.get(str(arm), str(arm)), _mapping(figures), what))
        return rows

    def worst(self) -> list[tuple[str, int | None, float]]:
        """Images where it is worst: name, the task's id if the name has one, IoU; worst first."""
        found = []
        for entry in self.version.report.get("worst") or ():
            if isinstance(entry, Mapping) and isinstance(entry.get("iou"), (int, float)):
                name = str(entry.get("image", ""))
                digits = name.removeprefix("task ")
                task = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else None
                found.append((name, task, float(entry["iou"])))
        return found

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        own = self.version
        return {
            "name": own.name,
            "id": own.id,
            "serving": own.serving,
            "accepted": own.accepted,
            "arm": own.manifest.arm,
            "images": self.images,
            "verdict": self.verdict,
            "held_out_iou": {"base": self.base, "own": self.own},
            "gain": None if self.gain is None else dict(zip(("value", "lower", "images"), self.gain, strict=True)),
            "end_to_end": None
            if self.end_to_end is None
            else {"before": self.end_to_end[0], "after": self.end_to_end[1]},
            "parent": own.parent,
            "run": own.run,
            "created_at": own.created_at.isoformat(),
        }


def view_of(version: Version) -> VersionView:
    """What the page shows of a version; a report of another program's shape leaves gaps, no error."""
    figures = version.manifest.figures
    table, gain, end = (_mapping(figures.get(name)) for name in ("table", "gain", "end_to_end"))
    judged = None
    if {"value", "lower", "images"} <= gain.keys():
        judged = (float(gain["value"]), float(gain["lower"]), int(gain["images"]))
    ends = (float(end["parent"]), float(end["candidate"])) if {"parent", "candidate"} <= end.keys() else None
    own = _mapping(table.get(version.manifest.arm)).get("mean")
    return VersionView(version, version.manifest.images, _mapping(table.get("base")).get("mean"), own, judged, ends)


@dataclass(frozen=True, slots=True)
class LearningView:
    """Everything that the page of a project shows.

    Attributes:
        project: its id in Label Studio.
        versions: newest first; without the base models.
        history: changes of what serves, newest first.
        efforts: cost of corrections by version.
        corrections: annotations that are known.
        address: of the project in Label Studio, or "".
    """

    project: int
    versions: tuple[VersionView, ...]
    history: tuple[Promotion, ...]
    efforts: tuple[Effort, ...]
    corrections: int
    address: str = ""

    @property
    def serving(self) -> VersionView | None:
        """What serves, None for the base models."""
        return next((view for view in self.versions if view.version.serving), None)

    def name_of(self, adapter: str) -> str:
        """What people call an adapter."""
        if adapter == NOTHING:
            return "without a prediction"
        known = next((view.version.name for view in self.versions if view.version.id == adapter), None)
        return known or (BASE if not adapter else f"another version ({adapter})")

    def changes(self) -> list[tuple[str, str, Promotion]]:
        """The history: what happened, the version, and the entry."""
        return [(_HOW.get(entry.how, entry.how), self.name_of(entry.adapter), entry) for entry in self.history]

    def chart(self) -> Chart | None:
        """Held-out IoU over labelled images: the base models and each version; None with nothing to show."""
        shown = [view for view in reversed(self.versions) if view.own is not None and view.base is not None]
        if not shown:
            return None
        values = [float(value) for view in shown for value in (view.own, view.base) if value is not None]
        steps = nice_ticks(min(values), max(values))
        y = Axis(min(*values, steps[0]), max(*values, steps[-1]), 180, 14)
        counts = [view.images for view in shown]
        x = Axis(min(counts), max(counts), 60, 420)
        digits = 2 if len(steps) < 2 or steps[1] - steps[0] >= 0.01 else 3
        lines = (
            Line(0, "the base models", tuple((x(v.images), y(v.base or 0.0)) for v in shown)),
            Line(1, "what was learned", tuple((x(v.images), y(v.own or 0.0)) for v in shown)),
        )
        marks = tuple(Mark(0, f"base, {v.images} images", x(v.images), y(v.base or 0.0), radius=3) for v in shown)
        marks += tuple(
            Mark(
                1,
                f"{v.version.name}, {v.images} images: {number(v.own, 3)} ({v.state[0]}); base {number(v.base, 3)}",
                x(v.images),
                y(v.own or 0.0),
                tone="" if v.version.accepted else "muted",
            )
            for v in shown
        )
        return Chart(
            width=480,
            height=228,
            left=48,
            right=440,
            top=8,
            bottom=190,
            x_ticks=x.ticks(sorted(set(counts)), lambda value: f"{value:.0f}"),
            y_ticks=y.ticks(steps, lambda value: number(value, digits)),
            x_grid=False,
            x_title="annotated images",
            lines=lines,
            marks=marks,
        )

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        serving = self.serving
        return {
            "project": self.project,
            "serving": serving.version.name if serving else BASE,
            "corrections": self.corrections,
            "versions": [view.as_json() for view in self.versions],
            "efforts": [
                {
                    "version": self.name_of(effort.version),
                    "images": effort.images,
                    "seconds": effort.seconds,
                    "correction_efforts": effort.efforts,
                    "compared": effort.compared,
                }
                for effort in self.efforts
            ],
            "history": [
                {"how": entry.how, "version": name, "who": entry.who, "at": entry.at.isoformat()}
                for _, name, entry in self.changes()
            ],
        }


def learning_page(view: LearningView, shown: VersionView | None, *, pictures: bool, notice: str = "") -> str:
    """The page ``/projects/ID/learning``.

    Args:
        view: the project.
        shown: the version whose arms and worst images are shown; None if there is none.
        pictures: whether pictures of tasks can be made.
        notice: what stands above.
    """
    return render(
        "ml_backend.api",
        "learning.html.j2",
        root="../../",
        busy=False,
        view=view,
        shown=shown,
        pictures=pictures,
        notice=notice,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def version_named(views: Sequence[VersionView], name: str) -> VersionView | None:
    """The version that the address asks for, else the one that serves, else the newest."""
    asked = next((view for view in views if name and name in (view.version.name, view.version.id)), None)
    serving = next((view for view in views if view.version.serving), None)
    return asked or serving or (views[0] if views else None)
