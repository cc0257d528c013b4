"""Answers of the outermost layer: an endpoint that fails, headers of every answer, strict JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from ml_backend.api.middleware import ErrorGuard, JsonResponse, dump, error_response

EVERYWHERE = {(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")}


def answer(app: Any, kind: str = "http") -> list[dict[str, Any]]:
    """What is sent for one request."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(ErrorGuard(app)({"type": kind, "method": "POST", "path": "/predict"}, receive, send))
    return sent


def test_an_endpoint_that_raises_is_a_500_with_an_id_that_finds_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("secret of the patient")

    with caplog.at_level(logging.ERROR):
        start, body = answer(broken)
    assert start["status"] == 500
    assert (b"content-type", b"application/json") in start["headers"]
    told = json.loads(body["body"])
    assert told["error"] == "something went wrong in the backend"
    assert "secret" not in body["body"].decode()
    (record,) = caplog.records
    assert record.getMessage() == f"POST /predict failed, incident {told['id']}"
    assert told["cure"] == f"look for {told['id']} in its log"
    assert record.exc_info
    assert str(record.exc_info[1]) == "secret of the patient"


def test_an_answer_that_has_begun_is_not_answered_twice(caplog: pytest.LogCaptureFixture) -> None:
    async def late(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    with caplog.at_level(logging.ERROR):
        (start,) = answer(late)
    assert start["status"] == 200
    assert "failed, incident" in caplog.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], EVERYWHERE),
        ([(b"x-other", b"1")], EVERYWHERE | {(b"x-other", b"1")}),
        (
            [(b"cross-origin-resource-policy", b"cross-origin")],
            {(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"cross-origin")},
        ),
    ],
)
def test_every_answer_says_who_may_use_it_once(
    given: list[tuple[bytes, bytes]], expected: set[tuple[bytes, bytes]]
) -> None:
    async def plain(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": given})
        await send({"type": "http.response.body", "body": b"x"})

    start, body = answer(plain)
    assert sorted(start["headers"]) == sorted(expected)
    assert body == {"type": "http.response.body", "body": b"x"}


def test_what_is_no_request_is_left_alone() -> None:
    async def lifespan(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "headers": []})
        raise RuntimeError("stops the server")

    with pytest.raises(RuntimeError, match="stops the server"):
        answer(lifespan, kind="lifespan")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_is_strict(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump({"score": number})


def test_json_is_ascii_and_short_and_text_is_json_already() -> None:
    assert JsonResponse({"name": "Tier ü \ud800"}).body == b'{"name":"Tier \\u00fc \\ud800"}'
    assert JsonResponse('{"a": 1}').body == b'{"a": 1}'
    assert JsonResponse({}).media_type == "application/json"


def test_errors_have_an_id_of_their_own_or_that_of_an_incident() -> None:
    first, second = (json.loads(bytes(error_response(404, "not here", "look").body)) for _ in range(2))
    assert first["id"] != second["id"]
    assert {first["error"], first["cure"]} == {"not here", "look"}
    known = error_response(503, "away", "wait", incident="abc", headers={"Retry-After": "3"})
    assert (known.status_code, known.headers["retry-after"], json.loads(bytes(known.body))["id"]) == (503, "3", "abc")
