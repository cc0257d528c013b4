"""``/runs/ID/review`` over HTTP: pages for people, JSON for programs."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from int_model.html.environment import render
from ml_backend.api.access import WHO
from ml_backend.api.audit import note
from ml_backend.api.middleware import JsonResponse
from ml_backend.api.review.acceptance import Acceptance, Accepted
from ml_backend.api.run_requests import number_of, parse_fields, wants_page, whole_number
from ml_backend.api.runs_runtime import RunsRuntime
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.wire import RequestError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.rows import key_of
from ml_backend.runs.types import Run
from ml_backend.storage.reviews import LONGEST_NOTE, Reviewed, Verdict

PAGE = 24
"""Images on a page."""

_MOST = 1000
_MAX_BODY = 8 * 1024
_LEAST = 0.9
_at_work: set[str] = set()
"""Runs whose predictions are being accepted."""


async def show(request: Request, runtime: RunsRuntime) -> Response:
    """A run's images to look at: by doubt, or with ``against`` another run where both disagree most."""
    run_id, against = request.path_params["run_id"], request.query_params.get("against") or ""
    after, limit = number_of(request, "after", 0) or 0, min(number_of(request, "limit", PAGE) or PAGE, _MOST)

    def look() -> tuple[Run, Run | None, list[Run], list[Reviewed], dict[str, int]]:
        ledger = runtime.ledger
        run, other = ledger.get(run_id), ledger.get(against) if against else None
        others = [one for one in ledger.runs(run.spec.project) if one.id != run.id and one.spec.kind is run.spec.kind]
        key = key_of(run.id)
        found = runtime.reviews.page(key, after, limit + 1, None if other is None else key_of(other.id))
        return run, other, others, found, runtime.reviews.counts(key)

    run, other, others, found, counts = await asyncio.to_thread(look)
    following = after + limit if len(found) > limit else None
    if not wants_page(request):
        return JsonResponse({"images": [asdict(one) for one in found[:limit]], "counts": counts, "next": following})
    values: dict[str, Any] = {
        "run": run, "other": other, "others": others, "shown": found[:limit], "counts": counts, "after": after,
        "more": following, "pictures": runtime.pictures is not None, "least": _LEAST, "longest": LONGEST_NOTE,
        "address": runtime.tasks_address.format,
    }  # fmt: skip
    return HTMLResponse(render("ml_backend.api", "review.html.j2", root="../../", busy=False, **values))


async def judge(request: Request, runtime: RunsRuntime) -> Response:
    """Keep what a person thinks of an image: accept, skip, wrong, with a note; "" takes it back."""
    run_id, given = request.path_params["run_id"], await parse_fields(request, _MAX_BODY)
    against, after = given.pop("against", ""), given.pop("after", 0)
    if unknown := set(given) - {"task", "verdict", "note"}:
        raise RequestError(f"{min(unknown)[:40]}: there is no such field; task, verdict and note are")
    task = whole_number("task", given.get("task", ""))
    verdict, text = given.get("verdict", ""), given.get("note", "")
    if verdict not in ("", *Verdict):
        raise RequestError(f"verdict needs to be one of {', '.join(Verdict)}, or empty")
    if not isinstance(text, str) or len(text) > LONGEST_NOTE:
        raise RequestError(f"note needs to be a text of at most {LONGEST_NOTE} characters")
    chosen = Verdict(verdict) if verdict else None
    await note(request, "review", f"run {run_id}, task {task}: {verdict or 'taken back'}")
    who = str(request.scope.get(WHO, "anyone"))
    run = await asyncio.to_thread(runtime.ledger.get, run_id)
    if not await asyncio.to_thread(runtime.reviews.put, key_of(run.id), task, chosen, text.strip(), who):
        raise LedgerError(f"run {run_id} has no annotated image of task {task}")
    if wants_page(request):
        query = "&".join(f"{name}={whole_number(name, value)}" for name, value in
                         (("against", against), ("after", after)) if value)  # fmt: skip
        return RedirectResponse(f"review{'?' if query else ''}{query}#images", 303)
    return JsonResponse({"task": task, "verdict": verdict, "note": text.strip()})


async def ask(request: Request, runtime: RunsRuntime) -> Response:
    """What accepting by score would do now: a page with a button, or JSON."""
    run_id, least = request.path_params["run_id"], _score(request.query_params.get("least", _LEAST))
    run = await asyncio.to_thread(runtime.ledger.get, run_id)
    counted = await asyncio.to_thread(_acceptance(runtime).count, run_id, least)
    if wants_page(request):
        values = {"run": run, "counted": counted, "least": least}
        return HTMLResponse(render("ml_backend.api", "accept.html.j2", root="../../../", busy=False, **values))
    return JsonResponse(_json(counted, least))


async def accept(request: Request, runtime: RunsRuntime) -> Response:
    """Make annotations of the predictions with at least that score, each marked as accepted by its score."""
    run_id, given = request.path_params["run_id"], await parse_fields(request, _MAX_BODY)
    if "least" not in given or set(given) - {"least"}:
        raise RequestError("say the least score, and nothing else: least")
    least, acceptance = _score(given["least"]), _acceptance(runtime)
    if run_id in _at_work:
        raise LedgerError(f"predictions of run {run_id} are being accepted; look again when that is done")
    await note(request, "accept", f"run {run_id}: predictions with a score of at least {least:g}")
    _at_work.add(run_id)
    try:
        made = await asyncio.to_thread(acceptance.accept, run_id, least)
    finally:
        _at_work.discard(run_id)
    if wants_page(request):
        return RedirectResponse("../review", 303)
    return JsonResponse(_json(made, least))


def _acceptance(runtime: RunsRuntime) -> Acceptance:
    if runtime.client is None:
        raise LabelStudioError("predictions cannot be accepted: the backend does not know Label Studio")
    return Acceptance(runtime.client, runtime.ledger, runtime.reviews)


def _score(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RequestError("least needs to be a number from 0 to 1") from None


def _json(accepted: Accepted, least: float) -> dict[str, Any]:
    return {"least": least, **asdict(accepted)}
