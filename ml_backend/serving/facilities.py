"""What every part of the service works with, put together once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from int_model.core.types import Image
from ml_backend.fetching.decoding import Decoder
from ml_backend.fetching.images import ImageFetcher
from ml_backend.learning.bundles import Bundles
from ml_backend.learning.versions import Versions
from ml_backend.serving.engine import Engine
from ml_backend.serving.metrics import Metrics
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.serving.status import Status
from ml_backend.serving.tasks import Threads
from ml_backend.settings import Settings
from ml_backend.storage.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Facilities:
    """For one event loop.

    Attributes:
        settings: of the environment.
        identity: of the models.
        engine: owns the models.
        store: keeps projects and results.
        fetcher: fetches images.
        decoder: makes pixels of them.
        threads: run the blocking work between request and answer.
        parsing: run what strangers can make long, so that `threads` are free for others.
        status: collects problems for operators.
        metrics: counts and times.
        versions: what projects learned, in the store's database.
        bundles: which of it the models here can serve.
    """

    settings: Settings
    identity: ModelIdentity
    engine: Engine
    store: Store
    fetcher: ImageFetcher
    decoder: Decoder
    threads: Threads
    parsing: Threads
    status: Status
    metrics: Metrics
    versions: Versions
    bundles: Bundles

    async def fetch(self, address: str, task_id: int | None) -> tuple[bytes, str]:
        """The file at an address of a task, and the digest of its content. Raises ``FetchError``."""
        with self.metrics.stage.labels("fetch").time():
            data = await self.fetcher.fetch(address, task_id)
        return data, await self.threads(lambda: hashlib.sha256(data).hexdigest())

    async def decode(self, data: bytes, *, urgent: bool = False) -> Image:
        """A file as ``uint8 [H, W, 3]``, upright; an urgent one before others that wait. Raises ``ImageError``."""
        with self.metrics.stage.labels("decode").time():
            return await self.decoder.decode(data, urgent=urgent)

    async def close(self) -> None:
        """End the threads and the decoder's processes."""
        await self.decoder.close()
        await self.threads.close()
        await self.parsing.close()
