"""``/runs/ID/verify``: what Label Studio still has of a run, and doing again what it has lost."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from int_model.core.caches import LruCache
from int_model.html.environment import render
from ml_backend.api.audit import note
from ml_backend.api.middleware import JsonResponse
from ml_backend.api.run_requests import parse_fields, wants_page
from ml_backend.api.runs_runtime import RunsRuntime
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.wire import RequestError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.manager import RunsError
from ml_backend.runs.types import Run, RunKind, RunState, TaskState
from ml_backend.runs.verify import Compared, Verifying

_MAX_BODY = 8 * 1024
_WAIT = 10.0
_KEPT = 20
_SHOWN = 100
"""Tasks that are named."""

_REFRESH_SECONDS = 3
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Verification:
    """A comparison of a run with Label Studio, under way or done.

    Attributes:
        push: whether what is missing is to be done again, and what is there twice removed.
        found: what was found so far.
        pushed: tasks that are done again.
        removed: second predictions that were removed.
        at: when it was done.
        work: what does it.
    """

    push: bool
    found: Compared = field(default_factory=Compared)
    pushed: int = 0
    removed: int = 0
    at: datetime | None = None
    work: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """``running``, ``done`` or ``failed``."""
        if self.work is None or not self.work.done():
            return "running"
        return "failed" if self.work.cancelled() or self.work.exception() else "done"

    @property
    def trouble(self) -> str:
        """Why it failed, or ""."""
        return str(self.work.exception() or "") if self.work is not None and self.state == "failed" else ""

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        found = self.found
        return {
            "state": self.state,
            "looked": found.looked,
            "there": found.there,
            "missing": len(found.missing),
            "doubled": len(found.doubled),
            "deleted": found.deleted,
            "missing_tasks": list(found.missing[:_SHOWN]),
            "pushed": self.pushed,
            "removed": self.removed,
            "at": None if self.at is None else self.at.isoformat(timespec="seconds"),
            "trouble": self.trouble,
        }


class Verifications:
    """The last verification of each run; of the last runs that were asked for. Lives in one event loop."""

    def __init__(self) -> None:
        self._kept: LruCache[str, Verification] = LruCache(_KEPT)

    async def show(self, request: Request, runtime: RunsRuntime) -> Response:
        """The last verification of a run since the backend was started: under way, or what it found."""
        run = await asyncio.to_thread(runtime.ledger.get, request.path_params["run_id"])
        seen = self._kept.get(run.id)
        if not wants_page(request):
            return JsonResponse((seen or Verification(push=False)).as_json() | ({} if seen else {"state": "none"}))
        values = {"run": run, "seen": seen, "busy": seen is not None and seen.state == "running", "shown": _SHOWN}
        page = render("ml_backend.api", "verify.html.j2", root="../../", refresh=_REFRESH_SECONDS, **values)
        return HTMLResponse(page)

    def _under_way(self, run_id: str) -> Verification | None:
        seen = self._kept.get(run_id)
        return seen if seen is not None and seen.state == "running" else None

    async def verify(self, request: Request, runtime: RunsRuntime) -> Response:
        """Compare a run with Label Studio; with ``push`` do what is missing again. A large run goes on (202)."""
        run_id, sent = request.path_params["run_id"], "content-type" in request.headers
        push = _push(await parse_fields(request, _MAX_BODY)) if sent else False
        if runtime.verifying is None:
            raise LabelStudioError("runs cannot be verified: the backend does not know Label Studio")
        run = await asyncio.to_thread(runtime.ledger.get, run_id)
        if run.spec.kind is not RunKind.PREDICT:
            raise LedgerError(f"run {run_id} trains; it has no predictions to compare")
        if not self._under_way(run.id):
            await note(request, "verify", f"run {run_id}" + (": push what is missing" if push else ""))
        seen = self._under_way(run.id)  # another request may have begun it while the note was written
        if seen is None:
            seen = self._kept[run.id] = Verification(push)
            seen.work = asyncio.create_task(asyncio.to_thread(_work, runtime, runtime.verifying, run, seen))
            seen.work.add_done_callback(lambda done: _ended(run_id, done))
        elif push and not seen.push:
            raise LedgerError(f"run {run_id} is being compared; push what is missing when that is done")
        assert seen.work is not None  # noqa: S101 for the type checker: it was begun
        finished = bool((await asyncio.wait([seen.work], timeout=_WAIT))[0])
        if wants_page(request):
            return RedirectResponse("verify", 303)
        if finished:
            seen.work.result()  # what it raises becomes the answer
        return JsonResponse(seen.as_json(), 200 if finished else 202)


def _push(given: dict[str, Any]) -> bool:
    if set(given) - {"push"} or given.get("push", False) not in (True, False, "true"):
        raise RequestError("push, true or false, is the only field")
    return bool(given.get("push", False))


def _work(runtime: RunsRuntime, verifying: Verifying, run: Run, seen: Verification) -> None:
    """Compare, and mend if that was asked for. In a thread of its own."""

    def progress(found: Compared) -> None:
        seen.found = found
        if runtime.stopping():
            raise RunsError("stopped while the run was compared; verify it again")

    seen.found = verifying.compare(run.id, progress)
    if seen.push:
        seen.removed = verifying.remove_doubles(run.id, seen.found.doubled)
        if seen.found.missing:
            seen.pushed = verifying.mark_missing(run.id, seen.found.missing)
            if runtime.ledger.get(run.id).state in (RunState.STOPPED, RunState.CANCELLED):
                runtime.runs.resume(run.id)
            runtime.runs.retry(run.id, frozenset({TaskState.FAILED}))
    seen.at = datetime.now(UTC)


def _ended(run_id: str, work: asyncio.Task[None]) -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None:
        _log.warning("run %s was not verified to the end: %s", run_id, error)
