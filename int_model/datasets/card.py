"""What a data set is, for people (``dataset_card.md``) and programs (``dataset_card.json``)."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from int_model.datasets.contents import Contents, Item
from int_model.io.outputs import to_json

UNREVIEWED = (
    "The masks were made by models from a text prompt. No person has reviewed them. Use them as a start for "
    "annotation, not as ground truth; an image without objects may hold objects that the models missed."
)
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(slots=True)
class _LabelCount:
    images: int = 0
    abstained: int = 0
    scores: array[float] = field(default_factory=lambda: array("f"))
    areas: array[float] = field(default_factory=lambda: array("f"))
    names: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Statistics:
    """Counts while images pass by; a writer like any other. Keeps two numbers per object and two per image."""

    contents: Contents
    splits: dict[str, Counter[str]] = field(default_factory=dict)
    labels: dict[str, _LabelCount] = field(default_factory=dict)
    widths: array[int] = field(default_factory=lambda: array("l"))
    heights: array[int] = field(default_factory=lambda: array("l"))
    versions: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.splits = {name: Counter() for name in self.contents.splits}
        self.labels = {plan.label: _LabelCount() for plan in self.contents.labels}

    def add(self, item: Item) -> None:
        """Count one image."""
        split = self.splits[item.entry.split]
        split["images"] += 1
        split["without_objects"] += not item.objects
        split["objects"] += len(item.objects)
        height, width = item.entry.size
        self.heights.append(height)
        self.widths.append(width)
        self.seconds += item.seconds
        self.versions.update(item.versions)
        for label in {found.label for found in item.objects}:
            self.labels[label].images += 1
        for told in item.abstentions:
            self.labels[told.label].abstained += 1
        for found in item.objects:
            count = self.labels[found.label]
            count.scores.append(found.score)
            count.areas.append(found.stored.area / (height * width))
            count.names[found.name] += 1

    def close(self) -> None:
        """Nothing waits."""

    def summary(self) -> dict[str, Any]:
        """All counts, for JSON."""
        contents = self.contents
        images = len(contents.entries)
        groups = Counter(entry.group for entry in contents.entries)
        total = sum(len(count.scores) for count in self.labels.values())
        without = sum(split["without_objects"] for split in self.splits.values())
        return {
            "images": images,
            "images_without_objects": without,
            "abstention_rate": _rate(without, images),
            "objects": total,
            "failed": len(contents.failures),
            "excluded": contents.excluded,
            "left_out_without_objects": contents.without_objects,
            "unfinished": contents.unfinished,
            "splits": {
                name: {key: count[key] for key in ("images", "without_objects", "objects")}
                for name, count in self.splits.items()
            },
            "duplicate_groups": {
                "groups": len(groups),
                "groups_of_several": sum(size > 1 for size in groups.values()),
                "images_in_groups_of_several": sum(size for size in groups.values() if size > 1),
                "largest": max(groups.values(), default=0),
            },
            "labels": {
                plan.label: _label(self.labels[plan.label], plan.prompt, images, total) for plan in contents.labels
            },
            "width": _quantiles(self.widths),
            "height": _quantiles(self.heights),
            "model_seconds": round(self.seconds, 1),
            "made_by_versions": sorted(self.versions),
        }


def _label(count: _LabelCount, prompt: str, images: int, total: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "objects": len(count.scores),
        "share_of_objects": _rate(len(count.scores), total),
        "images": count.images,
        "abstained": count.abstained,
        "abstention_rate": _rate(count.abstained, images),
        "score": _quantiles(count.scores),
        "area_fraction": _quantiles(count.areas),
        "names": dict(count.names.most_common(20)),
    }


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(np.asarray(values, dtype=np.float64), _QUANTILES)
    return {f"p{q}": round(float(value), 4) for q, value in zip(_QUANTILES, found, strict=True)}


def write_card(
    folder: Path, title: str, made: Mapping[str, Any], summary: Mapping[str, Any], files: Sequence[str]
) -> None:
    """Write ``dataset_card.json`` and ``dataset_card.md``.

    Args:
        folder: where to.
        title: of the data set.
        made: how it was made: settings, models, licences, date.
        summary: of `Statistics`.
        files: lines that say what lies in the folder.
    """
    card = {"title": title, "notice": UNREVIEWED, "made": dict(made), "contents": dict(summary)}
    (folder / "dataset_card.json").write_bytes(to_json(card))
    (folder / "dataset_card.md").write_text(_markdown(title, made, summary, files), encoding="utf-8", errors="replace")


def _markdown(title: str, made: Mapping[str, Any], summary: Mapping[str, Any], files: Sequence[str]) -> str:
    lines = [f"# {_cell(title)}", "", f"**Unreviewed predictions.** {UNREVIEWED}", ""]
    lines += ["## Contents", "", *_contents(summary), ""]
    lines += ["## Labels", "", *_labels(summary), ""]
    lines += ["The area is a share of the image. Sizes of the images, in pixels:", "", *_sizes(summary), ""]
    lines += ["## How it was made", "", *_facts(made), ""]
    lines += ["## Files", "", *(f"- {line}" for line in files), ""]
    lines += ["Masks and boxes refer to the upright image (EXIF orientation applied).", ""]
    return "\n".join(lines)


def _contents(summary: Mapping[str, Any]) -> list[str]:
    without = f"{summary['images_without_objects']} images without any object ({_percent(summary['abstention_rate'])})"
    lines = [
        f"- {summary['images']} images with {summary['objects']} objects",
        f"- {without}; the reasons: `abstained.csv`",
        f"- {summary['failed']} images failed and are not part of the data set: `failed.csv`",
    ]
    for key, text in (
        ("excluded", "images were excluded by name"),
        ("left_out_without_objects", "images without objects were left out"),
        ("unfinished", "images were not reached yet and are not part of the data set"),
    ):
        if summary[key]:
            lines.append(f"- {summary[key]} {text}")
    columns = ("images", "without_objects", "objects")
    splits = [(name, *(count[key] for key in columns)) for name, count in summary["splits"].items()]
    near = (
        "Near-duplicates share a split: {groups} groups, {groups_of_several} of them of several images "
        "(the largest has {largest})."
    ).format(**summary["duplicate_groups"])
    return [*lines, "", *_table(("split", "images", "without objects", "objects"), splits), "", near]


def _labels(summary: Mapping[str, Any]) -> list[str]:
    head = ("label", "task prompt", "objects", "share", "images", "not found in", "score (median)", "area (median)")
    rows = [
        (
            label,
            told["prompt"],
            told["objects"],
            _percent(told["share_of_objects"]),
            told["images"],
            f"{told['abstained']} ({_percent(told['abstention_rate'])})",
            f"{told['score']['p50']:.2f}" if told["score"] else "-",
            _percent(told["area_fraction"]["p50"]) if told["area_fraction"] else "-",
        )
        for label, told in summary["labels"].items()
    ]
    return _table(head, rows)


def _sizes(summary: Mapping[str, Any]) -> list[str]:
    quantiles = ("p0", "p5", "p50", "p95", "p100")
    rows = [(side, *(f"{summary[side].get(q, 0):.0f}" for q in quantiles)) for side in ("width", "height")]
    return _table(("", "smallest", "5 %", "median", "95 %", "largest"), rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _facts(made: Mapping[str, Any], depth: int = 0) -> list[str]:
    lines = []
    for key, value in made.items():
        pad = "  " * depth
        name = _cell(str(key).replace("_", " "))
        if isinstance(value, Mapping):
            lines += [f"{pad}- {name}:", *_facts(value, depth + 1)] if value else []
        elif isinstance(value, list | tuple):
            lines.append(f"{pad}- {name}: {', '.join(_cell(str(entry)) for entry in value) or 'none'}")
        else:
            lines.append(f"{pad}- {name}: {_cell(str(value))}")
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(_cell(str(value)) for value in row) + " |" for row in rows]


def _cell(text: str) -> str:
    """Text that cannot leave its place in Markdown."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
