"""The writers of a bootstrap run, and what the data card says of their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
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
from int_model.models.identity import is_bundled
from int_model.models.profile import Profile, Weights
from int_model.strategies.model_options import ModelOptions
from ml_backend.cli.commands.bootstrap import BootstrapOptions
from ml_backend.labelstudio.task_files import LabelStudioWriter, local_address, url_address
from ml_backend.serving.versions import package_version


class Formats:
    """What is written of a data set.

    Args:
        options: of the command.
        models: what made the masks.
        made_by: names and fingerprints of the same: ``profile``, ``models``, ``strategy``, ``configuration``.
        formats: their names.
        contents: the images.
    """

    def __init__(
        self,
        options: BootstrapOptions,
        models: ModelOptions,
        made_by: Mapping[str, str],
        formats: Sequence[str],
        contents: Contents,
    ) -> None:
        self._options, self._formats, self._contents = options, formats, contents
        self.statistics = Statistics(contents)
        self._title = options.title.strip() or options.out.resolve().name
        keys = json.dumps([[label.label, label.prompt, label.identity] for label in contents.labels])
        digest = hashlib.sha256(keys.encode()).hexdigest()[:8]
        self._version = f"int-{made_by['profile']}-{made_by['strategy']}-{digest}"
        self._made = _made(options, models, made_by, contents)
        self._files: list[str] = []

    def writers(self, folder: Path) -> list[Writer]:
        """The writers, open below ``folder``."""
        found = [(self.statistics, ""), *self._tables(folder), *self._annotations(folder)]
        if self._options.review:
            found.append((self._review(folder), "`review/index.html`: a contact sheet, most doubtful first"))
        self._files = [text for _, text in found if text]
        return [writer for writer, _ in found]

    def finish(self, folder: Path) -> None:
        """Write the data card."""
        write_card(folder, self._title, self._made, self.statistics.summary(), self._files)

    def _tables(self, folder: Path) -> Iterator[tuple[Writer, str]]:
        mode = self._options.images_mode
        splits = "`splits.csv`: every image, its split, its near-duplicate group and its lowest score"
        others = "`abstained.csv`: labels that were looked for and not found; `failed.csv`: images that failed"
        yield ListWriter(folder, self._contents.failures), f"{splits}; {others}"
        if mode != "none":
            kind = "the originals (hard links)" if mode == "link" else "copies of the originals"
            yield ImagesWriter(folder, self._contents.splits, mode), f"`images/<split>/`: {kind}"

    def _annotations(self, folder: Path) -> Iterator[tuple[Writer, str]]:
        options, labels, splits = self._options, self._contents.labels, self._contents.splits
        if "coco" in self._formats:
            coco = CocoWriter(
                folder,
                labels,
                splits,
                {
                    "description": f"{self._title}. {UNREVIEWED}",
                    "version": self._version,
                    "year": int(self._made["date"][:4]),
                    "contributor": self._made["program"],
                    "date_created": self._made["date"],
                    "url": "",
                },
                licence=options.licence,
                shape=options.coco_shape,
                in_place=options.images_mode == "none",
            )
            yield coco, "`annotations/instances_<split>.json`: COCO instances, with scores"
        if "yolo" in self._formats:
            yield YoloWriter(folder, labels, splits), "`data.yaml`, `labels/<split>/`: YOLO segmentation"
        if "png" in self._formats:
            classes = "`masks/semantic/<split>/` (value = class, `masks/classes.json`)"
            objects = "`masks/instances/<split>/` (value = object, `masks/instances.csv`)"
            yield PngWriter(folder, labels, splits), f"{classes} and {objects}"
        if "label-studio" in self._formats:
            # Label Studio refuses its document root itself as a storage, so the folder above is the default.
            root = options.local_root or self._contents.root.parent
            address = local_address(root) if options.url_prefix is None else url_address(options.url_prefix)
            tasks = LabelStudioWriter(folder, labels, geometry=options.geometry, address=address, version=self._version)
            yield tasks, "`label-studio/`: a labeling config, and tasks with predictions for *Import*"

    def _review(self, folder: Path) -> ReviewWriter:
        contents = self._contents
        facts = [
            ("Strategy", self._made["strategy"]),
            ("Profile", self._made["profile"]),
            *((f"Prompt of {plan.label}", plan.prompt) for plan in contents.labels),
            ("Images", str(len(contents.entries))),
            ("Made", self._made["date"][:16].replace("T", " ")),
        ]
        identity = hashlib.sha256(f"{contents.root}\0{self._version}".encode("utf-8", "replace")).hexdigest()[:16]
        images = None if self._options.images_mode == "none" else "../images"
        return ReviewWriter(folder, contents, self._title, facts, identity=identity, images=images)


def _made(
    options: BootstrapOptions, models: ModelOptions, made_by: Mapping[str, str], contents: Contents
) -> dict[str, Any]:
    """What the data card says about how the data set was made."""
    profile, selection = models.read_profile(), contents.selection
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"int-backend {package_version()}",
        "strategy": made_by["strategy"],
        "profile": made_by["profile"],
        "models": weights(profile),
        "models_fingerprint": made_by["models"],
        "licences_of_the_weights": dict(profile.meta.licences),
        "preset": models.preset or "defaults",
        "changed_options": [*models.changed(), *models.overridden()],
        "configuration_fingerprint": made_by["configuration"],
        "min_score": selection.min_score,
        "images_without_objects": "kept" if selection.negatives else "left out",
        "split": {
            "shares": dict(selection.shares or {}),
            "seed": selection.seed,
            "near_duplicate_distance_bits": selection.max_distance,
            "folders_kept_together": selection.keep_folders,
        },
        "licence_of_the_images": options.licence or "not stated",
    }


def weights(profile: Profile) -> dict[str, str]:
    """Per role the checkpoint and its revision, or the kind of an adapter without weights."""
    told = {}
    for role in profile.roles:
        settings = getattr(profile, role)
        if not isinstance(settings, Weights):
            told[role] = str(settings.kind)
        elif is_bundled(settings.id):
            told[role] = settings.id
        else:
            told[role] = f"{settings.id}@{settings.revision}"
    return told
