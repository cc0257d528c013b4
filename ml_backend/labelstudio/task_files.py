"""A data set as Label Studio tasks with predictions: files for *Import*, and the labeling config that fits them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from int_model.core.task_prompt import TaskPrompt
from int_model.datasets.contents import Item, LabelPlan
from int_model.io.drawing import hex_colour
from int_model.io.outputs import display_name
from int_model.runner.results import StoredResult
from ml_backend.labelstudio.label_config import Geometry, parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.predictions import image_regions
from ml_backend.labelstudio.task_prompt import PromptGroup
from ml_backend.labelstudio.wire import PredictionOut

TASKS_PER_FILE = 1000
BYTES_PER_FILE = 40_000_000
MAX_REGIONS = 1000

_TAGS: dict[Geometry, str] = {
    "polygon": "PolygonLabels",
    "brush": "BrushLabels",
    "bitmask": "BitmaskLabels",
    "rectangle": "RectangleLabels",
}


def labeling_config(labels: Sequence[LabelPlan], geometry: Geometry) -> str:
    """A labeling config with one control for all labels, each with its prompt, so that the backend fits it too."""
    tags = "\n".join(
        f"    <Label value={quoteattr(plan.label)} model_prompt={quoteattr(plan.prompt)} "
        f'background="{hex_colour(index)}"/>'
        for index, plan in enumerate(labels)
    )
    tag = _TAGS[geometry]
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <{tag} name="label" toName="image">\n{tags}\n  </{tag}>\n</View>\n'
    )


def url_address(prefix: str) -> Callable[[Item], str]:
    """Addresses ``prefix/relative path``; the prefix serves the folder that was bootstrapped.

    Raises ``ValueError`` if the prefix is no address.
    """
    if not prefix.startswith(("http://", "https://", "s3://", "gs://", "azure-blob://", "/")):
        raise ValueError(
            f"'{prefix}' is no address; write for instance https://example.com/photos or s3://bucket/photos"
        )
    return lambda item: f"{prefix.rstrip('/')}/{_quoted(item.entry.relative)}"


def local_address(document_root: Path) -> Callable[[Item], str]:
    """Addresses of Label Studio's local files, below the folder that its ``LOCAL_FILES_DOCUMENT_ROOT`` names.

    A call raises ``ValueError`` for an image outside; see `check_local_root`.
    """
    root = document_root.resolve()

    def address(item: Item) -> str:
        check_local_root(root, [item.entry.path])
        return f"/data/local-files/?d={_quoted(os.fsencode(item.entry.path.relative_to(root).as_posix()))}"

    return address


def check_local_root(document_root: Path, paths: Iterable[Path]) -> None:
    """Raise ``ValueError`` if the folder is none, or one of the resolved paths lies outside."""
    root = document_root.resolve()
    if not root.is_dir():
        raise ValueError(f"'{display_name(document_root)}' is no folder; choose another --ls-local-root")
    for path in paths:
        if not path.is_relative_to(root):
            raise ValueError(
                f"'{display_name(path)}' lies outside '{display_name(root)}'; choose another --ls-local-root"
            )


class LabelStudioWriter:
    """Writes ``label-studio/tasks-0001.json``, ... and ``label-studio/labeling_config.xml`` below a folder.

    Every task has one prediction, in Label Studio's own terms: an image where nothing was found has one without
    regions and score 0; else the score is the lowest of its objects, so that sorting by score shows doubt first.
    Where objects overlap, the higher score has the pixels. A file holds at most 1000 tasks and about 40 MB,
    well below what Label Studio takes in one import.

    Args:
        folder: the data set's.
        labels: the classes.
        geometry: the kind of regions.
        address: of an image, as Label Studio will ask for it.
        version: of the model, shown with each prediction.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[LabelPlan],
        *,
        geometry: Geometry,
        address: Callable[[Item], str],
        version: str,
    ) -> None:
        self._folder = folder / "label-studio"
        self._folder.mkdir(parents=True, exist_ok=True)
        text = labeling_config(labels, geometry)
        (self._folder / "labeling_config.xml").write_text(text, encoding="utf-8")
        self._config = parse_label_config(text)
        targets = self._config.targets("image")
        self._groups = [
            (index, PromptGroup(TaskPrompt(plan.prompt), (target,), "label"))
            for index, (plan, target) in enumerate(zip(labels, targets, strict=True), 1)
        ]
        self._options = {control.name: OutputOptions() for control in self._config.controls}
        self._address, self._version = address, version
        self._pending: list[str] = []
        self._files = self._bytes = 0

    def add(self, item: Item) -> None:
        """Write one image's task."""
        text = json.dumps(self._task(item), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        if self._pending and (len(self._pending) == TASKS_PER_FILE or self._bytes + len(text) > BYTES_PER_FILE):
            self._write_file()
        self._pending.append(f"\n{text}")
        self._bytes += len(text)

    def close(self) -> None:
        """Finish the last file."""
        if self._pending or not self._files:
            self._write_file()

    def _write_file(self) -> None:
        self._files += 1
        text = f"[{','.join(self._pending)}\n]\n"
        (self._folder / f"tasks-{self._files:04d}.json").write_text(text, encoding="ascii")
        self._pending, self._bytes = [], 0

    def _task(self, item: Item) -> dict[str, Any]:
        entry = item.entry
        results = [(group, _result(item, category)) for category, group in self._groups]
        regions = list(image_regions(self._config, results, self._options, MAX_REGIONS).regions)
        score = item.doubt if regions else 0.0
        prediction = PredictionOut(result=regions, score=round(score, 4), model_version=self._version).as_json()
        _stable_ids(prediction["result"], entry.digest + entry.relative)
        data = {
            "image": self._address(item),
            "file": entry.relative,
            "split": entry.split,
            "nothing_found": ", ".join(told.label for told in item.abstentions),
        }
        return {"data": data, "predictions": [prediction]}


def _result(item: Item, category: int) -> StoredResult:
    objects = tuple(replace(found.stored, score=found.score) for found in item.objects if found.category == category)
    score = max((found.score for found in objects), default=0.0)
    return StoredResult(item.entry.size, objects, score, reason="" if objects else "nothing found")


def _stable_ids(regions: list[dict[str, Any]], seed: str) -> None:
    """Replace random region ids, so that the same data set gives the same files."""
    for index, region in enumerate(regions):
        region["id"] = hashlib.sha256(f"{seed}\0{index}".encode("utf-8", "replace")).hexdigest()[:12]


def _quoted(path: str | bytes) -> str:
    return quote(path, safe="/")
