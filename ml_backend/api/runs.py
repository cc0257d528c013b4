"""``/runs`` over HTTP: JSON for programs, pages for people. Behind the same Basic auth as all else."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ml_backend.api import schemas
from ml_backend.api.audit import note
from ml_backend.api.middleware import PAGE_HEADERS, JsonResponse, dump, error_response
from ml_backend.api.review import endpoints as review
from ml_backend.api.run_actions import undo
from ml_backend.api.run_actions.form import Form, number_in, typed_of, wrong_field
from ml_backend.api.run_actions.verify import Verifications
from ml_backend.api.run_pages import PAGE, Notice, RunView, error_page, list_page, no_picture, run_page
from ml_backend.api.run_pictures import PictureError
from ml_backend.api.run_requests import (
    number_of,
    order_of,
    parse_fields,
    run_request_of,
    state_of,
    wants_page,
    whole_number,
)
from ml_backend.api.runs_runtime import RunsRuntime
from ml_backend.connect.labeling import AmendError
from ml_backend.json_pieces import TooLargeError
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.wire import RequestError
from ml_backend.learning.versions import VersionError
from ml_backend.runs.errors import LedgerError, UnknownRunError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import Started
from ml_backend.runs.plain import record_json, run_json
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.types import Run, RunKind, RunState, TaskState
from ml_backend.storage.database import StoreError

_MAX_LIMIT = 1000
_FAILURES = 50
_NOT_CONNECTED = (
    "runs cannot be started: the backend does not know Label Studio",
    "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY (a personal access token) and start the backend again",
)
_REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (RequestError, 400, "see docs/runs.md"),
    (TooLargeError, 413, "send less"),
    (UnknownRunError, 404, "GET /runs lists all"),
    (LedgerError, 409, "look at the run's state"),
    (AmendError, 409, "take another control, or correct the labeling config"),
    (VersionError, 409, "int-backend models list shows the versions"),
    (LabelStudioError, 502, "see the message; int-backend doctor says more"),
    (QueueError, 503, "the run is kept; it goes on when a worker comes"),
    (StoreError, 503, "see the message"),
    (ValueError, 400, "see the message"),
)
"""What the endpoints raise, the status that it becomes, and what to do; the first that fits counts."""

_RAISED = tuple(kind for kind, _, _ in _REFUSALS)
_LISTING_SECONDS = 10.0
_listings: set[asyncio.Task[Started]] = set()
_log = logging.getLogger(__name__)


Endpoint = Callable[[Request, RunsRuntime], Awaitable[Response]]


def add_runs(app: FastAPI, runtime: Callable[[Request], RunsRuntime]) -> None:
    """Add the endpoints to the application; docs/runs.md describes them."""

    def add(method: str, path: str, endpoint: Endpoint, name: str = "") -> None:
        async def answer(request: Request) -> Response:
            return await answered(request, endpoint(request, runtime(request)))

        add_route(app, method, path, answer, endpoint, schemas.RUNS.get(name))

    add("GET", "/runs", _list, "list")
    add("POST", "/runs", _start, "start")
    add("GET", "/runs/{run_id}", _show, "show")
    add("GET", "/runs/{run_id}/tasks", _tasks, "tasks")
    add("GET", "/runs/{run_id}/tasks/{task}/picture", _picture)
    add("GET", "/runs/{run_id}/undo", _with_headers(undo.ask), "undo")
    add("POST", "/runs/{run_id}/undo", _with_headers(undo.undo), "do undo")
    verifications = Verifications()
    add("GET", "/runs/{run_id}/verify", _with_headers(verifications.show), "verification")
    add("POST", "/runs/{run_id}/verify", _with_headers(verifications.verify), "verify")
    add("GET", "/runs/{run_id}/review", _with_headers(review.show), "review")
    add("POST", "/runs/{run_id}/review", _with_headers(review.judge), "judge")
    add("GET", "/runs/{run_id}/review/accept", _with_headers(review.ask), "acceptance")
    add("POST", "/runs/{run_id}/review/accept", _with_headers(review.accept), "accept")
    add("POST", "/runs/{run_id}/{action}", _steer, "steer")


def add_route(
    app: FastAPI,
    method: str,
    path: str,
    answer: Callable[[Request], Awaitable[Response]],
    endpoint: Callable[..., object],
    described: dict[str, Any] | None,
) -> None:
    """Add a route, on the OpenAPI page with the docstring of ``endpoint`` where it is ``described``."""
    answer.__name__, answer.__doc__ = f"{endpoint.__module__.rpartition('.')[2]}{endpoint.__name__}", endpoint.__doc__
    given = described or {"include_in_schema": False, "response_model": None}
    app.add_api_route(path, answer, methods=[method], **given)


def _with_headers(endpoint: Endpoint) -> Endpoint:
    @functools.wraps(endpoint)
    async def answer(request: Request, runtime: RunsRuntime) -> Response:
        response = await endpoint(request, runtime)
        response.headers.update(PAGE_HEADERS)
        return response

    return answer


async def _list(request: Request, runtime: RunsRuntime) -> Response:
    """The newest runs; of one project with ``?project=``."""
    asked = wants_page(request) and "new" in request.query_params  # the form's fields are none of the list's
    project, limit = number_of(request, "project"), None if asked else number_of(request, "limit", 50)
    seen = await asyncio.to_thread(_seen_all, runtime.ledger, project, min(limit or 50, _MAX_LIMIT))
    if not wants_page(request):
        return JsonResponse({"runs": [_json(one) for one in seen]})
    return await _list_page(runtime, seen, project, await _form(runtime, typed_of(request.query_params), asked))


async def _list_page(
    runtime: RunsRuntime, seen: Sequence[RunView], project: int | None, form: Form | None, status: int = 200
) -> Response:
    notices = await _notices(runtime, [one.run for one in seen])
    return _page(list_page(seen, notices, project, form), status)


async def _form(runtime: RunsRuntime, typed: Mapping[str, str], wanted: bool) -> Form | None:
    """The form with what was typed; None where no run can be begun."""
    if runtime.choices is None:
        return None
    project = number_in(typed, "project")
    offered = await runtime.choices.offered(project)
    return Form(offered, typed, project if project in offered.projects else None, wanted)


async def _start(request: Request, runtime: RunsRuntime) -> Response:
    """Start a run, or join the one of the same model version that is under way on the project."""
    if runtime.pictures is None:
        return _refused(request, 503, *_NOT_CONNECTED)
    given = await parse_fields(request)
    try:
        return await _begin(request, runtime, given)
    except _RAISED as error:
        if not wants_page(request):
            raise
        return await _form_again(runtime, given, error)


async def _form_again(runtime: RunsRuntime, given: Mapping[str, Any], error: Exception) -> Response:
    """The page with the form as it was sent, and why it was refused."""
    status, cure = _refusal(error)
    field, text = wrong_field(error)
    form = await _form(runtime, typed_of(given), wanted=True)
    seen = await asyncio.to_thread(_seen_all, runtime.ledger, None, 50)
    told = form and replace(form, refused=text, cure=cure, wrong=field)
    return await _list_page(runtime, seen, None, told, status)


async def _begin(request: Request, runtime: RunsRuntime, given: dict[str, Any]) -> Response:
    wanted, dry_run = run_request_of(given)
    if not dry_run:
        told = wanted.model_dump(mode="json", exclude_defaults=True, exclude={"project"})
        await note(request, "start", f"project {wanted.project}" + (f": {dump(told)}" if told else ""))
    starting = asyncio.to_thread(runtime.runs.start, wanted, dry_run=dry_run, stopping=runtime.stopping)
    work = asyncio.create_task(starting)
    work.add_done_callback(functools.partial(_remember, runtime))
    if not (await asyncio.wait([work], timeout=_LISTING_SECONDS))[0]:  # a large project; it goes on without us
        _listings.add(work)
        work.add_done_callback(_listed)
        return await _still_listing(request, runtime, wanted.project)
    started = work.result()
    if wants_page(request) and started.run is not None:
        return RedirectResponse(f"runs/{started.run.id}", 303, headers=PAGE_HEADERS)
    seen = None if started.run is None else await asyncio.to_thread(_seen, runtime.ledger, started.run)
    answer = {
        "run": None if seen is None else _json(seen),
        "joined": started.joined,
        "count": started.count,
        "warnings": list(started.warnings),
    }
    return JsonResponse(answer, 200 if started.joined or started.run is None else 201)


def _remember(runtime: RunsRuntime, work: asyncio.Task[Started]) -> None:
    """Keep what the JSON says beside the run, for the run's page."""
    started = None if work.cancelled() or work.exception() else work.result()
    if started is not None and started.run is not None:
        joined = ("This run was under way already; no second one was begun.",) if started.joined else ()
        runtime.remarks[started.run.id] = (*joined, *started.warnings)


async def _still_listing(request: Request, runtime: RunsRuntime, project: int) -> Response:
    newest = await asyncio.to_thread(runtime.ledger.runs, project, 1)
    run = next((run for run in newest if run.state is RunState.PREPARING), None)
    if wants_page(request):
        return RedirectResponse("runs" if run is None else f"runs/{run.id}", 303, headers=PAGE_HEADERS)
    seen = None if run is None else await asyncio.to_thread(_seen, runtime.ledger, run)
    answer = {"run": None if seen is None else _json(seen), "joined": False, "count": None}
    return JsonResponse({**answer, "warnings": ["the project's tasks are still being listed; see GET /runs"]}, 202)


def _listed(work: asyncio.Task[Started]) -> None:
    _listings.discard(work)
    error = None if work.cancelled() else work.exception()
    if error is not None:
        _log.warning("a run could not be made: %s", error)


async def _show(request: Request, runtime: RunsRuntime) -> Response:
    """A run and its progress."""
    run_id = request.path_params["run_id"]
    seen = await asyncio.to_thread(lambda: _seen(runtime.ledger, runtime.ledger.get(run_id)))
    if not wants_page(request):
        return JsonResponse(_json(seen))
    state, after = state_of(request), number_of(request, "after", 0) or 0
    failures = await asyncio.to_thread(runtime.ledger.records, run_id, TaskState.FAILED, 0, _FAILURES)
    by_doubt = order_of(request) == "doubt"
    if by_doubt:
        shown = await asyncio.to_thread(runtime.doubtful, run_id, after, PAGE + 1)
    else:
        shown = await asyncio.to_thread(runtime.ledger.records, run_id, state, after, PAGE + 1)
    page = run_page(
        seen,
        failures,
        shown,
        [*await _notices(runtime, [seen.run]), *map(Notice, runtime.remarks.get(run_id, ()))],
        state=state,
        after=after,
        by_doubt=by_doubt,
        tasks_address=runtime.tasks_address,
        pictures=runtime.pictures is not None and seen.run.spec.kind is RunKind.PREDICT,
    )
    return _page(page)


async def _tasks(request: Request, runtime: RunsRuntime) -> Response:
    """Tasks of a run by id: ``?state=failed&after=0&limit=100``; ``next`` is the next ``after``, or null.

    With ``?order=doubt`` the annotated ones, the lowest scores first; ``after`` is then how many to leave out.
    """
    run_id = request.path_params["run_id"]
    state, after = state_of(request), number_of(request, "after", 0) or 0
    limit = min(number_of(request, "limit", 100) or 100, _MAX_LIMIT)
    if order_of(request) == "doubt":
        await asyncio.to_thread(runtime.ledger.get, run_id)
        least = await asyncio.to_thread(runtime.doubtful, run_id, after, limit)
        beyond = after + len(least) if len(least) == limit else None
        return JsonResponse({"tasks": [record_json(record) for record in least], "next": beyond})
    found = await asyncio.to_thread(runtime.ledger.records, run_id, state, after, limit)
    following = found[-1].task if len(found) == limit else None
    return JsonResponse({"tasks": [record_json(record) for record in found], "next": following})


async def _picture(request: Request, runtime: RunsRuntime) -> Response:
    """A small JPEG of a task's image with its prediction."""
    run_id, task = request.path_params["run_id"], whole_number("task", request.path_params["task"])

    def look_up() -> tuple[Run | None, bool]:
        run = runtime.ledger.get(run_id)
        record = next((r for r in runtime.ledger.records(run_id, None, task - 1, 1) if r.task == task), None)
        return (run, record.state is TaskState.SKIPPED) if record else (None, False)

    run, anew = await asyncio.to_thread(look_up)
    headers = {**PAGE_HEADERS, **({} if anew else {"Cache-Control": "private, max-age=300"})}
    if run is None or runtime.pictures is None or run.spec.kind is not RunKind.PREDICT:
        return Response(no_picture("no such task"), 404, PAGE_HEADERS, media_type="image/svg+xml")
    try:
        data = await runtime.pictures.picture(run.spec, task, anew=anew)
    except PictureError as error:
        return Response(no_picture(str(error)), 404, PAGE_HEADERS, media_type="image/svg+xml")
    return Response(data, 200, headers, media_type="image/jpeg")


async def _steer(request: Request, runtime: RunsRuntime) -> Response:
    """``cancel``, ``resume`` or ``retry`` (the failed tasks)."""
    run_id, action = request.path_params["run_id"], request.path_params["action"]
    runs, ledger = runtime.runs, runtime.ledger
    steps: Mapping[str, Callable[[str], object]] = {"cancel": ledger.cancel, "resume": runs.resume, "retry": runs.retry}
    if action not in steps:
        return _refused(
            request,
            404,
            f"there is no action '{action[:40]}'",
            "the actions are cancel, resume, retry, undo and verify",
        )
    await note(request, action, f"run {run_id}")
    await asyncio.to_thread(steps[action], run_id)
    if wants_page(request):
        return RedirectResponse(f"../{run_id}", 303, headers=PAGE_HEADERS)
    seen = await asyncio.to_thread(lambda: _seen(ledger, ledger.get(run_id)))
    return JsonResponse(_json(seen))


def _seen(ledger: Ledger, run: Run) -> RunView:
    return RunView(run, ledger.progress(run.id))


def _json(view: RunView) -> dict[str, Any]:
    return run_json(view.run, view.progress)


def _seen_all(ledger: Ledger, project: int | None, limit: int) -> list[RunView]:
    return [_seen(ledger, run) for run in ledger.runs(project, limit)]


async def _notices(runtime: RunsRuntime, runs: Sequence[Run]) -> list[Notice]:
    """What keeps these runs, or new ones, from going on."""
    notices = []
    if runtime.pictures is None:
        notices.append(Notice(". ".join(text[0].upper() + text[1:] for text in _NOT_CONNECTED) + "."))
    workers, suits = runtime.workers, runtime.suits
    if workers is not None and (not runs or any(run.finished_at is None for run in runs)):
        try:
            if await asyncio.to_thread(workers) == 0:
                notices.append(Notice("No worker is there to do the work. Start one: int-backend worker.", bad=True))
        except QueueError as error:
            notices.append(Notice(str(error), bad=True))
    for run in runs:
        if run.state is RunState.ACTIVE and suits is not None and not await asyncio.to_thread(suits, run.id):
            text = (
                f"Run {run.id} waits for the models and settings that it was made with ({run.spec.model_version}); "
                "this backend has others. Start it with those, or cancel the run and begin a new one."
            )
            notices.append(Notice(text, bad=True))
    return notices


# --- answers


def _page(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, headers=PAGE_HEADERS)


def _refused(request: Request, status: int, text: str, cure: str) -> Response:
    if not wants_page(request):
        return error_response(status, text, cure)
    path = request.url.path
    root = "../" * next((path.partition(top)[2] for top in ("/runs", "/projects") if top in path), "").count("/")
    return _page(error_page(status, text[:1].upper() + text[1:], cure, root), status)


async def answered(request: Request, answer: Awaitable[Response]) -> Response:
    """The answer, or the refusal that fits what was raised: a page for people, JSON for programs."""
    try:
        return await answer
    except _RAISED as error:
        status, cure = _refusal(error)
        return _refused(request, status, str(error), cure)


def _refusal(error: Exception) -> tuple[int, str]:
    """The status of what was raised, and what to do."""
    status, cure = next((status, cure) for kind, status, cure in _REFUSALS if isinstance(error, kind))
    if isinstance(error, LabelStudioError) and error.status == 404:
        status = 404  # Label Studio is there; what was asked for is not
    return status, cure
