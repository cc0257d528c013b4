"""``/projects/ID/learning`` over HTTP: what a project learned, which version serves, and changing that."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from int_model.core.caches import LruCache
from ml_backend.api import openapi as api
from ml_backend.api.access import WHO
from ml_backend.api.audit import note
from ml_backend.api.learning.pages import LearningView, learning_page, version_named, view_of
from ml_backend.api.learning.schema import LearningOut, ServingOut
from ml_backend.api.middleware import PAGE_HEADERS, JsonResponse
from ml_backend.api.run_pages import no_picture
from ml_backend.api.run_pictures import PictureError, Pictures
from ml_backend.api.run_requests import parse_fields, wants_page, whole_number
from ml_backend.api.runs import answered
from ml_backend.context import AppContext
from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.wire import RequestError
from ml_backend.learning.effort import Effort, correction_efforts_of, efforts_of, newest_of_each
from ml_backend.learning.versions import BASE, Version, Versions
from ml_backend.storage.annotations import Annotations

_COMPARED = 12
"""Newest images of each version whose correction efforts are counted."""

_KEPT = 5000
_MAX_BODY = 8 * 1024
_PROJECT = {
    "name": "project",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999_999},
    "description": "Label Studio's id.",
    "example": 1,
}
_CHOICE = api.body(
    {
        "type": "object",
        "required": ["version"],
        "properties": {
            "version": {
                "type": "string",
                "minLength": 1,
                "maxLength": 80,
                "description": "Its name (v3), its id or the beginning of it, or base.",
            },
            "force": {"type": "boolean", "description": "Also one that the gate refused."},
        },
    },
    {"version": "base", "force": False},
)
_STATUSES = (*api.BODY_ERRORS, 404, 409)
Endpoint = Callable[[Request, "Learning"], Awaitable[Response]]


class Learning:
    """What the endpoints work with; one per application.

    Args:
        context: without Label Studio in it there are no pictures and no correction efforts.
        pictures: of tasks, or None.
    """

    def __init__(self, context: AppContext, pictures: Pictures | None) -> None:
        self.context = context
        self.pictures = pictures
        self.versions: Versions = context.facilities.versions
        self._annotations = Annotations(context.store.database)
        self._known: LruCache[tuple[int, int, float], float] = LruCache(_KEPT)
        self._lock = threading.Lock()

    def view(self, project: int) -> tuple[LearningView, str]:
        """The project, and what could not be found out. Blocking; asks Label Studio for predictions."""
        versions = self.versions.of_project(project)
        adapters = {name: one.id for one in versions for name in self.versions.names(project, one.id)}
        annotations = list(self._annotations.of_project(project))
        notice, efforts = "", efforts_of(annotations, adapters)
        client = self.context.client
        if client is not None and annotations:
            try:
                efforts = self._with_efforts(client, project, annotations, adapters)
            except LabelStudioError as error:
                notice = f"Correction efforts are missing: {error}"
        base = "" if client is None else self.context.settings.label_studio_public_url or client.origin.base
        address = f"{base.rstrip('/')}/projects/{project}/data" if base else ""
        history = tuple(self.versions.history(project))
        views = tuple(view_of(version) for version in versions)
        return LearningView(project, views, history, tuple(efforts), len(annotations), address), notice

    def _with_efforts(
        self, client: LabelStudioClient, project: int, annotations: Sequence[Annotation], adapters: Mapping[str, str]
    ) -> list[Effort]:
        chosen = newest_of_each(annotations, adapters, _COMPARED)
        keys = {one.id: (project, one.id, one.updated_at.timestamp()) for one in chosen}
        with self._lock:
            known = {one.id: self._known[keys[one.id]] for one in chosen if keys[one.id] in self._known}
        missing = [one for one in chosen if one.id not in known]
        shown = _predictions(client, project, sorted({one.task for one in missing})) if missing else {}
        for one in missing:
            result = shown.get(one.parent_prediction or 0)
            value = None if result is None or one.result is None else correction_efforts_of(result, one.result)
            if value is not None:
                known[one.id] = value
                with self._lock:
                    self._known[keys[one.id]] = value
        return efforts_of(annotations, adapters, known)


def _learning(request: Request) -> Learning:
    state = request.app.state
    found: Learning | None = getattr(state, "learning_pages", None)
    if found is None or found.context is not state.context:
        found = state.learning_pages = Learning(state.context, state.runs.pictures)
    return found


def add_learning(app: FastAPI) -> None:
    """Add the endpoints to the application; docs/learning.md describes them."""

    def add(method: str, path: str, endpoint: Endpoint, **described: Any) -> None:
        async def answer(request: Request) -> Response:
            async def headed() -> Response:
                response = await endpoint(request, _learning(request))
                for name, value in PAGE_HEADERS.items():
                    response.headers.setdefault(name, value)
                return response

            return await answered(request, headed())

        answer.__name__, answer.__doc__ = f"learning{endpoint.__name__}", endpoint.__doc__  # for the OpenAPI page
        chosen = described or {"include_in_schema": False, "response_model": None}
        app.add_api_route(path, answer, methods=[method], **chosen)

    def says(model: Any, statuses: tuple[int, ...], extra: dict[str, Any]) -> dict[str, Any]:
        given = {"parameters": [_PROJECT], **extra}
        return {"response_class": JsonResponse, "responses": api.answers(model, statuses), "openapi_extra": given}

    root = "/projects/{project}/learning"
    add("GET", root, _show, **says(LearningOut, (*api.PAGE_ERRORS, 400, 404, 503), {}))
    add("POST", f"{root}/promote", _promote, **says(ServingOut, _STATUSES, _CHOICE))
    add("POST", f"{root}/rollback", _rollback, **says(ServingOut, _STATUSES, {}))
    add("GET", f"{root}/tasks/{{task}}/picture", _picture)


async def _show(request: Request, learning: Learning) -> Response:
    """What a project learned: versions with the gate's verdicts, what serves, what corrections cost."""
    view, notice = await asyncio.to_thread(learning.view, _number(request))
    if not wants_page(request):
        return JsonResponse(view.as_json())
    shown = version_named(view.versions, request.query_params.get("version", ""))
    return HTMLResponse(learning_page(view, shown, pictures=learning.pictures is not None, notice=notice))


async def _promote(request: Request, learning: Learning) -> Response:
    """Let a version serve from the next request on; ``base`` are the models as they are."""
    project, given = _number(request), await parse_fields(request, _MAX_BODY)
    version = given.get("version")
    if not isinstance(version, str) or not 0 < len(version) <= 80:
        raise RequestError("version needs to be the name of a version, e.g. v3, or base")
    force = given.get("force") in (True, "true", "on", "1")
    await note(request, "promote", f"project {project}: {version}" + (" although refused" if force else ""))
    bundles = learning.context.facilities.bundles
    base = "" if version == BASE else await asyncio.to_thread(lambda: bundles.base)

    def choose() -> Version:
        chosen = learning.versions.show(project, version)
        if chosen.serving:  # also of projects that nothing is kept of
            return chosen
        return learning.versions.promote(project, version, who=_who(request), base=base, force=force)

    return await _changed(request, project, choose)


async def _rollback(request: Request, learning: Learning) -> Response:
    """Let serve again what served before the present version was promoted."""
    project = _number(request)
    await note(request, "rollback", f"project {project}")
    return await _changed(request, project, functools.partial(learning.versions.rollback, project, who=_who(request)))


async def _changed(request: Request, project: int, change: Callable[[], Version]) -> Response:
    serving = await asyncio.to_thread(change)
    if wants_page(request):
        return RedirectResponse("../learning", 303)
    return JsonResponse({"project": project, "serving": serving.name, "id": serving.id})


async def _picture(request: Request, learning: Learning) -> Response:
    """A small JPEG: a task's annotation and the newest prediction that Label Studio has, one over the other."""
    project, task = _number(request), whole_number("task", request.path_params["task"])
    if learning.pictures is None:
        return Response(no_picture("the backend does not know Label Studio"), 404, media_type="image/svg+xml")
    try:
        data = await learning.pictures.compared(project, task)
    except PictureError as error:
        return Response(no_picture(str(error)), 404, media_type="image/svg+xml")
    return Response(data, 200, {"Cache-Control": "private, max-age=60"}, media_type="image/jpeg")


def _number(request: Request) -> int:
    return whole_number("the project's id", request.path_params["project"])


def _who(request: Request) -> str:
    return str(request.scope.get(WHO, "anyone"))


def _predictions(client: LabelStudioClient, project: int, tasks: Sequence[int]) -> dict[int, Sequence[Any]]:
    """The results of all predictions of tasks, by the predictions' ids."""
    found: dict[int, Sequence[Any]] = {}
    for start in range(0, len(tasks), 50):
        query = {"selectedItems": {"all": False, "included": list(tasks[start : start + 50])}}
        for row in client.tasks_page(project, 1, 50, query=query, whole=True):
            listed = row.get("predictions")
            for entry in listed if isinstance(listed, list) else []:
                if isinstance(entry, Mapping) and isinstance(entry.get("result"), list):
                    found[entry.get("id") or 0] = entry["result"]
    return found
