"""``/runs/ID/undo``: what taking a run back would delete, and doing it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ml_backend.api.audit import note
from ml_backend.api.middleware import JsonResponse
from ml_backend.api.run_pages import undo_page
from ml_backend.api.run_requests import wants_page
from ml_backend.api.runs_runtime import RunsRuntime
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.undo import Tally

_WAIT = 10.0
_under_way: dict[str, asyncio.Task[Tally]] = {}
_log = logging.getLogger(__name__)

Endpoint = Callable[[Request, RunsRuntime], Awaitable[Response]]


async def ask(request: Request, runtime: RunsRuntime) -> Response:
    """What would be deleted now: a page with a button, or JSON."""
    run_id = request.path_params["run_id"]
    run = await asyncio.to_thread(runtime.ledger.get, run_id)
    tally = await asyncio.to_thread(_undoing(runtime).count, run_id)
    if wants_page(request):
        return HTMLResponse(undo_page(run, tally.deleted, tally.kept, tally.gone))
    return JsonResponse(_json(tally, finished=False))


async def undo(request: Request, runtime: RunsRuntime) -> Response:
    """Delete the predictions; a second request joins the first. A large run goes on after the answer (202)."""
    run_id = request.path_params["run_id"]
    if run_id not in _under_way:
        await note(request, "undo", f"run {run_id}")
    work = _under_way.get(run_id)  # another request may have begun it while the note was written
    if work is None:
        work = _under_way[run_id] = asyncio.create_task(asyncio.to_thread(_undoing(runtime).undo, run_id))
        work.add_done_callback(lambda done: _ended(run_id, done))
    finished = bool((await asyncio.wait([work], timeout=_WAIT))[0])
    tally = work.result() if finished else Tally()  # what it raises becomes the answer
    if wants_page(request):
        return RedirectResponse(f"../{run_id}", 303)
    return JsonResponse(_json(tally, finished=finished), 200 if finished else 202)


def _undoing(runtime: RunsRuntime) -> Any:
    if runtime.undoing is None:
        raise LabelStudioError("runs cannot be undone: the backend does not know Label Studio")
    return runtime.undoing


def _json(tally: Tally, *, finished: bool) -> dict[str, Any]:
    return {"deleted": tally.deleted, "kept": tally.kept, "gone": tally.gone, "finished": finished}


def _ended(run_id: str, work: asyncio.Task[Tally]) -> None:
    del _under_way[run_id]
    error = None if work.cancelled() else work.exception()
    if error is not None:
        _log.warning("run %s was not undone to the end: %s; undo it again", run_id, error)
