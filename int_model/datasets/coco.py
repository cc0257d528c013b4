"""COCO instance JSON: one file per split, written while images come, never held in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from int_model.datasets.contents import DatasetObject, Item, LabelPlan
from int_model.masks.rle import encode_counts

Shape = Literal["rle", "polygon"]


@dataclass(slots=True)
class _SplitFile:
    """A split's file, open after its list of images has begun; annotations wait in a second file."""

    main: IO[str]
    later: IO[str]
    images: int = 0
    annotations: int = 0


class CocoWriter:
    """Writes ``annotations/instances_<split>.json`` below a folder.

    ``category_id`` counts from 1 in the order of the labels; ``file_name`` is relative to ``images/`` (or what
    ``file_names`` says). Images without objects are there, with ``negative`` true; ``abstained`` lists the labels that
    were looked for and not found. Annotations carry ``score`` and the mined ``name``. Areas and boxes are those of the
    exact masks, in both shapes.

    Args:
        folder: the data set's.
        labels: the classes.
        splits: their names; each gets a file.
        info: for COCO's ``info``.
        licence: name of the images' licence, or "".
        shape: ``rle`` is exact; ``polygon`` is for programs that cannot read run lengths.
        in_place: whether ``file_name`` is the original relative path rather than that of the linked or copied image.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[LabelPlan],
        splits: Sequence[str],
        info: Mapping[str, Any],
        *,
        licence: str = "",
        shape: Shape = "rle",
        in_place: bool = False,
    ) -> None:
        self._shape, self._in_place, self._licensed = shape, in_place, bool(licence)
        self._images = self._annotations = 0
        self._files: dict[str, _SplitFile] = {}
        place = folder / "annotations"
        place.mkdir(parents=True, exist_ok=True)
        head = {
            "info": dict(info),
            "licenses": [{"id": 1, "name": licence, "url": ""}] if licence else [],
            "categories": [{"id": i, "name": plan.label, "supercategory": ""} for i, plan in enumerate(labels, 1)],
        }
        for split in splits:
            main = (place / f"instances_{split}.json").open("w", encoding="utf-8")
            later = (place / f".annotations_{split}.tmp").open("w+", encoding="utf-8")
            main.write(json.dumps(head, ensure_ascii=True)[:-1] + ', "images": [')
            self._files[split] = _SplitFile(main, later)

    def add(self, item: Item) -> None:
        """Write one image and its objects."""
        entry, out = item.entry, self._files[item.entry.split]
        self._images += 1
        image = {
            "id": self._images,
            "file_name": entry.relative if self._in_place else f"{entry.split}/{entry.file_name}",
            "height": entry.size[0],
            "width": entry.size[1],
            **({"license": 1} if self._licensed else {}),
            "negative": not item.objects,
            "abstained": [abstention.label for abstention in item.abstentions],
            "source": entry.relative,
            "sha256": entry.digest,
            "duplicate_group": entry.group,
        }
        _append(out.main, image, first=out.images == 0)
        out.images += 1
        for found in item.objects:
            self._annotations += 1
            _append(out.later, self._annotation(item, found), first=out.annotations == 0)
            out.annotations += 1

    def close(self) -> None:
        """Finish the files."""
        for out in self._files.values():
            out.main.write('\n], "annotations": [')
            out.later.seek(0)
            while block := out.later.read(1 << 20):
                out.main.write(block)
            out.main.write("\n]}\n")
            out.main.close()
            out.later.close()
            Path(out.later.name).unlink()

    def _annotation(self, item: Item, found: DatasetObject) -> dict[str, Any]:
        mask = item.mask(found)
        shape: Any = {"size": list(mask.shape), "counts": encode_counts(mask)}
        if self._shape == "polygon":
            shape = [ring.round(2).ravel().tolist() for ring in item.rings(found)]
        return {
            "id": self._annotations,
            "image_id": self._images,
            "category_id": found.category,
            "segmentation": shape,
            "area": found.stored.area,
            "bbox": list(found.stored.box),
            "iscrowd": 0,
            "score": found.score,
            "name": found.name,
        }


def _append(file: IO[str], value: Mapping[str, Any], *, first: bool) -> None:
    file.write("\n" if first else ",\n")
    file.write(json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")))
