"""``int-backend medical``: medical files to pictures for Label Studio, and the masks back to the files' own grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image as PilImage

from int_model.core.types import Mask
from int_model.io.errors import ImageError
from int_model.io.medical.restore import NoSegmentationError, Restored, label_numbers, to_native, to_png
from int_model.io.medical.sources import (
    ReadOptions,
    Source,
    file_bytes,
    files_below,
    find_sources,
    mapping_from_json,
    mapping_to_json,
    read_pictures,
)
from int_model.io.outputs import write_atomic
from ml_backend.labelstudio.regions.decode import decode_region

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did: pictures written, files without one and why (in the order of the files)."""

    pictures: int
    failed: tuple[tuple[Path, str], ...]


def prepare(places: Sequence[Path], out: Path, options: ReadOptions, *, url_prefix: str, tell: Tell) -> Prepared:
    """Write ``images/*.png``, ``tasks.json`` for Label Studio's import, and ``mapping.json``, the way back.

    None of them holds a file name, a path or anything that a file says about a patient.

    Raises ``ValueError`` for a place that does not exist, or if there is no picture at all.
    """
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    sources: dict[str, Source] = {}
    failed: list[tuple[Path, str]] = []
    for path in files_below([place for place in places if place.resolve() != out.resolve()]):
        if out.resolve() in path.resolve().parents:
            continue
        try:
            for source, image in read_pictures(path, options):
                if source.id not in sources:
                    PilImage.fromarray(image).save(images / f"{source.id}.png", optimize=True)
                    sources[source.id] = source
        except ImageError as error:
            failed.append((path, str(error)))
            tell(f"left out: {path.name}: {error}")
    if not sources:
        raise ValueError("none of the files holds a picture that can be used")
    tasks = [{"data": {"image": f"{url_prefix}{name}.png", "picture": name}} for name in sources]
    write_atomic(out / "tasks.json", json.dumps(tasks, indent=1).encode() + b"\n")
    write_atomic(out / "mapping.json", mapping_to_json(list(sources.values())).encode())
    return Prepared(len(sources), tuple(failed))


@dataclass(frozen=True, slots=True)
class Masks:
    """What an export says of one picture: masks by label, and whether a person made or accepted them."""

    masks: Mapping[str, Mask] = field(default_factory=dict)
    reviewed: bool = False


def masks_of_export(tasks: Any, known: Container[str], *, predictions: bool) -> dict[str, Masks]:
    """The masks of a Label Studio JSON export, by the picture's id; only of ``known`` pictures.

    Of several annotations the one updated last counts; cancelled ones never. Tasks without an annotation are left out,
    or with ``predictions`` taken from their newest prediction.

    Raises ``ValueError`` if this is no export, or a region is damaged.
    """
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
        raise ValueError("this is not a Label Studio export; choose the format JSON when you export")
    found: dict[str, Masks] = {}
    for task in tasks:
        name = next((name for name in _names(task) if name in known), "")
        chosen, reviewed = _answer(task, predictions=predictions)
        if name and chosen is not None:
            found[name] = Masks(_by_label(chosen), reviewed)
    return found


def _names(task: Mapping[str, Any]) -> Iterator[str]:
    """What the picture may be called: as `prepare` noted it, else by the file's name, also with an upload's prefix."""
    data = task.get("data")
    for value in data.values() if isinstance(data, Mapping) else ():
        if isinstance(value, str):
            parts = urlsplit(value)
            stem = PurePosixPath(unquote(parts.query if parts.query else parts.path)).stem
            yield from (value, stem, stem.partition("-")[2])


def _answer(task: Mapping[str, Any], *, predictions: bool) -> tuple[Any, bool]:
    annotations = [a for a in task.get("annotations") or [] if isinstance(a, Mapping) and not a.get("was_cancelled")]
    if annotations:
        return max(annotations, key=lambda a: str(a.get("updated_at", ""))).get("result"), True
    offered = [p for p in task.get("predictions") or [] if isinstance(p, Mapping)]
    if predictions and offered:
        return max(offered, key=lambda p: str(p.get("created_at", ""))).get("result"), False
    return None, False


def _by_label(result: Any) -> dict[str, Mask]:
    """The union of the regions of each label; regions without one count as ``object``."""
    labels: dict[str, list[str]] = {}
    shapes: list[tuple[str, list[str], Mapping[str, Any]]] = []
    for region in result if isinstance(result, list) else []:
        value = region.get("value") if isinstance(region, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        kind, key = str(region.get("type", "")), str(region.get("id", ""))
        named = [str(text) for text in value.get(kind) or []] if isinstance(value.get(kind), list) else []
        if kind == "labels":
            labels.setdefault(key, []).extend(named)
        elif _has_shape(value):
            shapes.append((key, named, region))
    masks: dict[str, Mask] = {}
    for key, named, region in shapes:
        mask = decode_region(region)
        for label in named or labels.get(key) or ["object"]:
            masks[label] = mask if label not in masks else masks[label] | mask
    return masks


def _has_shape(value: Mapping[str, Any]) -> bool:
    if any(part in value for part in ("points", "rle", "imageDataURL")):
        return True
    return {"width", "height"} <= value.keys() and "radiusX" not in value


def restore(
    export: Any,
    mapping: Mapping[str, Source],
    places: Sequence[Path],
    out: Path,
    *,
    native: bool,
    predictions: bool,
    tell: Tell,
) -> int:
    """Write the masks of an export in the pixel grid of the files that the pictures came from; returns how many files.

    ``native`` makes DICOM segmentations (PNG where the file has no frame of reference), NIfTI label volumes and TIFF
    label maps; else every picture gets a PNG label map. ``labels.json`` says which number is which label.

    Raises ``ValueError`` if the export has no picture of this mapping, or none of the files is found.
    """
    answers = masks_of_export(export, mapping, predictions=predictions)
    if not answers:
        raise ValueError("the export holds no annotated picture of this mapping; is it the right export and mapping?")
    numbers = label_numbers([answer.masks for answer in answers.values()])
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for restored in _files(answers, mapping, places, numbers, native=native, tell=tell):
        write_atomic(out / restored.name, restored.data)
        written += 1
    write_atomic(out / "labels.json", json.dumps(numbers, indent=1, ensure_ascii=False).encode() + b"\n")
    return written


def _files(
    answers: Mapping[str, Masks],
    mapping: Mapping[str, Source],
    places: Sequence[Path],
    numbers: Mapping[str, int],
    *,
    native: bool,
    tell: Tell,
) -> Iterator[Restored]:
    chosen = sorted((mapping[name] for name in answers), key=lambda source: (source.sha256, source.id))
    if not native:
        for source in chosen:
            yield to_png(source, answers[source.id].masks, numbers)
        return
    paths = find_sources(places, {source.sha256 for source in chosen})
    if not paths:
        raise ValueError("none of the files that the pictures came from is there; name their folder with --sources")
    for digest, group in groupby(chosen, key=lambda source: source.sha256):
        sources = list(group)
        if digest not in paths:
            tell(f"left out: the file of picture {sources[0].id} is not below --sources")
            continue
        try:
            found = [answers[source.id] for source in sources]
            reviewed = all(answer.reviewed for answer in found)
            masks = [answer.masks for answer in found]
            if not any(np.any(mask) for entry in masks for mask in entry.values()) and sources[0].kind == "dicom":
                tell(f"nothing to write: picture {sources[0].id} has no mask")
                continue
            yield to_native(sources, masks, file_bytes(paths[digest]), numbers, reviewed=reviewed)
        except NoSegmentationError as error:
            tell(f"{error}; its masks are written as PNG")
            yield from (to_png(source, answers[source.id].masks, numbers) for source in sources)
        except ValueError as error:
            tell(f"left out: {error}")


def read_mapping(path: Path) -> dict[str, Source]:
    """The mapping in a file. Raises ``ValueError`` with the cure."""
    try:
        return mapping_from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the mapping {path} cannot be read: {error}") from None


def read_export(path: Path) -> Any:
    """The JSON in a file. Raises ``ValueError`` with the cure."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the export {path} cannot be read: {error}") from None
