"""Which writers a bootstrap run needs, and what the data card says of their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from int_model.datasets.card import UNREVIEWED, Statistics, write_card
from int_model.datasets.coco import CocoWriter
from int_model.datasets.contents import Contents
from int_model.datasets.export import Writer
from int_model.datasets.lists import ImagesWriter, ListWriter
from int_model.datasets.png import PngWriter
from int_model.datasets.review import ReviewWriter
from int_model.datasets.yolo import YoloWriter
from int_model.models.profile import Profile, Weights
from ml_backend.cli.commands.bootstrap import BootstrapOptions
from ml_backend.labelstudio.task_files import LabelStudioWriter, local_address, url_address


def check(options: BootstrapOptions, formats: Sequence[str]) -> None:
    """Raise ``ValueError`` for options that do not go together, before anything is done."""
    if "yolo" in formats and options.images_mode == "none":
        raise ValueError("YOLO finds labels beside images/; use --images link or copy, or leave yolo out of --formats")
    if options.url_prefix is not None and options.local_root is not None:
        raise ValueError("give --ls-url-prefix or --ls-local-root, not both")
    if options.url_prefix is not None:
        url_address(options.url_prefix)


def title(options: BootstrapOptions) -> str:
    """The data set's title: what was asked for, else the name of its folder."""
    return options.title.strip() or options.out.resolve().name


def writers(
    folder: Path,
    options: BootstrapOptions,
    formats: Sequence[str],
    contents: Contents,
    statistics: Statistics,
    made: Mapping[str, Any],
    version: str,
) -> list[Writer]:
    """The writers of a run, open below ``folder``."""
    labels, splits = contents.labels, contents.splits
    found: list[Writer] = [statistics, ListWriter(folder, contents.failures)]
    in_place = options.images_mode == "none"
    if options.images_mode != "none":
        found.append(ImagesWriter(folder, splits, options.images_mode))
    if "coco" in formats:
        info = {
            "description": f"{title(options)}. {UNREVIEWED}",
            "version": version,
            "year": int(str(made["date"])[:4]),
            "contributor": made["program"],
            "date_created": made["date"],
            "url": "",
        }
        found.append(
            CocoWriter(
                folder, labels, splits, info, licence=options.licence, shape=options.coco_shape, in_place=in_place
            )
        )
    if "yolo" in formats:
        found.append(YoloWriter(folder, labels, splits))
    if "png" in formats:
        found.append(PngWriter(folder, labels, splits))
    if "label-studio" in formats:
        # Label Studio refuses its document root itself as a storage, so the folder above is the default.
        address = (
            url_address(options.url_prefix)
            if options.url_prefix is not None
            else local_address(options.local_root or contents.root.parent)
        )
        found.append(LabelStudioWriter(folder, labels, geometry=options.geometry, address=address, version=version))
    if options.review:
        facts = [
            ("Strategy", str(made["strategy"])),
            ("Profile", str(made["profile"])),
            *((f"Prompt of {plan.label}", plan.prompt) for plan in labels),
            ("Images", str(len(contents.entries))),
            ("Made", str(made["date"])[:16].replace("T", " ")),
        ]
        identity = hashlib.sha256(f"{contents.root}\0{version}".encode("utf-8", "replace")).hexdigest()[:16]
        images = None if in_place else "../images"
        found.append(ReviewWriter(folder, contents, title(options), facts, identity=identity, images=images))
    return found


def finish(
    folder: Path, options: BootstrapOptions, formats: Sequence[str], statistics: Statistics, made: Mapping[str, Any]
) -> None:
    """Write the data card."""
    files = [
        "`splits.csv`: every image, its split, its near-duplicate group and its lowest score",
        "`abstained.csv`: labels that were looked for and not found; `failed.csv`: images that failed",
    ]
    if options.images_mode != "none":
        kind = "links to the originals" if options.images_mode == "link" else "copies of the originals"
        files.append(f"`images/<split>/`: {kind}")
    if "coco" in formats:
        files.append("`annotations/instances_<split>.json`: COCO instances, with scores")
    if "yolo" in formats:
        files.append("`data.yaml`, `labels/<split>/`: YOLO segmentation")
    if "png" in formats:
        files.append(
            "`masks/semantic/<split>/` (value = class, `masks/classes.json`) and `masks/instances/<split>/` "
            "(value = object, `masks/instances.csv`)"
        )
    if "label-studio" in formats:
        files.append("`label-studio/`: a labeling config, and tasks with predictions for *Import*")
    if options.review:
        files.append("`review/index.html`: a contact sheet, most doubtful first")
    write_card(folder, title(options), made, statistics.summary(), files)


def weights(profile: Profile) -> dict[str, str]:
    """Per role the checkpoint and its revision, or the kind of an adapter without weights."""
    told = {}
    for role in profile.roles:
        settings = getattr(profile, role)
        told[role] = f"{settings.id}@{settings.revision}" if isinstance(settings, Weights) else str(settings.kind)
        if isinstance(settings, Weights) and settings.id.startswith("bundled:"):
            told[role] = settings.id
    return told
