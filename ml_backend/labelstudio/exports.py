"""A Label Studio JSON export as examples: people's regions are the truth, images come from a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from int_model.core.types import Mask
from int_model.evaluation.examples import BrokenExample, Example
from int_model.io.files import find_images
from int_model.io.images import read_image
from int_model.io.outputs import display_name
from ml_backend.labelstudio.regions.decode import decode_region

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files


@dataclass(frozen=True)
class ExportedTasks:
    """The annotated tasks of an export; ``skipped`` tasks have no annotation that counts.

    Of several annotations the ground truth goes first, then the one that was changed last; cancelled ones never
    count. An annotation without regions says that nothing is there. Every region (polygon, brush, bitmask or
    rectangle, which counts with its whole area) is one object.
    """

    images: Mapping[str, tuple[Path, ...]]
    task: str
    labels: frozenset[str]
    tasks: tuple[Mapping[str, Any], ...]
    skipped: int

    @classmethod
    def read(cls, export: Path, images: Path, task: str, labels: Sequence[str] = ()) -> ExportedTasks:
        """Read an export of the format *JSON*.

        Args:
            export: the file.
            images: folder in which the images are, at any depth, under the names that the tasks say.
            task: the task prompt.
            labels: only regions with one of these labels count; all if none is named.

        Raises:
            ValueError: the file is no such export, nothing in it is annotated, or the folder holds no image.
        """
        try:
            data = json.loads(export.read_bytes())
        except OSError as error:
            raise ValueError(f"'{display_name(export)}' cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise ValueError(f"'{display_name(export)}' is not JSON ({error})") from error
        if not isinstance(data, list) or not all(isinstance(t, dict) and "annotations" in t for t in data):
            raise ValueError(f"'{display_name(export)}' holds no tasks with annotations; export as JSON, not JSON-MIN")
        annotated = tuple(t for t in data if _annotation(t) is not None)
        if not annotated:
            raise ValueError(f"no task in '{display_name(export)}' is annotated; annotate some, and export again")
        index: dict[str, list[Path]] = {}
        for path in find_images([images]):
            index.setdefault(path.name, []).append(path)
        files = {name: tuple(paths) for name, paths in index.items()}
        return cls(files, task, frozenset(labels), annotated, len(data) - len(annotated))

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Example | BrokenExample]:
        for number, entry in enumerate(self.tasks, start=1):
            name = f"task {entry.get('id', number)}"
            try:
                path = self._image(entry)
                image = read_image(path)
                masks = self._masks(entry, image.shape[0], image.shape[1])
                yield Example(f"{name}, {path.name}", image, self.task, instances=tuple(masks))
            except ValueError as error:
                yield BrokenExample(name, str(error), self.task)

    def _image(self, entry: Mapping[str, Any]) -> Path:
        data = entry.get("data")
        addresses = [str(v) for v in data.values() if isinstance(v, str)] if isinstance(data, Mapping) else []
        for address in addresses:
            for name in _names(address):
                found = self.images.get(name, ())
                if len(found) == 1:
                    return found[0]
                if found:
                    fitting = [p for p in found if p.as_posix().endswith("/" + _path(address).lstrip("/"))]
                    if len(fitting) == 1:
                        return fitting[0]
                    raise ValueError(
                        f"{len(found)} images are called '{name}'; export and evaluate one folder at a time"
                    )
        raise ValueError("its image is not in the folder; put it there under the name that the task's data say")

    def _masks(self, entry: Mapping[str, Any], height: int, width: int) -> list[Mask]:
        annotation = _annotation(entry) or {}
        regions: dict[str, list[Mapping[str, Any]]] = {}
        for i, region in enumerate(annotation.get("result") or []):
            if isinstance(region, Mapping):
                regions.setdefault(str(region.get("id", i)), []).append(region)
        masks = []
        for parts in regions.values():
            shape = next((part for part in parts if _has_shape(part)), None)
            said = {label for part in parts for label in _labels(part)}
            if shape is None or (self.labels and not self.labels & said):
                continue
            mask = decode_region(shape)
            if mask.shape != (height, width):
                raise ValueError(
                    f"its regions are for {mask.shape[1]} x {mask.shape[0]} pixels, the image has {width} x {height}; "
                    "give the images that were annotated"
                )
            if mask.any():
                masks.append(np.asarray(mask, dtype=np.bool_))
        return masks


def _annotation(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = [a for a in task.get("annotations") or [] if isinstance(a, Mapping) and not a.get("was_cancelled")]
    if not found:
        return None
    return max(
        found, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or a.get("created_at") or ""))
    )


def _has_shape(region: Mapping[str, Any]) -> bool:
    value = region.get("value")
    return isinstance(value, Mapping) and any(
        key in value for key in ("points", "rle", "imageDataURL", "radiusX", "width")
    )


def _labels(region: Mapping[str, Any]) -> list[str]:
    value = region.get("value")
    if not isinstance(value, Mapping):
        return []
    found = [names for key, names in value.items() if key.endswith("labels") and isinstance(names, list)]
    return [str(name) for names in found for name in names]


def _path(address: str) -> str:
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d") if parts.path.rstrip("/").endswith("/local-files") else None
    return local[0] if local else unquote(parts.path)


def _names(address: str) -> list[str]:
    name = PurePosixPath(_path(address)).name
    return [n for n in (name, _UPLOAD_PREFIX.sub("", name)) if n]
