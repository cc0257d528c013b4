"""Data sets as streams of examples: folder pairs and COCO JSON. Read one image at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image as PilImage

from int_model.core.types import Mask
from int_model.evaluation.examples import BrokenExample, Example
from int_model.io.errors import ImageError
from int_model.io.files import find_images
from int_model.io.images import read_image
from int_model.io.outputs import display_name
from int_model.masks.rle import segmentation_to_mask

MASK_ENDINGS = ("_segmentation", "_mask", "_gt", "_label", "_lesion")
"""What mask files add to their image's name: ISIC's ``ISIC_0012169_segmentation.png``, and other habits."""


class Examples(Protocol):
    """A data set of known length; iterating again reads again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Example | BrokenExample]: ...


@dataclass(frozen=True)
class FolderPairs:
    """A folder of images and one of masks, paired by name.

    The layout of COD10K, CAMO and CHAMELEON (``Imgs``, ``GT``), CVC-ColonDB and Kvasir (``images``, ``masks``) and
    ISIC (``*_Input``, ``*_GroundTruth`` with ``_segmentation`` in the names). Names match without their endings and
    without regard to case; folders below are part of the name. Use ``FolderPairs.find`` to pair, which raises
    ``ValueError`` where that is impossible.
    """

    pairs: tuple[tuple[str, Path, Path], ...]
    task: str
    truth_above: int = 128

    @classmethod
    def find(cls, images: Path, masks: Path, task: str, *, truth_above: int = 128) -> FolderPairs:
        """Pair every image with its mask.

        Args:
            images: folder with the images and everything below it.
            masks: folder with one mask per image.
            task: the task prompt for all of them.
            truth_above: a mask's pixel is sought if its grey level is greater.

        Raises:
            ValueError: a folder is missing or empty, an image has no mask or two, or a mask has no image.
        """
        if not 0 <= truth_above <= 254:
            raise ValueError(f"the grey level above which a pixel is sought lies in 0..254, not {truth_above}")
        for folder in (images, masks):
            if not folder.is_dir():
                raise ValueError(f"'{display_name(folder)}' is not a folder; give IMAGES and MASKS")
        inside = masks.resolve().is_relative_to(images.resolve()) and masks.resolve() != images.resolve()
        pictures = _by_name(images, find_images([images], skip=[masks] if inside else []))
        drawn = _by_name(masks, find_images([masks], skip=[images] if images.resolve() != masks.resolve() else []))
        if images.resolve() == masks.resolve():
            drawn = {name: path for name, path in drawn.items() if _bare(name) != name and _bare(name) in pictures}
            pictures = {name: path for name, path in pictures.items() if name not in drawn}
        closed = {name: path for name, path in {**drawn, **pictures}.items() if path.is_dir()}
        pictures, drawn = _outside(closed, pictures), _outside(closed, drawn)
        found: dict[str, Path] = {}
        for name, path in drawn.items():
            own = name if name in pictures else _bare(name)
            if own in found:
                raise ValueError(
                    f"the image '{own}' has two masks, '{found[own].name}' and '{path.name}'; leave one of them"
                )
            found[own] = path
        _refuse_unpaired(
            [name for name in pictures if name not in found], "image", "mask", masks, len(pictures), "its mask"
        )
        _refuse_unpaired(
            [name for name in found if name not in pictures], "mask", "image", images, len(found), "its image"
        )
        pairs = [(name, path, found[name]) for name, path in pictures.items()]
        # A folder that cannot be read is one broken example, which says why.
        return cls((*pairs, *((name, path, path) for name, path in closed.items())), task, truth_above)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Example | BrokenExample]:
        for name, image_path, mask_path in self.pairs:
            try:
                image = read_image(image_path)
                mask = read_mask(mask_path, self.truth_above)
            except ImageError as error:
                yield BrokenExample(name, str(error), self.task)
                continue
            if mask.shape != image.shape[:2]:
                problem = (
                    f"the mask '{mask_path.name}' is {mask.shape[1]} x {mask.shape[0]} pixels, the image "
                    f"{image.shape[1]} x {image.shape[0]}; make the mask at the image's size"
                )
                yield BrokenExample(name, problem, self.task)
            else:
                yield Example(name, image, self.task, mask)


def read_mask(path: Path, above: int = 128) -> Mask:
    """A mask file's pixels whose grey level is greater than ``above``, ``bool [H, W]``, upright as images are.

    Files of at most one level besides black, all of it at 1 (masks of 0 and 1), and one-bit files are taken at their
    word whatever ``above`` is. In palette files with colours every index but 0 counts, since colours mean classes.
    Raises ``ImageError``.
    """
    levels = _palette_levels(path)
    if levels is None:
        levels = read_image(path).max(axis=2)
    return np.asarray(levels > (0 if int(levels.max(initial=0)) <= 1 else above), dtype=np.bool_)


def _palette_levels(path: Path) -> Any:
    try:
        with PilImage.open(path) as picture:
            if picture.mode == "P":
                colours = np.asarray(picture.convert("RGB"))
                if (colours.min(axis=2) != colours.max(axis=2)).any():
                    return (np.asarray(picture) > 0).astype(np.uint8)
    except (OSError, SyntaxError, ValueError):
        pass  # read_image says what is wrong with it
    return None


def _by_name(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    out: dict[str, Path] = {}
    for path in paths:
        relative = path.relative_to(folder)
        name = (relative if path.is_dir() else relative.with_suffix("")).as_posix().casefold()
        if name in out:
            raise ValueError(
                f"'{display_name(folder)}' holds '{out[name].name}' and '{path.name}', which have one name; leave one"
            )
        out[name] = path
    return out


def _outside(folders: Mapping[str, Path], paths: Mapping[str, Path]) -> dict[str, Path]:
    """Those of the paths that lie in none of the folders."""
    return {
        name: path
        for name, path in paths.items()
        if not any(folder in (".", name) or name.startswith(f"{folder}/") for folder in folders)
    }


def _bare(name: str) -> str:
    for ending in MASK_ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending)
    return name


def _refuse_unpaired(names: Sequence[str], what: str, other: str, folder: Path, total: int, cure: str) -> None:
    if names:
        shown = ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        raise ValueError(
            f"{len(names)} of {total} {what}s have no {other} in '{display_name(folder)}' ({shown}); a mask is named "
            f"like its image, perhaps with {' or '.join(MASK_ENDINGS[:3])} behind; add {cure} or take the {what} away"
        )


@dataclass(frozen=True)
class CocoImages:
    """A COCO instance file and its folder of images; every image of the file is an example, also without objects.

    ``CocoImages.read`` raises ``ValueError`` for a damaged file. Regions marked ``iscrowd`` belong to the mask but
    are no single objects, so images that have some say nothing about instance metrics.
    """

    folder: Path
    task: str
    images: tuple[tuple[int, str], ...]
    annotations: Mapping[int, tuple[Mapping[str, Any], ...]]
    names: Mapping[int, str]

    @classmethod
    def read(cls, file: Path, folder: Path, task: str, categories: Sequence[str] = ()) -> CocoImages:
        """Read the JSON; of its objects only those of ``categories`` are sought (all if none is named).

        Raises:
            ValueError: the file cannot be read, is no COCO instance file, or has no category of that name.
        """
        try:
            data = json.loads(file.read_bytes())
            names = {int(c["id"]): str(c["name"]) for c in data.get("categories", [])}
            images = tuple((int(i["id"]), str(i["file_name"])) for i in data["images"])
            annotations: dict[int, list[Mapping[str, Any]]] = {identity: [] for identity, _ in images}
            for annotation in data["annotations"]:
                if not categories or names.get(int(annotation["category_id"])) in categories:
                    annotations[int(annotation["image_id"])].append(annotation)
        except OSError as error:
            raise ValueError(f"'{display_name(file)}' cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"'{display_name(file)}' is no COCO instance file ({error})") from error
        unknown = sorted(set(categories) - set(names.values()))
        if unknown:
            known = ", ".join(sorted(names.values()))
            raise ValueError(f"'{display_name(file)}' has no category '{unknown[0]}'; choose among: {known}")
        if not images:
            raise ValueError(f"'{display_name(file)}' lists no images")
        return cls(folder, task, images, {k: tuple(v) for k, v in annotations.items()}, names)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Example | BrokenExample]:
        for identity, name in self.images:
            own = self.annotations[identity]
            try:
                image = read_image(self.folder / name)
                masks = [_annotated_mask(annotation, *image.shape[:2]) for annotation in own]
            except ValueError as error:
                yield BrokenExample(name, str(error), self.task)
                continue
            crowd = any(annotation.get("iscrowd") for annotation in own)
            whole = np.any(masks, axis=0) if masks else np.zeros(image.shape[:2], dtype=np.bool_)
            kinds = {self.names.get(int(annotation["category_id"])) for annotation in own}
            label = kinds.pop() if len(kinds) == 1 and len(self.names) > 1 else None
            yield Example(name, image, self.task, whole, None if crowd else tuple(masks), label)


def _annotated_mask(annotation: Mapping[str, Any], height: int, width: int) -> Mask:
    try:
        return segmentation_to_mask(annotation.get("segmentation"), height, width)
    except ValueError as error:
        raise ValueError(f"annotation {annotation.get('id')}: {error}") from error


@runtime_checkable
class Indexed(Protocol):
    """Examples that can be made one without the others, from 0 on."""

    def __getitem__(self, place: int, /) -> Example | BrokenExample: ...


@dataclass(frozen=True)
class Selected:
    """Some examples of a data set, by their places: its first ones, or every n-th as one process's part of the work."""

    whole: Examples
    places: range

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Example | BrokenExample]:
        if isinstance(self.whole, Indexed):
            return map(self.whole.__getitem__, self.places)
        return islice(iter(self.whole), self.places.start, self.places.stop, self.places.step)
