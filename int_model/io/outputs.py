"""Results as files: masks, overlays and JSON, written so that a reader never sees half a file. No torch here."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from int_model.core.types import Image, Mask, Segmentation
from int_model.io.drawing import encode, overlay

_MAX_STEM_BYTES = 160  # leaves room for "_<i>.png" in the 255 bytes that file systems allow
_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')  # what Windows or a shell would stumble over


def display_name(path: str | os.PathLike[str]) -> str:
    """The path as printable text: bytes that are no UTF-8 become the replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")


def assign_stems(paths: Sequence[Path]) -> list[str]:
    """One file stem per path, all different, stable for the same list.

    The first of equal stems keeps it; the next is prefixed with its folder (``val-cat``), then numbered. Stems also
    differ when case is ignored, and none is another one plus ``_<digits>``, which names that one's instance masks.
    """
    taken: set[str] = set()
    prefixes: set[str] = set()
    stems = []
    for path in paths:
        plain, folder = _safe(path.stem), _safe(path.absolute().parent.name)
        options = [plain, f"{folder}-{plain}"]
        number = 2
        while not _free(options[0].casefold(), taken, prefixes):
            options.pop(0)
            if not options:
                options.append(f"{folder}-{plain}-{number}")
                number += 1
        stems.append(options[0])
        key = options[0].casefold()
        taken.add(key)
        if match := re.fullmatch(r"(.*)_\d+", key, re.DOTALL):
            prefixes.add(match[1])
    return stems


def _free(key: str, taken: set[str], prefixes: set[str]) -> bool:
    instance_of = re.fullmatch(r"(.*)_\d+", key, re.DOTALL)
    return key not in taken and key not in prefixes and not (instance_of and instance_of[1] in taken)


def _safe(stem: str) -> str:
    """``stem`` without control characters, separators and reserved names, at most 160 bytes of UTF-8."""
    text = _FORBIDDEN.sub("_", os.fsencode(stem).decode("utf-8", "replace")).strip(" .")
    while len(text.encode()) > _MAX_STEM_BYTES:
        text = text[:-1]
    if not text or text.split(".")[0].casefold() in _DEVICE_NAMES:
        text = f"image{text}"
    return text


def prepare_folder(folder: Path) -> None:
    """Make a folder that results go to. Raises ``ValueError`` if it cannot be made, or not be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"nothing can be written to '{display_name(folder)}' ({reason}); choose another --out"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to a new file beside ``path``, then move it there. Makes the folder. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def mask_png(mask: Mask) -> bytes:
    """A mask ``bool [H, W]`` as an 8-bit gray PNG: 255 object, 0 elsewhere."""
    return encode(mask.astype(np.uint8) * 255, "PNG")


def to_json(value: Any) -> bytes:
    """UTF-8 JSON; numbers that JSON has no word for (NaN, infinity) become null, lone surrogates are escaped."""
    return (json.dumps(_finite(value), ensure_ascii=True, indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def describe_instances(segmentation: Segmentation) -> list[dict[str, Any]]:
    """Per instance ``label``, ``score``, ``box_xyxy`` (pixels, half-open) and ``area`` (pixels), for JSON."""
    return [
        {
            "label": instance.label,
            "score": round(float(instance.score), 6),
            "box_xyxy": [float(v) for v in instance.box.as_tuple()],
            "area": instance.area,
        }
        for instance in segmentation.instances
    ]


@dataclass(frozen=True, slots=True)
class OutputWriter:
    """Writes one image's results below ``folder``: ``masks/``, ``overlay/`` and ``trace/``."""

    folder: Path

    def write(self, stem: str, image: Image, segmentation: Segmentation, trace: Mapping[str, Any]) -> tuple[str, ...]:
        """Write the files of one image and return their paths relative to ``folder``.

        ``masks/<stem>.png`` is the union, ``masks/<stem>_<i>.png`` instance ``i`` (from 0), ``overlay/<stem>.png`` the
        picture to look at, ``trace/<stem>.json`` is ``trace`` with a list ``files`` added, written last.
        Instance masks of an earlier run that this one does not have are removed. Raises ``OSError``.
        """
        contents = {f"masks/{stem}.png": mask_png(segmentation.mask)}
        for i, instance in enumerate(segmentation.instances):
            contents[f"masks/{stem}_{i}.png"] = mask_png(instance.mask)
        contents[f"overlay/{stem}.png"] = encode(overlay(image, segmentation.instances), "PNG")
        record = self.folder / "trace" / f"{stem}.json"
        stale = self._instance_masks(record, stem) - contents.keys()
        for name, data in contents.items():
            write_atomic(self.folder / name, data)
        files = (*contents, f"trace/{stem}.json")
        write_atomic(record, to_json({**trace, "files": list(files)}))
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        return files

    @staticmethod
    def _instance_masks(record: Path, stem: str) -> set[str]:
        """The instance masks that an earlier run noted for this stem; nothing if there is no readable note."""
        try:
            files = json.loads(record.read_bytes())["files"]
            pattern = re.compile(re.escape(f"masks/{stem}_") + r"\d+\.png")
            return {name for name in files if pattern.fullmatch(name)}
        except (OSError, ValueError, KeyError, TypeError):
            return set()
