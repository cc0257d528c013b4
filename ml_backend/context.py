"""Everything that a process needs to work on runs, put together from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ml_backend.fetching.addresses import AddressPolicy, Resolver, resolve
from ml_backend.fetching.images import FetchLimits, ImageFetcher
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.runs.batch import BatchWorker
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import Runs, RunsError
from ml_backend.runs.owners import new_owner
from ml_backend.runs.queues.base import RunQueue
from ml_backend.serving.engine import Engine, Segments
from ml_backend.serving.model_loading import ModelIdentity, identify, load_strategy
from ml_backend.serving.service import Service
from ml_backend.settings import Settings
from ml_backend.storage.database import Database
from ml_backend.storage.store import Store

_PUSH_TIMEOUT = 60.0  # well below a lease: what is still under way when it ends could arrive twice


def batch_client(settings: Settings) -> LabelStudioClient:
    """The client of a `BatchWorker`: without retries, for it waits by itself. Raises ``RunsError`` without a URL."""
    return _client(settings, retries=0, timeout=_PUSH_TIMEOUT)


def _client(settings: Settings, *, retries: int, timeout: float) -> LabelStudioClient:
    if not settings.label_studio_url:
        raise RunsError("no Label Studio is configured; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    key = settings.label_studio_api_key
    token = key.get_secret_value() if key else ""
    return LabelStudioClient(
        settings.label_studio_url, token, ca_bundle=settings.ca_bundle, retries=retries, timeout=timeout
    )


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """A service that need not be started, the ledger, and clients; make and close it in one event loop."""

    settings: Settings
    service: Service
    store: Store
    ledger: Ledger
    client: LabelStudioClient
    pushing: LabelStudioClient

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        load: Callable[[], Segments] | None = None,
        identity: ModelIdentity | None = None,
        resolver: Resolver = resolve,
    ) -> Workshop:
        """Open the database and make everything; loads no models and calls nobody.

        Args:
            settings: of the environment.
            load: makes the strategy; the settings' models if None.
            identity: of those models; found from the profile if None.
            resolver: looks up hosts that images come from; for tests.

        Raises:
            ValueError: the settings are wrong, or name no Label Studio.
            StoreError: the database cannot be used.
        """
        known = identity or identify(settings)
        client = _client(settings, retries=3, timeout=30.0)
        store = Store(Database.of(settings), cache_entries=settings.cache_entries)
        service = Service(
            settings,
            known,
            Engine(
                load or (lambda: load_strategy(settings)),
                micro_batch=settings.micro_batch,
                queue_size=settings.queue_size,
            ),
            ImageFetcher(
                client.origin,
                client.tokens,
                policy=AddressPolicy.of(settings.allowed_hosts),
                local_roots=settings.local_roots,
                limits=FetchLimits(settings.max_image_bytes, settings.image_timeout),
                ca_bundle=settings.ca_bundle,
                resolver=resolver,
            ),
            store,
        )
        return cls(settings, service, store, Ledger(store.database), client, batch_client(settings))

    def worker(self, *, alone: bool) -> BatchWorker:
        """A worker of this process; see `BatchWorker`."""
        size = self.settings.run_batch
        return BatchWorker(self.service, self.ledger, self.pushing, new_owner(), size=size, alone=alone)

    def runs(self, queue: RunQueue) -> Runs:
        """What people do with runs."""
        return Runs(
            self.ledger,
            self.client,
            queue,
            self.service.plan,
            default_prompt=self.settings.prompt,
            port=self.settings.port,
            known_projects=self.store.projects,
        )

    async def close(self) -> None:
        """Stop the service and close everything; close workers first."""
        await self.service.close()
        await asyncio.to_thread(self.client.close)
        await asyncio.to_thread(self.pushing.close)
