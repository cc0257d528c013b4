"""What is in a data set: labels, images with their objects, groups and splits; objects are read one image at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from int_model.core.types import Floats, Mask
from int_model.datasets.duplicates import near_duplicate_groups
from int_model.datasets.names import flat_names, relative_name
from int_model.datasets.splits import assign_splits
from int_model.datasets.store import DatasetStore, KnownFile
from int_model.masks.components import remove_small_components
from int_model.masks.polygons import PolygonOptions, mask_to_parts
from int_model.runner.results import StoredObject, StoredResult
from int_model.runner.store import ResultKey

_LEAST_PART = 4  # pixels; holes of any size stay
_OUTLINES = PolygonOptions(epsilon=1.0, min_iou=0.97, min_area=0)


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """A class of the data set: its label, the prompt that finds it, and the identity of what finds it (`ResultKey`)."""

    label: str
    prompt: str
    identity: str

    def key(self, digest: str) -> ResultKey:
        """What names the label's result of the image with that digest."""
        return ResultKey(digest, self.prompt, self.identity)


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the stored results goes into the data set, and how it is split.

    Attributes:
        min_score: objects below it are left out; an image that loses all of them counts as abstained.
        negatives: whether images without any object are part of the data set.
        exclude: relative names of images that are left out, e.g. those that a reviewer rejected.
        shares: of the splits other than ``train``.
        seed: of the shuffle.
        max_distance: bits in which the hashes of near-duplicates may differ.
        keep_folders: whether images of one folder always share a split.
    """

    min_score: float = 0.0
    negatives: bool = True
    exclude: frozenset[str] = frozenset()
    shares: Mapping[str, float] | None = None
    seed: int = 0
    max_distance: int = 6
    keep_folders: bool = False


@dataclass(frozen=True, slots=True)
class DatasetObject:
    """One object: class (from 1), label, mined name, score, and what is stored of it."""

    category: int
    label: str
    name: str
    score: float
    stored: StoredObject


@dataclass(frozen=True, slots=True)
class Abstention:
    """A label of which nothing was found (or kept) in an image, and why."""

    label: str
    prompt: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of the data set without its objects.

    ``path`` is the file, ``relative`` its name below the folder that was asked for, ``name`` its flat stem,
    ``size`` (H, W) of the upright image.
    """

    path: Path
    relative: str
    name: str
    digest: str
    size: tuple[int, int]
    group: int
    split: str

    @property
    def file_name(self) -> str:
        """The flat name with the file's own ending."""
        return f"{self.name}{self.path.suffix}"


@dataclass(frozen=True, slots=True)
class Item:
    """An image with its objects, best first within each label, and its abstentions."""

    entry: Entry
    objects: tuple[DatasetObject, ...]
    abstentions: tuple[Abstention, ...]
    seconds: float = 0.0
    versions: tuple[str, ...] = ()

    @property
    def doubt(self) -> float:
        """What review sorts by: the lowest score of an object, 1 without objects (those are listed apart)."""
        return min((item.score for item in self.objects), default=1.0)

    def mask(self, item: DatasetObject) -> Mask:
        """The pixels ``bool [H, W]`` of one of its objects."""
        return item.stored.mask

    def rings(self, item: DatasetObject) -> list[Floats]:
        """The outlines of one of its objects, holes bridged: a ring ``float64 [P, 2]`` in pixels for every part."""
        mask = remove_small_components(self.mask(item), _LEAST_PART)
        return [part.ring for part in mask_to_parts(mask, _OUTLINES)]


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be done, and why."""

    relative: str
    path: Path
    error: str


@dataclass(frozen=True, slots=True)
class Contents:
    """A data set: which images, in which splits. ``unfinished`` images were not reached yet."""

    labels: tuple[LabelPlan, ...]
    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...]
    unfinished: int
    excluded: int
    without_objects: int
    selection: Selection
    root: Path

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, ``train`` first."""
        return ("train", *(self.selection.shares or {}))

    def items(self, store: DatasetStore) -> Iterator[Item]:
        """The images with their objects, one at a time, in order."""
        for entry in self.entries:
            yield _item(store, entry, self.labels, self.selection.min_score)


def survey(
    store: DatasetStore, root: Path, paths: Sequence[Path], labels: Sequence[LabelPlan], selection: Selection
) -> Contents:
    """What the finished images give under a selection. ``paths`` are in order; names are relative to ``root``.

    Raises ``ValueError`` if two labels are equal, or the shares make no sense.
    """
    names = [plan.label.casefold() for plan in labels]
    if len(set(names)) != len(names):
        raise ValueError("two labels have the same name; give each task its own, as in --task Name='the prompt'")
    found: list[tuple[KnownFile, str]] = []
    failures = []
    unfinished = excluded = without = 0
    for path in paths:
        relative = relative_name(path, root)
        if relative in selection.exclude:
            excluded += 1
            continue
        known = store.file(path)
        results = [] if known is None or known.error else [store.result(plan.key(known.digest)) for plan in labels]
        done = [result for result in results if isinstance(result, StoredResult)]
        errors = [known.error if known is not None else "", *(result for result in results if isinstance(result, str))]
        if any(errors):
            failures.append(Failure(relative, path, next(filter(None, errors))))
        elif known is None or len(done) < len(labels):
            unfinished += 1
        elif not selection.negatives and not any(_kept(result, selection.min_score) for result in done):
            without += 1
        else:
            found.append((known, relative))
    entries = _entries(found, selection)
    return Contents(tuple(labels), entries, tuple(failures), unfinished, excluded, without, selection, root)


def _entries(found: Sequence[tuple[KnownFile, str]], selection: Selection) -> tuple[Entry, ...]:
    digests = [known.digest for known, _ in found]
    folders = [[known.path.parent for known, _ in found]] if selection.keep_folders else []
    groups = near_duplicate_groups(
        [known.phash for known, _ in found], selection.max_distance, together=[digests, *folders]
    )
    splits = assign_splits(groups, digests, selection.shares or {}, selection.seed)
    names = flat_names([relative for _, relative in found], digests)
    return tuple(
        Entry(known.path, relative, name, known.digest, known.size, group, split)
        for (known, relative), name, group, split in zip(found, names, groups, splits, strict=True)
    )


def _kept(result: StoredResult, min_score: float) -> list[tuple[StoredObject, float]]:
    """The objects that go into the data set, with their scores as its files say them."""
    return [(item, score) for item in result.objects if (score := round(item.score, 6)) >= min_score]


def _item(store: DatasetStore, entry: Entry, labels: Sequence[LabelPlan], min_score: float) -> Item:
    objects, abstentions, seconds, versions = [], [], 0.0, set()
    for category, plan in enumerate(labels, 1):
        result = store.result(plan.key(entry.digest))
        if not isinstance(result, StoredResult):
            raise ValueError(f"'{entry.relative}' has no result for '{plan.prompt}'; run the command again")  # noqa: TRY004
        seconds += result.seconds
        versions.add(result.version)
        kept = _kept(result, min_score)
        objects += [DatasetObject(category, plan.label, item.name, score, item) for item, score in kept]
        if not kept:
            best = max((item.score for item in result.objects), default=0.0)
            reason = result.reason or f"the best score, {best:.2f}, is below {min_score:.2f}"
            abstentions.append(Abstention(plan.label, plan.prompt, reason))
    return Item(entry, tuple(objects), tuple(abstentions), seconds, tuple(sorted(versions)))
