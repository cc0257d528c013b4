"""What the models find in an image: from the store where it is known, else from the engine, once for all who ask."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable

from int_model.core.types import Image
from int_model.io.images import decode_image
from int_model.runner.results import StoredResult
from int_model.runner.store import ResultKey
from ml_backend.labelstudio.task_prompt import PromptGroup
from ml_backend.serving.engine import Engine
from ml_backend.serving.interactive import InThread
from ml_backend.serving.metrics import Metrics
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.serving.turnstile import Ticket
from ml_backend.storage.database import StoreError
from ml_backend.storage.store import Store

_log = logging.getLogger(__name__)


class Results:
    """Results by image, prompt and strategy; lives in the service's event loop.

    Args:
        engine: owns the models.
        store: keeps results.
        fetch: the file at an address of a task.
        in_thread: runs blocking work.
        report: notes a problem for operators.
        metrics: counts and times.
        identity: of the models; a part of the store's keys.
        max_pixels: the largest image.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        fetch: Callable[[str, int | None], Awaitable[bytes]],
        in_thread: InThread,
        report: Callable[[str, object], None],
        metrics: Metrics,
        *,
        identity: ModelIdentity,
        max_pixels: int,
    ) -> None:
        self._engine = engine
        self._store = store
        self._fetch = fetch
        self._in_thread = in_thread
        self._report = report
        self._metrics = metrics
        self._identity = identity
        self._max_pixels = max_pixels
        self._coming: dict[tuple[str, str, str], asyncio.Task[StoredResult]] = {}

    async def close(self) -> None:
        """Drop what is on its way."""
        coming = list(self._coming.values())
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    async def of_image(
        self, address: str, task_id: int | None, groups: list[PromptGroup], ticket: Ticket
    ) -> list[StoredResult]:
        """What each group finds in the image at that address.

        Raises:
            FetchError: the file cannot be had.
            ImageError: it is no image.
            EngineError: the models failed, or cannot be asked.
        """
        with self._metrics.stage.labels("fetch").time():
            data = await self._fetch(address, task_id)
        digest = await self._in_thread(lambda: hashlib.sha256(data).hexdigest())
        found = [await self._stored(digest, group) for group in groups]
        if any(entry is None for entry in found):
            with self._metrics.stage.labels("decode").time():
                image = await self._in_thread(lambda: decode_image(data, max_pixels=self._max_pixels))
            missing = {
                index: self._share(digest, group, image, ticket)
                for index, (group, entry) in enumerate(zip(groups, found, strict=True))
                if entry is None
            }
            for index, finished in zip(missing, await asyncio.gather(*missing.values()), strict=True):
                found[index] = finished
        return [entry for entry in found if entry is not None]

    async def _share(self, digest: str, group: PromptGroup, image: Image, ticket: Ticket) -> StoredResult:
        """Run the models once for the same image, prompt and strategy, however many tasks ask at the same time."""
        key = (digest, group.prompt.text, group.strategy)
        if key not in self._coming:
            self._coming[key] = asyncio.get_running_loop().create_task(self._infer(digest, group, image, ticket))
            self._coming[key].add_done_callback(lambda _: self._coming.pop(key, None))
        return await asyncio.shield(self._coming[key])

    async def _infer(self, digest: str, group: PromptGroup, image: Image, ticket: Ticket) -> StoredResult:
        started = time.monotonic()
        work = self._engine.submit(image, group.prompt, ticket.priority, group.strategy)
        segmentation = await asyncio.wrap_future(work)
        self._metrics.images.inc()
        self._metrics.stage.labels("models").observe(time.monotonic() - started)
        result = await self._in_thread(StoredResult.of, segmentation)
        if not result.objects:
            _log.info("nothing found for %r: %s", group.prompt.text, result.reason)
        try:
            payload = await self._in_thread(result.pack)
            await self._in_thread(self._store.put_result, self._key(digest, group), payload)
        except StoreError as error:
            self._report("the store of results", error)
        return result

    async def _stored(self, digest: str, group: PromptGroup) -> StoredResult | None:
        def look_up() -> StoredResult | None:
            payload = self._store.get_result(self._key(digest, group))
            return None if payload is None else StoredResult.unpack(payload)

        try:
            found = await self._in_thread(look_up)
        except (StoreError, ValueError) as error:
            self._report("the store of results", error)
            found = None
        self._metrics.cache.labels("miss" if found is None else "hit").inc()
        return found

    def _key(self, digest: str, group: PromptGroup) -> ResultKey:
        return ResultKey(digest, group.prompt.text, self._identity.cache_version_of(group.strategy))
