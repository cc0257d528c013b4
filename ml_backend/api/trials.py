"""``/projects/ID/try``: begin a trial, watch it, look at its page. One per project; the last few are kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from int_model.core.caches import LruCache
from int_model.html.environment import render
from int_model.strategies.registry import STRATEGIES
from ml_backend.api.middleware import JsonResponse, error_response
from ml_backend.api.run_requests import parse_fields, wants_page, whole_number
from ml_backend.context import AppContext
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.labelstudio.wire import RequestError
from ml_backend.trial.page import render_page
from ml_backend.trial.trial import BESIDE_ANNOTATORS, run_trial
from ml_backend.trial.types import Side, TrialRequest

_MAX_BODY = 64 * 1024
_KEPT = 8
_REFRESH_SECONDS = 3
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Of the result: the page's own policy narrows the scripts down to the digest of its one script."""


@dataclass(frozen=True, slots=True)
class _Result:
    """A trial's page, and its figures; the pictures themselves are not kept."""

    page: str
    figures: dict[str, Any]


@dataclass(slots=True, eq=False)
class _Begun:
    request: TrialRequest
    total: int
    done: int = 0
    work: asyncio.Task[_Result] | None = None

    @property
    def busy(self) -> bool:
        return self.work is None or not self.work.done()

    @property
    def result(self) -> _Result | BaseException:
        """Of a trial that is done."""
        assert self.work is not None  # noqa: S101 for the type checker: it is done
        if self.work.cancelled():
            return asyncio.CancelledError("it was stopped")
        return self.work.exception() or self.work.result()


@dataclass(slots=True, eq=False)
class Trials:
    """The trials of a running backend; lives in one event loop."""

    _kept: LruCache[int, _Begun] = field(default_factory=lambda: LruCache(_KEPT))

    async def show(self, request: Request, context: AppContext, _client: LabelStudioClient) -> Response:
        """The form, the progress, or the result; with ``?new=1`` the form in any case."""
        number = _number(request)
        begun = self._kept.get(number)
        if not wants_page(request):
            return _as_json(begun)
        if begun is None or request.query_params.get("new"):
            return _form(context, TrialRequest(number, (Side(),)))
        if begun.busy:
            return HTMLResponse(_page("trying.html.j2", context, begun.request, begun=begun, busy=True))
        result = begun.result
        if isinstance(result, BaseException):
            return _form(context, begun.request, str(result))
        return HTMLResponse(result.page, headers={"Content-Security-Policy": _POLICY})

    async def begin(self, request: Request, context: AppContext, _client: LabelStudioClient) -> Response:
        """Begin a trial in place of the project's last one."""
        number = _number(request)
        wanted = _parse(number, await parse_fields(request, _MAX_BODY))
        before = self._kept.get(number)
        if before is not None and before.work is not None:
            before.work.cancel()
        begun = self._kept[number] = _Begun(wanted, wanted.images)
        begun.work = asyncio.create_task(_run(context, begun))
        begun.work.add_done_callback(lambda work: work.cancelled() or work.exception())  # the page tells it
        if wants_page(request):
            return RedirectResponse("try", 303)
        return JsonResponse({"state": "running", "done": 0, "total": wanted.images}, 202)


async def _run(context: AppContext, begun: _Begun) -> _Result:
    def progress(done: int, total: int) -> None:
        begun.done, begun.total = done, total

    trial = await run_trial(context, begun.request, progress, BESIDE_ANNOTATORS)
    page = await asyncio.to_thread(render_page, trial, f"../{begun.request.project}")
    return _Result(page, trial.as_json())


def _as_json(begun: _Begun | None) -> Response:
    if begun is None:
        return error_response(404, "nothing was tried on this project yet", "POST the sides to this address")
    if begun.busy:
        return JsonResponse({"state": "running", "done": begun.done, "total": begun.total})
    result = begun.result
    if isinstance(result, BaseException):
        return error_response(502, str(result), "see the message")
    return JsonResponse({"state": "done", **result.figures})


def _form(context: AppContext, wanted: TrialRequest, refused: str = "") -> Response:
    return HTMLResponse(_page("try.html.j2", context, wanted, refused=refused))


def _page(template: str, context: AppContext, wanted: TrialRequest, **values: Any) -> str:
    own = context.facilities.identity.strategy
    sides = [*wanted.sides, Side(), Side()][:2]
    given = {"busy": False, "wanted": wanted, "sides": sides, "strategies": list(STRATEGIES), "own": own} | values
    return render("ml_backend.api", template, root="../../", refresh=_REFRESH_SECONDS, **given)


def _number(request: Request) -> int:
    return whole_number("the project's id", request.path_params["project"])


def _parse(project: int, given: Mapping[str, Any]) -> TrialRequest:
    """A trial from JSON (``sides``: objects of ``prompt`` and ``strategy``) or from the form's two sides."""
    listed = given.get("sides")
    if listed is None:
        pairs = [(given.get(f"prompt{i}", ""), given.get(f"strategy{i}", "")) for i in (1, 2)]
        second = pairs[1] if given.get("compare") in ("true", True) else None
        listed = [{"prompt": p, "strategy": s} for p, s in (pairs[0], *([second] if second else []))]
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise RequestError("sides needs to be a list of objects with prompt and strategy")
    try:
        sides = tuple(Side(_text(entry, "prompt"), _strategy(_text(entry, "strategy"))) for entry in listed)
        view = given.get("view")
        return TrialRequest(
            project,
            sides,
            whole_number("images", given.get("images", 10)),
            None if view is None else whole_number("view", view),
            given.get("annotated") in ("true", True),
            whole_number("seed", given.get("seed", 0)),
        )
    except ValueError as error:
        raise RequestError(str(error)) from None


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name) or ""
    if not isinstance(value, str) or len(value) > 200:
        raise RequestError(f"{name} needs to be a text of at most 200 characters")
    return " ".join(value.split())


def _strategy(name: str) -> str:
    return STRATEGIES.named(name).name if name else ""
