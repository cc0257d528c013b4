"""Label Studio's JSON exports: which annotation of a task counts, its regions as masks, the files that tasks name.

Every command that takes an export reads it here. Of several annotations of a task the ground truth counts, else the
one that was changed last; skipped ones never do. On request all that were not skipped count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from int_model.core.types import Image, Mask
from int_model.evaluation.examples import BrokenExample, Example
from int_model.io.files import find_images
from int_model.io.images import read_image
from int_model.io.outputs import display_name
from ml_backend.labelstudio.regions.decode import NotAnAreaError, OtherSizeError, decode_region, region_labels

Tell = Callable[[str], None]
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files
_OF_THE_WHOLE = frozenset(
    {"choices", "textarea", "rating", "number", "datetime", "taxonomy", "pairwise", "ranker", "relation", "labels"}
)
"""Types of results that say something about a task or a region, and are no region of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """A region that covers pixels.

    Attributes:
        labels: its labels; none if it was drawn without.
        mask: ``bool [H, W]``, not empty.
    """

    labels: tuple[str, ...]
    mask: Mask


@dataclass(frozen=True, slots=True)
class ExportedTask:
    """One task of an export.

    Attributes:
        name: how messages call it: ``task 12``.
        content: as exported.
    """

    name: str
    content: Mapping[str, Any]

    def annotations(self, *, every: bool = False) -> list[Mapping[str, Any]]:
        """The annotation that counts, or with ``every`` all that were not skipped; [] if there is none."""
        kept = [a for a in _mappings(self.content.get("annotations")) if not a.get("was_cancelled")]
        return kept if every or not kept else [max(kept, key=lambda a: (bool(a.get("ground_truth")), _changed(a)))]

    def newest_prediction(self) -> Mapping[str, Any] | None:
        """The prediction that was made last, if there is any."""
        return max(_mappings(self.content.get("predictions")), key=_changed, default=None)

    def files(self) -> Iterator[PurePosixPath]:
        """Paths of the files that the task's data may name, also without the prefix that uploads get."""
        data = self.content.get("data")
        for value in data.values() if isinstance(data, Mapping) else ():
            path = _path(value) if isinstance(value, str) else PurePosixPath()
            bare = _UPLOAD_PREFIX.sub("", path.name)
            yield from (path.with_name(name) for name in dict.fromkeys((path.name, bare)) if name)

    def areas(self, answer: Mapping[str, Any], size: tuple[int, int], tell: Tell) -> list[Area]:
        """The regions of an annotation or prediction, decoded; ``tell`` gets a line for each that cannot be drawn.

        Args:
            answer: one of the task's annotations or predictions.
            size: (H, W) of the task's image.
            tell: prints a line.

        Raises:
            OtherSizeError: a region was drawn on an image of another size; nothing of that size is allocated.
        """
        parts: dict[str, list[Mapping[str, Any]]] = {}
        for index, part in enumerate(_mappings(answer.get("result"))):
            parts.setdefault(str(part.get("id", f"#{index}")), []).append(part)
        found = []
        for key, same in parts.items():
            mask = self._mask(key, same, size, tell)
            if mask is not None and not mask.any():
                tell(f"{self.name}: region {key} covers no pixel; left out")
            elif mask is not None:
                labels = dict.fromkeys(label for part in same for label in region_labels(part))
                found.append(Area(tuple(labels), mask))
        return found

    def _mask(self, key: str, parts: Sequence[Mapping[str, Any]], size: tuple[int, int], tell: Tell) -> Mask | None:
        """The mask of the entries that share an id: the region itself, the label that it was given, notes on it."""
        for part in parts:
            try:
                return decode_region(part, size)
            except NotAnAreaError:
                continue
            except OtherSizeError:
                raise
            except ValueError as error:
                tell(f"{self.name}: region {key} ({part.get('type')}) is damaged: {error}; left out")
                return None
        kinds = [kind for part in parts if (kind := str(part.get("type"))) not in _OF_THE_WHOLE]
        if kinds:
            tell(f"{self.name}: region {key} ({kinds[0]}) is not an area; left out")
        return None


def read_tasks(export: Path) -> Iterator[ExportedTask]:
    """The tasks of an export of the format *JSON*, one after the other.

    Raises:
        ValueError: the file cannot be read, is not JSON, or is an export of another format.
    """
    name = display_name(export)
    try:
        content = json.loads(export.read_bytes())
    except OSError as error:
        raise ValueError(f"'{name}' cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"'{name}' is not JSON ({error})") from error
    if not isinstance(content, list) or not all(
        isinstance(t, dict) and isinstance(t.get("data"), dict) for t in content
    ):
        raise ValueError(f"'{name}' is not a Label Studio export of whole tasks; export as JSON, not JSON-MIN")
    for number, task in enumerate(content, start=1):
        yield ExportedTask(f"task {task.get('id', number)}", task)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An annotation with its image ``uint8 [H, W, 3]`` and the areas that it holds."""

    name: str
    task: ExportedTask
    annotation: Mapping[str, Any]
    image: Image
    areas: tuple[Area, ...]


@dataclass(frozen=True, slots=True)
class ExportedExamples:
    """The annotated tasks of an export as examples; ``skipped`` tasks have no annotation that counts.

    An annotation without regions says that nothing is there. Every area is one object; a rectangle counts whole.
    """

    images: Mapping[str, tuple[Path, ...]]
    task: str
    labels: frozenset[str]
    chosen: tuple[tuple[str, ExportedTask, Mapping[str, Any]], ...]
    skipped: int
    tell: Tell

    @classmethod
    def read(
        cls,
        export: Path,
        images: Path,
        task: str,
        labels: Sequence[str] = (),
        *,
        every: bool = False,
        tell: Tell = lambda _: None,
    ) -> ExportedExamples:
        """Read an export.

        Args:
            export: the file; see `read_tasks`.
            images: folder in which the images are, at any depth, under the names that the tasks say.
            task: the task prompt.
            labels: only regions with one of these labels count; all if none is named.
            every: every annotation that was not skipped is an example, not only the one that counts.
            tell: gets a line for each region that is left out.

        Raises:
            ValueError: the file is no such export, nothing in it is annotated, or the folder holds no image.
        """
        chosen, skipped = [], 0
        for entry in read_tasks(export):
            annotations = entry.annotations(every=every)
            skipped += not annotations
            for annotation in annotations:
                which = f", annotation {annotation.get('id')}" if len(annotations) > 1 else ""
                chosen.append((f"{entry.name}{which}", entry, annotation))
        if not chosen:
            raise ValueError(f"no task in '{display_name(export)}' is annotated; annotate some, and export again")
        index: dict[str, list[Path]] = {}
        for path in find_images([images]):
            index.setdefault(path.name, []).append(path)
        files = {name: tuple(paths) for name, paths in index.items()}
        return cls(files, task, frozenset(labels), tuple(chosen), skipped, tell)

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Example | BrokenExample]:
        for entry in self.annotated():
            if isinstance(entry, BrokenExample):
                yield entry
            else:
                chosen = [area for area in entry.areas if not self.labels or self.labels & set(area.labels)]
                yield Example(entry.name, entry.image, self.task, instances=tuple(area.mask for area in chosen))

    def annotated(self) -> Iterator[AnnotatedImage | BrokenExample]:
        """The annotated images with all their areas, whatever labels they have."""
        for name, task, annotation in self.chosen:
            try:
                path = self._image(task)
                image = read_image(path)
                areas = task.areas(annotation, (image.shape[0], image.shape[1]), self.tell)
                yield AnnotatedImage(f"{name}, {path.name}", task, annotation, image, tuple(areas))
            except ValueError as error:
                yield BrokenExample(name, str(error), self.task)

    def _image(self, task: ExportedTask) -> Path:
        for named in task.files():
            found = self.images.get(named.name, ())
            fitting = [p for p in found if p.as_posix().endswith("/" + named.as_posix().lstrip("/"))]
            if len(found) == 1 or len(fitting) == 1:
                return (fitting or found)[0]
            if found:
                raise ValueError(
                    f"{len(found)} images are called '{named.name}'; export and evaluate one folder at a time"
                )
        raise ValueError("its image is not in the folder; put it there under the name that the task's data say")


def _mappings(listed: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []


def _changed(answer: Mapping[str, Any]) -> str:
    return str(answer.get("updated_at") or answer.get("created_at") or "")


def _path(address: str) -> PurePosixPath:
    """The path of an address, or the one that Label Studio's own addresses of files carry in their query."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return PurePosixPath()
    query = parse_qs(parts.query)
    if parts.path.rstrip("/").endswith("/local-files") and "d" in query:
        return PurePosixPath(query["d"][0])
    return PurePosixPath(unquote(parts.path))
