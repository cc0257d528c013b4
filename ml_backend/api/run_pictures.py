"""A small picture of a task's image with the prediction that Label Studio has, for the page of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from int_model.core.caches import LruCache
from int_model.core.types import Image, Mask, union
from int_model.io.drawing import Colour, colour_of, comparison, encode, shrink, shrink_mask, tint
from int_model.io.errors import ImageError
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.label_config import ConfigError, parse_label_config
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.wire import parse_task
from ml_backend.runs.types import RunSpec

SIDE = 320
"""The longer side in pixels."""

MOST_REGIONS = 300
"""Regions that are drawn; each costs a mask of the image's size."""

_AT_ONCE = 2
_KEPT = 500


class PictureError(RuntimeError):
    """There is no picture; the message says why."""


class Fetches(Protocol):
    """What is needed of `ml_backend.serving.facilities.Facilities`."""

    async def fetch(self, address: str, task_id: int | None) -> tuple[bytes, str]:
        """The bytes of the image, and their digest."""
        ...

    async def decode(self, data: bytes) -> Image:
        """Its pixels."""
        ...


class Pictures:
    """Makes pictures, a few at a time, and keeps the last few hundred. Lives in one event loop.

    Args:
        client: Label Studio, for the task and its predictions.
        facilities: get the image as the models get it, with all guards.
    """

    def __init__(self, client: LabelStudioClient, facilities: Fetches) -> None:
        self._client = client
        self._facilities = facilities
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._kept: LruCache[tuple[str, int], bytes] = LruCache(_KEPT)

    async def picture(self, spec: RunSpec, task: int, *, anew: bool = False) -> bytes:
        """A JPEG of the task's first image, at most `SIDE` pixels wide and high, its regions tinted.

        ``anew`` looks at Label Studio though the picture is kept: an undone run's predictions are gone.

        Raises:
            PictureError: the task, its image or the prediction cannot be had.
        """
        key = (spec.model_version, task)
        if key in self._kept and not anew:
            return self._kept[key]
        async with self._places:
            try:
                address, regions = await asyncio.to_thread(self._ask, spec, task)
                data, _ = await self._facilities.fetch(address, task)
                made = await asyncio.to_thread(draw, await self._facilities.decode(data), regions or [])
            except (ConfigError, FetchError, ImageError, LabelStudioError, ValueError) as error:
                raise PictureError(str(error)) from error
        if regions is not None:  # else it is yet to come
            self._kept[key] = made
        return made

    async def compared(self, project: int, task: int) -> bytes:
        """A JPEG of the task's first image: what its annotation and its newest prediction agree on, and where not.

        Raises:
            PictureError: the task, its image, its annotation or a prediction cannot be had.
        """
        async with self._places:
            try:
                address, annotated, predicted = await asyncio.to_thread(self._ask_both, project, task)
                data, _ = await self._facilities.fetch(address, task)
                return await asyncio.to_thread(_compare, await self._facilities.decode(data), annotated, predicted)
            except (ConfigError, FetchError, ImageError, LabelStudioError, ValueError) as error:
                raise PictureError(str(error)) from error

    def _ask_both(self, project: int, task: int) -> tuple[str, list[Any], list[Any]]:
        """The address of the image, and the regions of the newest annotation and of the newest prediction."""
        config = parse_label_config(str(self._client.project(project).get("label_config")))
        query = {"selectedItems": {"all": False, "included": [task]}}
        rows = self._client.tasks_page(project, 1, 1, query=query, whole=True)
        row = next((row for row in rows if row.get("id") == task), None)
        if row is None:
            raise PictureError(f"task {task} is not in project {project} any more")
        first = next(iter(config.images.values()))
        address = next(filter(None, first.addresses(parse_task(row).data)))
        found = []
        for kind in ("annotations", "predictions"):
            results = _results(row.get(kind))
            if not results:
                raise PictureError(f"task {task} has no {kind[:-1]}")
            found.append([region for region in results[-1] if _shows(region, first.name)])
        return address, found[0], found[1]

    def _ask(self, spec: RunSpec, task: int) -> tuple[str, list[Any] | None]:
        """The address of the image, and the regions of the run's prediction, None while there is none."""
        query = {"selectedItems": {"all": False, "included": [task]}}
        rows = self._client.tasks_page(spec.project, 1, 1, query=query, whole=True)
        row = next((row for row in rows if row.get("id") == task), None)
        if row is None:
            raise PictureError(f"task {task} is not in project {spec.project} any more")
        first = next(iter(parse_label_config(spec.label_config).images.values()))
        address = next(filter(None, first.addresses(parse_task(row).data)))
        predictions = row.get("predictions")
        for prediction in predictions if isinstance(predictions, list) else []:
            if isinstance(prediction, Mapping) and prediction.get("model_version") == spec.model_version:
                result = prediction.get("result")
                shown = [r for r in result if _shows(r, first.name)] if isinstance(result, list) else []
                return address, shown
        return address, None


def draw(image: Image, regions: Sequence[Mapping[str, Any]], *, side: int = SIDE) -> bytes:
    """The image ``uint8 [H, W, 3]`` as a small JPEG with the regions of a result tinted, one colour per label.

    Regions that cannot be decoded, or are of another size, are left out; so is what follows the first `MOST_REGIONS`.
    """
    small = np.array(shrink(image, side))
    labels: dict[str, Colour] = {}
    for region in regions[:MOST_REGIONS]:
        try:
            mask = decode_region(region, (image.shape[0], image.shape[1]))
        except ValueError:
            continue
        if mask.any():
            tint(small, shrink_mask(mask, side), labels.setdefault(_label(region), colour_of(len(labels))))
    return encode(small, "JPEG", quality=80)


def _compare(image: Image, annotated: Sequence[Any], predicted: Sequence[Any]) -> bytes:
    size = (image.shape[0], image.shape[1])
    return comparison(image, _all_of(predicted, size), _all_of(annotated, size), SIDE)


def _results(listed: Any) -> list[list[Any]]:
    """The results of annotations or predictions, oldest first; skipped ones do not count."""
    rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
    kept = [row for row in rows if isinstance(row.get("result"), list) and not row.get("was_cancelled")]
    return [row["result"] for row in sorted(kept, key=lambda row: row.get("id") or 0)]


def _all_of(regions: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Mask:
    masks = []
    for region in regions[:MOST_REGIONS]:
        try:
            masks.append(decode_region(region, size))
        except ValueError:
            continue
    return union(size, masks)


def _shows(region: Any, image: str) -> bool:
    if not isinstance(region, Mapping) or region.get("to_name") != image:
        return False
    return region.get("item_index") in (None, 0)


def _label(region: Mapping[str, Any]) -> str:
    value = region.get("value")
    items = value.items() if isinstance(value, Mapping) else ()
    names = next((entry for key, entry in items if str(key).lower().endswith("labels")), None)
    return str(names[0]) if isinstance(names, list) and names else ""
