"""The parts of a backend process, put together from the settings: the one place that does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from int_model.io.images import prepare
from int_model.strategies.base import Segments
from ml_backend.fetching.addresses import AddressPolicy, Resolver, resolve
from ml_backend.fetching.decoding import DecodeLimits, Decoder
from ml_backend.fetching.images import FetchLimits, ImageFetcher
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.learning.bundles import Bundles
from ml_backend.learning.versions import Versions
from ml_backend.runs.executors import Executor
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import NO_LABEL_STUDIO, Runs, RunsError
from ml_backend.runs.owners import new_owner
from ml_backend.runs.predict_executor import PredictExecutor
from ml_backend.runs.queues.base import NullQueue, RunQueue
from ml_backend.runs.training.executor import TrainExecutor
from ml_backend.runs.training.start import Trainings
from ml_backend.runs.types import RunKind
from ml_backend.runs.worker import RunWorker
from ml_backend.serving.annotator import TaskAnnotator
from ml_backend.serving.engine import Engine
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.metrics import Metrics
from ml_backend.serving.model_loading import ModelIdentity, identify, load_strategy
from ml_backend.serving.predictions import LateTasks, Predictions
from ml_backend.serving.projects import Projects
from ml_backend.serving.queue import ImageQueue
from ml_backend.serving.results import Results
from ml_backend.serving.status import Status
from ml_backend.serving.tasks import Threads
from ml_backend.settings import Settings
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database
from ml_backend.storage.store import Store

_PUSH_TIMEOUT = 60.0  # well below a lease: what is still under way when it ends could arrive twice


def label_studio_client(
    settings: Settings, *, retries: int = 3, timeout: float = 30.0, with_token: bool = True
) -> LabelStudioClient | None:
    """A client of the settings' Label Studio, or None if no address is set. Calls no one."""
    if not settings.label_studio_url:
        return None
    key = settings.label_studio_api_key
    token = key.get_secret_value() if key and with_token else ""
    return LabelStudioClient(
        settings.label_studio_url, token, ca_bundle=settings.ca_bundle, retries=retries, timeout=timeout
    )


def image_fetcher(settings: Settings, client: LabelStudioClient | None, resolver: Resolver = resolve) -> ImageFetcher:
    """Fetches images as the settings allow; make, use and close it in one event loop.

    Args:
        settings: limits, local folders and allowed hosts.
        client: of Label Studio, whose token is sent to its own addresses; None where none is configured.
        resolver: looks up hosts; for tests.

    Raises ``ValueError`` for a broken network in the settings.
    """
    return ImageFetcher(
        client.origin if client else None,
        client.tokens if client else None,
        policy=AddressPolicy.of(settings.allowed_hosts),
        local_roots=settings.local_roots,
        limits=FetchLimits(settings.max_image_bytes, settings.image_timeout),
        ca_bundle=settings.ca_bundle,
        hide_names=settings.hide_names,
        resolver=resolver,
    )


def _decode_limits(settings: Settings) -> DecodeLimits:
    return DecodeLimits(
        settings.max_image_pixels, settings.max_decoded_pixels, settings.decode_timeout, settings.decoders
    )


def _image_queue(settings: Settings) -> ImageQueue:
    batch, downloads = settings.micro_batch, settings.downloads
    places = min(settings.queue_size, downloads + 2 * batch)
    return ImageQueue(places=places, downloads=downloads, reserve=batch, quota=settings.project_quota)


@dataclass(frozen=True, slots=True, eq=False)
class AppContext:
    """What every process of the backend works with; open and close it in one event loop.

    Attributes:
        settings: of the environment.
        store: projects and results.
        ledger: runs, in the same database.
        client: of Label Studio, or None where none is configured.
        pushing: the same without retries, since a run waits by itself.
        facilities: what the following work with.
        results: what the models find in images.
        projects: labeling configs and model versions.
        annotator: annotates tasks.
    """

    settings: Settings
    store: Store
    ledger: Ledger
    client: LabelStudioClient | None
    pushing: LabelStudioClient | None
    facilities: Facilities
    results: Results
    projects: Projects
    annotator: TaskAnnotator

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        load: Callable[[], Segments] | None = None,
        identity: ModelIdentity | None = None,
        resolver: Resolver = resolve,
        connected: bool = False,
    ) -> AppContext:
        """Open the database and make everything; loads no models and calls no one.

        Args:
            settings: of the environment.
            load: makes the strategy, in the engine's thread; the settings' models if None.
            identity: of those models; found from the profile if None.
            resolver: looks up hosts that images come from; for tests.
            connected: whether Label Studio must be configured.

        Raises:
            ValueError: the settings, the profile or the method's options are wrong, or name no Label Studio.
            StoreError: the database cannot be used.
        """
        known = identity or identify(settings)
        client = label_studio_client(settings)
        if connected and client is None:
            raise RunsError(NO_LABEL_STUDIO)
        fetcher = image_fetcher(settings, client, resolver)
        store = Store(Database.of(settings), cache_entries=settings.cache_entries)
        queue = _image_queue(settings)
        versions = Versions(store.database)
        bundles = Bundles(versions, settings.models.read_profile, known.adapter)
        engine = Engine(
            load or (lambda: load_strategy(settings, bundles.read)), queue, micro_batch=settings.micro_batch
        )
        facilities = Facilities(
            settings=settings,
            identity=known,
            engine=engine,
            store=store,
            fetcher=fetcher,
            decoder=Decoder(_decode_limits(settings)),
            threads=Threads(4, "service"),
            parsing=Threads(2, "parsing"),
            status=Status(engine),
            metrics=Metrics(engine),
            versions=versions,
            bundles=bundles,
        )
        results = Results(facilities, queue)
        return cls(
            settings=settings,
            store=store,
            ledger=Ledger(store.database),
            client=client,
            pushing=label_studio_client(settings, retries=0, timeout=_PUSH_TIMEOUT),
            facilities=facilities,
            results=results,
            projects=Projects(facilities),
            annotator=TaskAnnotator(facilities, results),
        )

    async def start(self) -> None:
        """Read the known projects and begin to load the models; waits for neither the models nor the network."""
        await self.facilities.threads(prepare)
        await self.projects.load()
        self.facilities.engine.start()

    def predictions(self, late_tasks: LateTasks | None = None) -> Predictions:
        """What answers ``/predict``; ``late_tasks`` takes what is not ready in time. Close it before the context."""
        return Predictions(self.facilities, self.projects, self.annotator, self.results, late_tasks)

    def worker(self, *, alone: bool = False) -> RunWorker:
        """A worker of this process; see `RunWorker`. Raises ``RunsError`` where no Label Studio is configured."""
        executors = self.executors()
        return RunWorker(self.ledger, executors, new_owner(), size=self.settings.run_batch, alone=alone)

    def executors(self) -> dict[RunKind, Executor]:
        """What this process can do runs with, by kind. Raises ``RunsError`` where no Label Studio is configured."""
        if self.pushing is None:
            raise RunsError(NO_LABEL_STUDIO)
        return {
            RunKind.PREDICT: PredictExecutor(self.annotator, self.projects, self.pushing),
            RunKind.TRAIN: TrainExecutor(
                self.facilities, self.projects, self.pushing, self.trainings(NullQueue()).consider
            ),
        }

    def trainings(self, queue: RunQueue) -> Trainings:
        """What begins trainings; ``queue`` is told where work is."""
        bundles, versions = self.facilities.bundles, self.facilities.versions
        annotations = Annotations(self.store.database)
        return Trainings(self.ledger, queue, self.projects, self.store, bundles, versions, annotations, self.settings)

    def runs(self, queue: RunQueue) -> Runs:
        """What people do with runs; ``queue`` is told where work is."""
        return Runs(self.ledger, self.client, queue, self.projects, self.store, self.settings)

    async def close(self) -> None:
        """Stop all work and close everything; close workers and predictions first.

        What is at the models is finished, the rest is dropped.
        """
        await self.results.close()
        await asyncio.to_thread(self.facilities.engine.close)
        await self.facilities.fetcher.close()
        await self.facilities.close()
        await self.projects.close()
        await asyncio.to_thread(self.store.close)
        for client in (self.client, self.pushing):
            if client is not None:
                await asyncio.to_thread(client.close)
