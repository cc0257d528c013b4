"""``/audit``: who did what, for people and programs; and how the endpoints write into it."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from int_model.html.environment import render
from ml_backend.api.access import WHO
from ml_backend.api.middleware import PAGE_HEADERS, JsonResponse, error_response
from ml_backend.api.run_requests import number_of, wants_page
from ml_backend.api.schemas import AUDIT
from ml_backend.storage.audit import Audit
from ml_backend.storage.database import StoreError

_PAGE = 100
_MOST = 1000


async def note(request: Request, action: str, what: str) -> None:
    """Write down what is about to be done, and who asked for it. Raises ``StoreError``; then nothing may be done."""
    audit: Audit = request.app.state.audit
    place = request.client.host if request.client is not None else ""
    await asyncio.to_thread(audit.note, request.scope.get(WHO, "anyone"), place, action, what)


def add_audit(app: FastAPI) -> None:
    """Add the page: ``?limit=`` entries, ``?before=`` an id."""

    async def audit(request: Request) -> Response:
        """Who asked for what, newest first."""
        limit, before = number_of(request, "limit", _PAGE) or _PAGE, number_of(request, "before")
        log: Audit = request.app.state.audit
        try:
            found = await asyncio.to_thread(log.entries, min(limit, _MOST), before)
        except StoreError as error:
            return error_response(503, "the log cannot be read", str(error))
        older = found[-1].id if len(found) == min(limit, _MOST) else None
        if wants_page(request):
            page = render("ml_backend.api", "audit.html.j2", root="", busy=False, refresh=0, entries=found, older=older)
            return HTMLResponse(page, headers=PAGE_HEADERS)
        rows = [
            {"id": e.id, "at": e.at.isoformat(), "who": e.who, "place": e.place, "action": e.action, "what": e.what}
            for e in found
        ]
        return JsonResponse({"entries": rows, "next": older})

    app.add_api_route("/audit", audit, methods=["GET"], **AUDIT)
