"""Interactive predictions: clicks, boxes and strokes, and the protocol of 2026 beside the classic one.

Every answer is a prediction, often an empty one: Label Studio shows an annotator neither errors nor missing answers.
Why an answer is empty is in the log and on ``/status``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from int_model.core.types import Image, Instance, union
from int_model.interactive.clicks import ClickSegmenter, NotEncodedError
from int_model.interactive.prompts import ClickPrompt
from ml_backend.errors import EngineError
from ml_backend.labelstudio.clicks import Click, ClickError, parse_click, prompt_of_click, target_of, to_prompt
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.predictions import clicked_regions
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.task_prompt import PromptError
from ml_backend.labelstudio.wire import PredictIn, PredictionOut, TaskIn, fresh_id, parse_task
from ml_backend.serving.click_log import ClickWriter
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.plan import Plan
from ml_backend.serving.results import image_key
from ml_backend.serving.tasks import Tasks

_log = logging.getLogger(__name__)
_KNOWN_IMAGES = 4096
_KNOWN_SECONDS = 600.0  # after that an address is fetched again: its content may have changed
_MAX_WARMING = 64


@dataclass(frozen=True, slots=True)
class _Known:
    """The content hash and (H, W) behind an address."""

    digest: str
    size: tuple[int, int]


@dataclass(slots=True, eq=False)
class _Running:
    """A click on its way; ``future`` is its place in the engine, once it has one."""

    click: Click
    work: asyncio.Task[Any] | None = None
    future: Future[Any] | None = None

    def supersede(self) -> None:
        """Drop it, unless the segmenter is at it already."""
        if self.work is not None and (self.future is None or self.future.cancel()):
            self.work.cancel()


class Interactive:
    """Answers interactive requests; lives in the service's event loop.

    Args:
        facilities: of the service.
    """

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities
        self._engine = facilities.engine
        self._threads = facilities.threads
        self._status = facilities.status
        self._metrics = facilities.metrics
        self._places = asyncio.Semaphore(facilities.settings.downloads)  # images fetched and encoded at the same time
        self._known: TTLCache[str, _Known] = TTLCache(_KNOWN_IMAGES, _KNOWN_SECONDS)
        self._under_way: dict[tuple[str, str, str], list[_Running]] = {}
        self._clicks, self._loading, self._warming = Tasks(), Tasks(), Tasks()
        self._writer = ClickWriter(facilities.store.database, facilities.status)

    async def answer(self, request: PredictIn, plan: Plan, deadline: float) -> list[Any]:
        """One prediction per task, by the loop's time ``deadline``; an empty one where there is no mask."""
        context = request.context or {}
        event, click = context.get("event"), await self._threads(parse_click, context)
        if click is None or event in ("prewarm", "release"):
            return [await self._event(event, parse_task(entry), click, plan) for entry in request.tasks]
        running = [
            self._begin(request.project, f"#{index}", parse_task(entry), click, plan)
            for index, entry in enumerate(request.tasks)
        ]
        works = [entry.work for entry in running if entry.work is not None]
        if works:
            await asyncio.wait(works, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return [self._outcome(work, plan) for work in works]

    async def close(self) -> None:
        """Drop what is on its way."""
        for tasks in (self._clicks, self._warming, self._loading):
            await tasks.close()
        await self._writer.close()

    # --- clicks

    def _begin(self, project: str, place: str, task: TaskIn, click: Click, plan: Plan) -> _Running:
        """Start a click; older ones of the same task and control that it goes on from are answered at once.

        Requests name no person. Who adds a point sends the earlier ones with it; other points are another person's,
        who waits for an answer. A task without an id goes by its ``place`` in the request.
        """
        key = (project, place if task.id is None else str(task.id), click.control)
        others, running = self._under_way.setdefault(key, []), _Running(click)
        for older in others:
            if click.continues(older.click):
                older.supersede()
        running.work = self._clicks.start(self._click(project, task, click, plan, running))
        others.append(running)

        def ended(_: asyncio.Task[Any]) -> None:
            others.remove(running)
            if not others and self._under_way.get(key) is others:
                del self._under_way[key]

        running.work.add_done_callback(ended)
        return running

    def _outcome(self, work: asyncio.Task[Any], plan: Plan) -> Any:
        count = self._metrics.clicks
        if not work.done():
            work.cancel()
            state = self._engine.status.state
            self._status.report("a click", f"the segmenter did not answer in time (models: {state})")
            count.labels("late").inc()
            return empty(plan.version)
        if work.cancelled():
            count.labels("stale").inc()
            return empty(plan.version)
        error = work.exception()
        if error is None:
            found = work.result()
            count.labels("answered" if found["result"] else "nothing_found").inc()
            return found
        count.labels("failed").inc()
        self._status.report("a click", error)
        return empty(plan.version)

    async def _click(self, project: str, task: TaskIn, click: Click, plan: Plan, running: _Running) -> dict[str, Any]:
        started = time.monotonic()
        prompt, size, found = await self._masks(task, click, plan, running)
        answer = await self._threads(_drawn, click, found, plan)
        self._metrics.stage.labels("click").observe(time.monotonic() - started)
        if not found:
            _log.info("the segmenter found nothing for a click on task %s", task.id)
        self._writer.write(project, task.id, click.label, (prompt, size), found, plan.version)
        return answer

    async def _masks(
        self, task: TaskIn, click: Click, plan: Plan, running: _Running
    ) -> tuple[ClickPrompt, tuple[int, int], tuple[Instance, ...]]:
        """What was pointed at in pixels, the (H, W) of the image, and the masks."""
        address, key = await self._address(task, click, plan)
        learned = await self._threads(self._learned, click, plan, task)
        known = self._known.get(key)
        if known is not None:
            prompt = await self._facilities.parsing(to_prompt, click, *known.size)
            try:
                found = await self._segment(known.digest, None, prompt, click.label, running, learned)
            except NotEncodedError:
                pass
            else:
                return prompt, known.size, found
        async with self._places:
            known, image = await self._prepared(key, address, task.id)
            prompt = await self._facilities.parsing(to_prompt, click, *known.size)
            found = await self._segment(known.digest, image, prompt, click.label, running, learned)
            return prompt, known.size, found

    async def _segment(
        self,
        digest: str,
        image: Image | None,
        prompt: ClickPrompt,
        label: str,
        running: _Running,
        learned: tuple[str, str],
    ) -> tuple[Instance, ...]:
        version, task = learned
        future = self._engine.click(
            lambda segmenter: segmenter.answer(digest, image, prompt, label, version=version, task=task)
        )
        running.future = future
        try:
            return await asyncio.wrap_future(future)
        finally:
            running.future = None

    def _learned(self, click: Click, plan: Plan, task: TaskIn) -> tuple[str, str]:
        """The version that serves the project, and the task prompt of the clicked label; "" for the base models."""
        if not plan.adapter:
            return "", ""
        try:
            prompt = prompt_of_click(plan.config, click, plan.params, self._facilities.settings.prompt, task.data)
        except (ClickError, PromptError):
            return "", ""
        return plan.adapter, prompt

    async def _address(self, task: TaskIn, click: Click | None, plan: Plan) -> tuple[str, str]:
        """The image's address and the key under which it is remembered."""
        image = click.image(plan.config) if click is not None else next(iter(plan.config.images.values()))
        addresses, index = image.addresses(task.data), click.item_index if click is not None else 0
        if index >= len(addresses):
            raise ClickError(f"the task has {len(addresses)} images; the click is on number {index + 1}")
        address = addresses[index]
        if not address:
            raise ClickError(f"the task's data hold no address for image {index + 1}")
        return address, await self._threads(image_key, task.id, address)

    async def _prepared(self, key: str, address: str, task_id: int | None) -> tuple[_Known, Image]:
        """The image, fetched and decoded once for all who ask at the same time."""
        loading = self._loading.get(key) or self._loading.start(self._prepare(key, address, task_id), key)
        found: tuple[_Known, Image] = await asyncio.shield(loading)
        return found

    async def _prepare(self, key: str, address: str, task_id: int | None) -> tuple[_Known, Image]:
        data, digest = await self._facilities.fetch(address, task_id)
        image = await self._facilities.decode(data, urgent=True)
        known = self._known[key] = _Known(digest, (int(image.shape[0]), int(image.shape[1])))
        return known, image

    # --- the protocol of 2026

    async def _event(self, event: Any, task: TaskIn, click: Click | None, plan: Plan) -> Any:
        if event == "capabilities":
            return empty(plan.version) | {"result": [{"value": capabilities(plan.version)}]}
        if event in ("prewarm", "release"):
            try:
                address, key = await self._address(task, click, plan)
            except (ClickError, ConfigError) as error:
                self._status.report(f"{event} of task {task.id}", error)
                return empty(plan.version)
            if event == "prewarm":
                self._warm(key, address, task.id)
            else:
                self._release(key)
        elif event is not None:
            _log.info("an interactive event is not known: %r", event[:60] if isinstance(event, str) else type(event))
        return empty(plan.version)

    def _warm(self, key: str, address: str, task_id: int | None) -> None:
        """Encode an image in the background, before its first click."""
        if self._warming.get(key) is not None or len(self._warming) >= _MAX_WARMING:
            return

        async def work() -> None:
            try:
                async with self._places:
                    known, image = await self._prepared(key, address, task_id)
                    doing = self._engine.click(lambda clicks: clicks.prewarm(known.digest, image), urgent=False)
                    await asyncio.wrap_future(doing)
            except Exception as error:  # noqa: BLE001 - the click itself tries again
                self._status.report(f"prewarm of task {task_id}", error)

        self._warming.start(work(), key)

    def _release(self, key: str) -> None:
        """Drop an image's embedding, and what is being done to get it."""
        warming = self._warming.get(key)
        if warming is not None:
            warming.cancel()
        known = self._known.pop(key, None)
        if known is None:
            return

        def drop(segmenter: ClickSegmenter) -> None:
            segmenter.release(known.digest)

        try:
            self._engine.click(drop, urgent=False)
        except EngineError as error:
            _log.info("nothing to release: %s", error)


def empty(version: str) -> dict[str, Any]:
    """The valid answer without a region."""
    return {"result": [], "score": 0, "model_version": version}


def capabilities(version: str) -> dict[str, Any]:
    """What the protocol of 2026 is told about this backend."""
    outputs = (
        ("BitmaskLabels", "mask"),
        ("RectangleLabels", "bbox"),
        ("PolygonLabels", "polygon"),
        ("VectorLabels", "polygon"),
    )
    return {
        "prompts": ["point", "box"],
        "targets": [{"tag": tag, "output": output} for tag, output in outputs],
        "model_info": {"name": "INT", "version": version},
    }


def _drawn(click: Click, found: tuple[Instance, ...], plan: Plan) -> dict[str, Any]:
    """The prediction of a click's masks: regions of the matching control, or for 2026 a single grey picture."""
    if not found:
        return empty(plan.version)
    if not click.control:
        return _picture(found, plan.version)
    image = click.image(plan.config)
    target, note = target_of(plan.config, click, image.name)
    text = "; ".join(["interactive", *([note] if note else []), *click.notes])
    drawn = clicked_regions(
        plan.config,
        target,
        found,
        plan.options[target.control.name],
        text=text,
        item_index=click.item_index if image.is_list else None,
    )
    return PredictionOut(result=list(drawn.regions), score=round(drawn.score, 4), model_version=plan.version).as_json()


def _picture(found: tuple[Instance, ...], version: str) -> dict[str, Any]:
    height, width = found[0].mask.shape
    mask = union((height, width), [instance.mask for instance in found])
    score = round(sum(instance.score for instance in found) / len(found), 4)
    region = {
        "id": fresh_id(),
        "type": "bitmask",
        "value": {"imageDataURL": encode_bitmask(mask, opaque=True)},
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
    }
    return {"result": [region], "score": score, "model_version": version}


def valid_or_empty(results: list[Any], version: str) -> list[Any]:
    """Predictions as they are, and an empty one for each ``[]``, which an annotator's browser cannot read."""
    return [entry if isinstance(entry, Mapping) else empty(version) for entry in results]
