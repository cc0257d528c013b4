"""Image-text pairs, which is all that the training of a point generator is given: no field of them holds a mask."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from int_model.core.types import Image
from int_model.io.images import read_image
from int_model.point_prompting.generator.expressions import head_noun

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


class PairsError(ValueError):
    """A source of pairs cannot be read; the message says which line or file and what is expected."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An expression and the image that it was said of.

    Attributes:
        image: the image's key in ``PairSet.images``.
        text: the expression.
        referent: which thing is meant, where the source tells: expressions of one image with the same referent mean
            the same thing, with different ones different things. "": unknown, a referent of its own.
    """

    image: str
    text: str
    referent: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PairSet:
    """Images, each read when asked for, and the pairs over them."""

    images: Mapping[str, Callable[[], Image]]
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise PairsError("the source holds no pair of an image and a text")

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the images that some pair is about, in order of the pairs."""
        return tuple(dict.fromkeys(pair.image for pair in self.pairs))

    def of_image(self) -> dict[str, list[Pair]]:
        """The pairs of each image."""
        found: dict[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            found[pair.image].append(pair)
        return dict(found)

    def object_centric(self) -> PairSet:
        """The images with one pair whose text is a bare name or a name with attributes: material of stage 1.

        Raises ``PairsError`` if there is none.
        """
        alone = [pairs[0] for pairs in self.of_image().values() if len(pairs) == 1]
        simple = tuple(pair for pair in alone if _is_simple(pair.text))
        if not simple:
            raise PairsError(
                "no image has exactly one short text without a relation, and stage 1 learns from such images: give "
                "object-centric images of their own (--objects)"
            )
        return PairSet(self.images, simple)


def _is_simple(text: str) -> bool:
    noun = head_noun(text)
    return text.lower().rstrip(".").endswith(noun) and len(text.split()) <= 5


def merged(sets: Iterable[PairSet]) -> PairSet:
    """All pairs of several sources; keys get the number of their source in front, so that none collide."""
    images: dict[str, Callable[[], Image]] = {}
    pairs: list[Pair] = []
    for number, one in enumerate(sets):
        images |= {f"{number}/{key}": load for key, load in one.images.items()}
        pairs += [Pair(f"{number}/{pair.image}", pair.text, pair.referent) for pair in one.pairs]
    return PairSet(images, tuple(pairs))


def read_pairs(source: Path, images: Path | None = None) -> PairSet:
    """Pairs of a folder, a JSON Lines file or a RefCOCO-style JSON file, told apart by what ``source`` is.

    Args:
        source: a folder of images with a text file of the same stem beside each (one expression per line); a ``.jsonl``
            file of objects with ``image``, ``text`` and perhaps ``referent``; or a ``.json`` file with a list of
            referents, each with ``file_name``, ``ref_id`` and ``sentences``.
        images: folder that file names are relative to; by default the folder of the file.

    Raises:
        PairsError: nothing there can be read as pairs.
    """
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise PairsError(f"{source} does not exist: give a folder, a .jsonl file or a RefCOCO-style .json file")
    base = images or source.parent
    if source.suffix == ".jsonl":
        return _json_lines(source, base)
    if source.suffix == ".json":
        return _refcoco(source, base)
    raise PairsError(
        f"{source.name} is neither .jsonl nor .json; RefCOCO's own pickle files are not read, since a pickle can run "
        "code: write their list of referents as JSON first"
    )


def mined_names(found: Iterable[tuple[Path, str]]) -> PairSet:
    """Pairs of images and the names that INT mined in them: what a project without any text trains on."""
    unique = dict.fromkeys((path, name.strip().lower()) for path, name in found if name.strip())
    return _of_files([(path, name, name) for path, name in unique])


def _folder(folder: Path) -> PairSet:
    rows = []
    for path in sorted(folder.rglob("*")):
        texts = path.with_suffix(".txt")
        if path.suffix.lower() in _IMAGES and texts.is_file():
            lines = [line.strip() for line in texts.read_text(encoding="utf-8").splitlines()]
            rows += [(path, line, "") for line in lines if line]
    if not rows:
        raise PairsError(f"{folder} holds no image with a .txt file of the same name beside it")
    return _of_files(rows)


def _json_lines(source: Path, base: Path) -> PairSet:
    rows = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            rows.append((base / str(entry["image"]), str(entry["text"]).strip(), str(entry.get("referent", ""))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PairsError(
                f'{source.name}, line {number}: expected an object such as {{"image": "a.jpg", "text": "the left '
                f'fish"}} ({type(error).__name__}: {error})'
            ) from error
    return _of_files([row for row in rows if row[1]])


def _refcoco(source: Path, base: Path) -> PairSet:
    try:
        entries: list[dict[str, Any]] = json.loads(source.read_text(encoding="utf-8"))
        rows = []
        for entry in entries:
            for sentence in entry["sentences"]:
                text = sentence if isinstance(sentence, str) else sentence.get("sent") or sentence["raw"]
                rows.append((base / str(entry["file_name"]), str(text).strip(), str(entry["ref_id"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PairsError(
            f"{source.name} is no list of referents with file_name, ref_id and sentences ({type(error).__name__}: "
            f"{error})"
        ) from error
    return _of_files([row for row in rows if row[1]])


def _of_files(rows: Iterable[tuple[Path, str, str]]) -> PairSet:
    kept = list(rows)
    missing = next((path for path, _, _ in kept if not path.is_file()), None)
    if missing is not None:
        raise PairsError(f"the image {missing} does not exist: mend its name, or give the folder of the images")
    images = {str(path): _reader(path) for path, _, _ in kept}
    return PairSet(images, tuple(Pair(str(path), text, referent) for path, text, referent in kept))


def _reader(path: Path) -> Callable[[], Image]:
    return lambda: read_image(path)
