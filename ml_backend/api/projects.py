"""``/projects`` over HTTP: JSON for programs, pages for people."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ml_backend.api import schemas
from ml_backend.api.audit import note
from ml_backend.api.learning.endpoints import add_learning
from ml_backend.api.middleware import PAGE_HEADERS, JsonResponse
from ml_backend.api.project_pages import ProjectView, list_page, project_page, view_of
from ml_backend.api.run_requests import parse_fields, wants_page, whole_number
from ml_backend.api.runs import add_route, answered
from ml_backend.api.trials import Trials
from ml_backend.connect.command import connect
from ml_backend.connect.labeling import CONTROLS, ControlKind
from ml_backend.connect.plan import Found, Plan, Wanted, as_json, look, plan_connection, plan_rest
from ml_backend.context import AppContext
from ml_backend.doctor.examination import examine_project
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import our_connection
from ml_backend.labelstudio.wire import RequestError

_LISTED = 100
_MAX_BODY = 64 * 1024
_FIELDS = ("prompt", "control", "label", "smart", "backend", "strategy", "threshold")
_NOT_CONNECTED = (
    "the backend does not know Label Studio: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY and start it again"
)
Endpoint = Callable[[Request, AppContext, LabelStudioClient], Awaitable[Response]]


def add_projects(app: FastAPI, context: Callable[[Request], AppContext]) -> None:
    """Add the endpoints to the application; docs/connecting.md describes them."""

    def add(method: str, path: str, endpoint: Endpoint, name: str) -> None:
        async def known(request: Request) -> Response:
            own = context(request)
            if own.client is None:
                raise LabelStudioError(_NOT_CONNECTED)
            response = await endpoint(request, own, own.client)
            for name, value in PAGE_HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        async def answer(request: Request) -> Response:
            return await answered(request, known(request))

        add_route(app, method, path, answer, endpoint, schemas.PROJECTS[name])

    add("GET", "/projects", _list, "list")
    add("GET", "/projects/{project}", _show, "show")
    add("POST", "/projects/{project}/connect", _connect, "connect")
    trials = Trials()
    add("GET", "/projects/{project}/try", trials.show, "trial")
    add("POST", "/projects/{project}/try", trials.begin, "try")
    add_learning(app)


async def _list(request: Request, context: AppContext, client: LabelStudioClient) -> Response:
    """The projects that the token's user sees."""
    query = {"page_size": _LISTED, "ordering": "-id"}
    answer = await asyncio.to_thread(lambda: client.json("GET", "/api/projects", params=query))
    rows = answer.get("results") if isinstance(answer, Mapping) else None
    if not isinstance(rows, list):
        raise LabelStudioError("Label Studio does not list its projects; is LABEL_STUDIO_URL its address?")
    views = [_view(context, client, row) for row in rows if isinstance(row, Mapping) and isinstance(row.get("id"), int)]
    more = int(answer.get("count") or 0) > len(rows)
    if wants_page(request):
        return HTMLResponse(list_page(views, more))
    return JsonResponse({"projects": [view.as_json() for view in views], "more": more})


async def _show(request: Request, context: AppContext, client: LabelStudioClient) -> Response:
    """A project, the doctor's findings, and what connecting it as the address asks would change."""
    number, wanted = _number(request), _wanted(dict(request.query_params))
    found = await asyncio.to_thread(look, client, number)
    findings = await asyncio.to_thread(lambda: list(examine_project(client, context.settings, found.project)))
    refused, plans = "", []
    try:
        plans = _plans(found, wanted, context)
    except ValueError as error:
        refused = str(error)
    view = _view(context, client, found.project, found)
    if wants_page(request):
        return HTMLResponse(project_page(view, findings, plans, wanted, refused))
    told = {"findings": [finding.as_json() for finding in findings], "refused": refused}
    return JsonResponse(view.as_json() | told | {"plans": [as_json(plan) for plan in plans]})


async def _connect(request: Request, context: AppContext, client: LabelStudioClient) -> Response:
    """Make the changes that `_show` described."""
    number, wanted = _number(request), _wanted(await parse_fields(request, _MAX_BODY))
    await note(request, "connect", f"project {number}")
    plans, row = await asyncio.to_thread(connect, client, number, wanted, context.settings)
    if wants_page(request):
        return RedirectResponse(f"../{number}", 303)
    state = row.get("state") if row else None
    return JsonResponse({"plans": [as_json(plan) for plan in plans], "reached": state == "CO"})


def _plans(found: Found, wanted: Wanted, context: AppContext) -> list[Plan]:
    return [plan_connection(found, wanted, context.settings), plan_rest(found, context.settings)]


def _view(
    context: AppContext, client: LabelStudioClient, row: Mapping[str, Any], found: Found | None = None
) -> ProjectView:
    known = context.projects.known(str(row["id"]))
    params = known.extra_params if known else None
    if found is not None and (connection := our_connection(found.connections, context.settings.port)):
        params = connection.get("extra_params")
    version = context.projects.versions(str(row["id"]))[0] if known else ""
    base = context.settings.label_studio_public_url or client.origin.base
    return view_of(row, base, params, context.settings.prompt, version)


def _number(request: Request) -> int:
    return whole_number("the project's id", request.path_params["project"])


def _wanted(given: Mapping[str, Any]) -> Wanted:
    """What is asked for. Raises ``RequestError`` for what is no such field."""
    if unknown := set(given) - set(_FIELDS):
        raise RequestError(f"{min(unknown)[:40]}: there is no such field; {', '.join(_FIELDS)} are")
    control = given.get("control") or None
    if control is not None and control not in CONTROLS:
        raise RequestError(f"control needs to be one of {', '.join(CONTROLS)}")
    texts = {name: given.get(name) or "" for name in ("prompt", "label", "backend", "strategy")}
    if any(not isinstance(value, str) or len(value) > 500 for value in texts.values()):
        raise RequestError("prompt, label, backend and strategy need to be texts of at most 500 characters")
    smart = given.get("smart") in (True, "true", "on", "1")
    kind = cast("ControlKind | None", control)
    backend, strategy = texts["backend"].strip().rstrip("/"), texts["strategy"].strip()
    try:
        threshold = _threshold(given.get("threshold"))
        return Wanted(texts["prompt"].strip(), kind, texts["label"].strip(), smart, backend, strategy, threshold)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _threshold(value: Any) -> float | None:
    """A score threshold as a form or JSON says it. Raises ``ValueError``."""
    if value is None or value == "":
        return None
    try:
        return float(value if isinstance(value, str | int | float) and not isinstance(value, bool) else "")
    except (ValueError, OverflowError):
        raise ValueError("threshold needs to be a number from 0 to 1") from None
