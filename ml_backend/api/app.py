"""The HTTP service: Label Studio's protocol, and pages for operators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response

from int_model.strategies.base import Segments
from ml_backend.api import openapi as api
from ml_backend.api.access import AccessGate
from ml_backend.api.audit import add_audit
from ml_backend.api.bodies import Bodies, Budget, TooMuchError
from ml_backend.api.gates import HostGate, OriginGate
from ml_backend.api.middleware import ErrorGuard, JsonResponse, dump, error_response
from ml_backend.api.openapi_page import add_description
from ml_backend.api.projects import add_projects
from ml_backend.api.runs import add_runs
from ml_backend.api.runs_runtime import RunsRuntime
from ml_backend.context import AppContext
from ml_backend.fetching.addresses import AddressPolicy, Resolver, resolve
from ml_backend.json_pieces import TooLargeError
from ml_backend.labelstudio.annotation_events import ANNOTATION_EVENTS, DELETED_EVENTS
from ml_backend.labelstudio.wire import RequestError, parse_predict, parse_setup, project_key
from ml_backend.runs.training.events import LearningEvents
from ml_backend.serving.model_loading import ModelIdentity, identify
from ml_backend.serving.predictions import Predictions
from ml_backend.settings import Settings
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.audit import Audit
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
MODEL_CLASS = "IntBackend"
_VERSIONS = 50
_EVENTS = frozenset(
    [
        *ANNOTATION_EVENTS,
        "START_TRAINING",
        "PROJECT_CREATED",
        "PROJECT_UPDATED",
        "PROJECT_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "LABEL_LINK_CREATED",
        "LABEL_LINK_UPDATED",
        "LABEL_LINK_DELETED",
    ]
)


def create_app(
    settings: Settings | None = None,
    *,
    load: Callable[[], Segments] | None = None,
    identity: ModelIdentity | None = None,
    resolver: Resolver = resolve,
) -> FastAPI:
    """The ASGI application.

    Args:
        settings: from the environment if None.
        load: makes the strategy, in the engine's thread; the settings' models if None.
        identity: of those models; found from the profile if None.
        resolver: looks up hosts that images come from; for tests.

    Raises:
        ValueError: the settings, the profile or the method's options are wrong.
        StoreError: (when the application starts) the database cannot be used.
    """
    chosen = settings or Settings()
    known = identity or identify(chosen)
    AddressPolicy.of(chosen.allowed_hosts)  # a broken network is refused before the server starts

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = AppContext.open(chosen, load=load, identity=known, resolver=resolver)
        runs = RunsRuntime(context)
        predictions = context.predictions(runs.late_tasks)
        app.state.context, app.state.predictions, app.state.runs = context, predictions, runs
        app.state.annotations, app.state.audit = Annotations(context.store.database), Audit(context.store.database)
        app.state.learning = LearningEvents(runs.trainings, context.facilities.status)
        try:
            await runs.start()
            await context.start()
            yield
        finally:
            await app.state.learning.close()
            await runs.close()
            await predictions.close()
            await context.close()

    app = FastAPI(
        title="int-backend",
        version=version("int-backend"),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load scripts from a public server
        redoc_url=None,
    )
    bodies = Bodies(Budget(max(chosen.max_bodies_bytes, chosen.max_body_bytes)))
    app.state.bodies = bodies
    _add_protocol(app, chosen, bodies)
    _add_pages(app)
    add_runs(app, lambda request: request.app.state.runs)
    add_projects(app, _context)
    add_audit(app)
    _add_errors(app)
    add_description(app)
    _add_gates(app, chosen)
    return app


def _add_gates(app: FastAPI, settings: Settings) -> None:
    """What every request passes; the gate that is added last stands first."""
    app.add_middleware(AccessGate, settings=settings)
    app.add_middleware(OriginGate)
    app.add_middleware(HostGate, names=settings.hostnames)
    app.add_middleware(ErrorGuard)


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


def _add_protocol(app: FastAPI, settings: Settings, bodies: Bodies) -> None:
    """What Label Studio sends."""
    longest = settings.max_body_bytes

    @app.post(
        "/setup",
        response_class=JsonResponse,
        openapi_extra=api.SETUP_BODY,
        responses=api.answers(api.SetupOut, api.BODY_ERRORS),
    )
    async def setup(request: Request) -> Response:
        """Remember a project's labeling config and extra params; answer with the model version."""
        async with bodies.read(request, min(longest, settings.max_setup_bytes)) as content:
            parsed = parse_setup(content)
        return JsonResponse({"model_version": await _context(request).projects.setup(parsed)})

    @app.post(
        "/predict",
        response_class=JsonResponse,
        openapi_extra=api.PREDICT_BODY,
        responses=api.answers(api.PredictOut, api.BODY_ERRORS),
    )
    async def predict(request: Request) -> Response:
        """As many results as tasks: a prediction, or ``[]`` for one that failed or is not ready in time."""
        async with bodies.read(request, longest) as content:
            parsed = parse_predict(content)
            predictions: Predictions = request.app.state.predictions
            results = {"results": await predictions.predict(parsed)}
        return JsonResponse(await _context(request).facilities.threads(dump, results))  # masks make it large

    @app.post(
        "/webhook",
        response_class=JsonResponse,
        openapi_extra=api.WEBHOOK_BODY,
        responses=api.answers(api.UnknownEventOut, api.BODY_ERRORS, created=api.WebhookOut),
    )
    async def webhook(request: Request) -> Response:
        """Take note of an event, in any of Label Studio's shapes."""
        async with bodies.read(request, min(longest, settings.max_webhook_bytes)) as event:
            return await _take_note(request, event)


async def _take_note(request: Request, event: Any) -> Response:
    action = event.get("action") if isinstance(event, dict) else None
    known = action if isinstance(action, str) and action in _EVENTS else ""
    context = _context(request)
    context.facilities.metrics.webhooks.labels(known or "unknown").inc()
    if not known:
        return JsonResponse({"status": "Unknown event"})
    project = event.get("project")
    config = project.get("label_config") if isinstance(project, dict) else None
    if known == "PROJECT_UPDATED" and isinstance(config, str):
        await context.projects.update(project_key(project), config)
    if known in ANNOTATION_EVENTS | DELETED_EVENTS:
        try:
            await asyncio.to_thread(request.app.state.annotations.record, event)
        except StoreError as error:
            _log.warning("%s of project %s is lost: %s", known, project_key(project), error)
            return error_response(503, "the annotations could not be kept", str(error))
    learning: LearningEvents = request.app.state.learning
    learning.take(known, project_key(project))
    return JsonResponse({"status": "ok", "result": {}}, 201)


def _add_pages(app: FastAPI) -> None:
    """What Label Studio and operators look at."""
    answers = api.answers(api.HealthOut, (*api.PAGE_ERRORS, 503))

    @app.get("/", response_class=JsonResponse, responses=answers)
    @app.get("/health", response_class=JsonResponse, responses=answers)
    async def health(request: Request) -> Response:
        """Alive; ``models`` says whether predictions can be made yet. Never waits for anything.

        503 where the data folder was deleted or its disk is full: then nothing that is done would be kept.
        """
        context = _context(request)
        if trouble := context.store.database.trouble():
            return error_response(503, *trouble)
        state = context.facilities.engine.status.state
        return JsonResponse({"model_class": MODEL_CLASS, "status": "UP", "models": state})

    @app.get(
        "/versions",
        response_class=JsonResponse,
        openapi_extra=api.VERSIONS_QUERY,
        responses=api.answers(api.VersionsOut, api.PAGE_ERRORS),
    )
    async def versions(request: Request) -> Response:
        """The model versions in use, of one project with ``?project=``."""
        project = project_key(request.query_params.get("project"))
        return JsonResponse({"versions": _context(request).projects.versions(project)})

    @app.get(
        "/metrics",
        response_class=Response,
        responses=api.text_answer("Numbers for Prometheus.", "text/plain"),
    )
    async def metrics(request: Request) -> Response:
        """Numbers for Prometheus."""
        page = await asyncio.to_thread(_context(request).facilities.metrics.page)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    @app.get("/status", response_class=JsonResponse, responses=api.answers(api.StatusOut, api.PAGE_ERRORS))
    async def status(request: Request) -> Response:
        """The models' state, what is waiting, and the last problems in plain words."""
        context = _context(request)
        return JsonResponse(
            context.facilities.status.view(context.projects.versions(most=_VERSIONS), context.annotator.at_work)
        )


def _add_errors(app: FastAPI) -> None:
    """Short JSON for what is refused."""

    async def bad_request(_: Request, error: Exception) -> Response:
        return error_response(400, str(error), "send what Label Studio sends; /docs describes it")

    async def too_large(_: Request, error: Exception) -> Response:
        cure = "send fewer tasks at once, or raise INT_MAX_BODY_BYTES, INT_MAX_SETUP_BYTES or INT_MAX_WEBHOOK_BYTES"
        return error_response(413, str(error), cure)

    async def too_much(_: Request, error: Exception) -> Response:
        cure = "send it again in some seconds, or raise INT_MAX_BODIES_BYTES"
        return error_response(503, str(error), cure, headers={"Retry-After": "5"})

    app.add_exception_handler(RequestError, bad_request)
    app.add_exception_handler(TooLargeError, too_large)
    app.add_exception_handler(TooMuchError, too_much)
    app.add_exception_handler(HTTPException, _http_error)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = {404: "there is no such page", 405: "this page does not take that method"}.get(status, "refused")
    cure = "the pages are /health, /setup, /predict, /webhook, /versions, /projects, /runs, /metrics, /status and /docs"
    headers = error.headers if isinstance(error, HTTPException) else None
    return error_response(status, f"{request.method} {request.url.path[:200]}: {what}", cure, headers=headers)
