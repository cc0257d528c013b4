"""Bodies that cost more than they weigh, sent to a backend in a process of its own: memory, /health, refusals."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ml_backend.json_pieces import TooLargeError, parse
from ml_backend.labelstudio.wire import RequestError
from tests.support.harness import GOOD, POLYGONS
from tests.support.interpreter import longest_hold
from tests.support.served import Served, pulse, served

MEGABYTE = 1024 * 1024
CAP, TOGETHER = 24 * MEGABYTE, 48 * MEGABYTE
NESTED = b"[" + b"[]," * (16 * MEGABYTE // 3) + b"[]]"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data"), max_body_bytes=CAP, max_bodies_bytes=TOGETHER) as made:
        made.client.get("/health")
        yield made


def post(running: Served, path: str, body: bytes) -> httpx.Response:
    with httpx.Client(base_url=running.client.base_url, timeout=120, trust_env=False) as client:
        return client.post(path, content=body, headers=JSON)


@pytest.mark.parametrize("path", ["/webhook", "/predict"])
def test_16_mb_of_nested_lists_leave_health_alone(running: Served, path: str) -> None:
    begun = time.thread_time()
    json.loads(NESTED)
    naive = time.thread_time() - begun  # what the interpreter would be held for, on this machine
    running.forget_peak()
    before = running.resident
    body = NESTED[: 15 * MEGABYTE] if path == "/webhook" else NESTED
    answers: list[httpx.Response] = []
    most = max(0.5 * naive, 0.15)
    with pulse(running) as beat:
        assert running.held(lambda: answers.append(post(running, path, body)), most) < most
    assert {answer.status_code for answer in answers} == {413}
    assert running.peak - before < 4 * len(body) / MEGABYTE  # the values would be 26 times as much
    assert len(beat.seconds) > 3


def test_eight_bodies_at_the_cap_at_once_stay_within_the_budget(running: Served) -> None:
    body = b'{"tasks": [], "x": "' + b"y" * (CAP - 100) + b'"}'
    running.forget_peak()
    before = running.resident
    with pulse(running) as beat:
        answers = running.together(*[lambda: post(running, "/predict", body)] * 8)
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 503}
    assert 200 in statuses
    assert all(a.headers["retry-after"] == "5" for a in answers if a.status_code == 503)
    assert running.peak - before < 4 * TOGETHER / MEGABYTE
    assert beat.seconds
    assert post(running, "/predict", body).status_code == 200  # nothing of the budget is lost


def test_10_mb_of_extra_params_are_refused(running: Served) -> None:
    before = running.client.get("/versions").json()
    body = json.dumps({"project": "7", "schema": POLYGONS, "extra_params": "x" * 10_000_000}).encode()
    assert post(running, "/setup", body).status_code == 413
    assert running.client.get("/versions").json() == before


def test_what_is_never_read_of_tasks_costs_nothing(running: Served) -> None:
    """Label Studio sends drafts and annotations along: a megabyte for each click."""
    heavy = {"result": [{"value": {"rle": [7] * 1_000_000}}] * 5}
    task = {"id": 1, "data": GOOD, "annotations": [heavy], "drafts": [], "predictions": [heavy]}
    body = json.dumps({"tasks": [task], "label_config": POLYGONS}, separators=(",", ":")).encode()
    assert len(body) > 19_000_000
    running.forget_peak()
    before = running.resident
    answer = post(running, "/predict", body)
    assert answer.json()["results"][0]["result"]
    assert running.peak - before < 4 * len(body) / MEGABYTE


@pytest.fixture
def short_turns() -> Iterator[None]:
    """As the service has them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


# --- the parser -------------------------------------------------------------------------------------------------------

NAMES = st.text(max_size=3) | st.sampled_from(["tasks", "annotations", "data", "drafts"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | NAMES | st.just('"]')
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)
NEAR = st.fixed_dictionaries({"tasks": st.lists(st.dictionaries(NAMES, VALUES))})


def without_unread(content: Any) -> Any:
    """The content with what `parse` leaves out."""
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list):
        return content
    unread = ("annotations", "predictions", "drafts")
    tasks = [
        {k: None if k in unread and isinstance(v, list | dict) else v for k, v in task.items()}
        if isinstance(task, dict)
        else task
        for task in content["tasks"]
    ]
    return {**content, "tasks": tasks}


@given(VALUES | NEAR, st.booleans(), st.integers(0, 20), st.sampled_from([None, 1]))
def test_it_reads_what_json_reads(content: Any, escaped: bool, piece: int, indent: int | None) -> None:
    text = json.dumps(content, ensure_ascii=escaped, indent=indent).encode("utf-8", "surrogatepass")
    try:
        wanted = json.loads(text)
    except ValueError:  # lone surrogates that are not escaped
        with pytest.raises(RequestError):
            parse(bytearray(text), piece)
        return
    kept, found = parse(bytearray(text), piece)
    assert found == without_unread(wanted)
    assert kept <= len(text) + 200


@given(st.text('[]{},:"a\\1 \n', max_size=14), st.integers(0, 5))
@example('{"a": 1, "a": {"b": 1, "c": [2, 3]}, "a": [4, 5], "d": 6}', 0)
@example("[1,,2]", 0)
@example("[1,]", 0)
@example("[,1]", 0)
@example("[[1, 2], [{}, 3]], [4, 5]", 0)
@example('{"a": [1, 2}, 3]', 0)
def test_it_refuses_what_json_refuses(text: str, piece: int) -> None:
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(RequestError):
            parse(bytearray(text.encode()), piece)
    else:
        assert parse(bytearray(text.encode()), piece)[1] == wanted


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"0.123456789012345, " * 800_000 + b"1]",
        b'{"points": [' + b"[12.345, 67.89], " * 120_000 + b"[]]}",
        b'{"a": {"b": [' + b"0.123456789012345, " * 800_000 + b' "g": 1]}}',
    ],
    ids=["numbers", "points", "no JSON"],
)
@pytest.mark.usefixtures("short_turns")
def test_large_bodies_are_parsed_without_holding_the_interpreter(text: bytes) -> None:
    """Against the JSON parser, which holds it from a text's first byte to its last."""
    body = bytearray(text)
    wanted: Any = None
    begun = time.thread_time()
    with contextlib.suppress(ValueError):
        wanted = json.loads(body)
    naive = time.thread_time() - begun
    found: list[Any] = []

    def read() -> None:
        with contextlib.suppress(RequestError):
            found.append(parse(body)[1])

    gc.disable()  # it looks at what other tests left, too
    try:
        held, _ = longest_hold(read, 2)
    finally:
        gc.enable()
    assert held < 0.25 * naive
    assert found == ([] if wanted is None else 2 * [without_unread(wanted)])


@pytest.mark.usefixtures("short_turns")
def test_a_text_of_nothing_but_backslashes_is_refused_without_holding_the_interpreter() -> None:
    body = bytearray(b'["' + b"\\n" * 12_000_000 + b'"]')
    begun = time.thread_time()
    json.loads(body)
    naive = time.thread_time() - begun

    def refused() -> None:
        with pytest.raises(TooLargeError, match="backslashes"):
            parse(body)

    held, _ = longest_hold(refused)
    assert held < 0.25 * naive


@pytest.mark.parametrize("length", [999, 1000, 1001, 5000, 2_000_000])
@pytest.mark.parametrize("end", ["", '\\"', "\\\\", "\\u00e9", "ä"])
def test_long_texts_end_where_they_end(length: int, end: str) -> None:
    for inner in ("x" * length + end, (end or "y") * (length // 10) + end, "x" * length + end * 101 + "[,]"):
        text = f'["{inner}", "{inner}", {{"{inner}": 1}}]'.encode()
        assert parse(bytearray(text), 10)[1] == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b'"', b'{"a": "\\', b"]" * 5, b'{"tasks": [{"annotations": [}]}', b"[" * 500 + b"]" * 500],
)
def test_broken_texts_are_no_json(text: bytes) -> None:
    with pytest.raises(RequestError, match="not valid JSON"):
        parse(bytearray(text))


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"{}," * 500_000 + b"1]",
        b"[" + b"1," * 3_100_000 + b"1]",
        b"[" + b'"",' * 2_100_000 + b"1]",
        b'["' + "ä".encode() * 17_000_000 + b'"]',
    ],
)  # fmt: skip
def test_too_many_values_are_refused_before_they_are_made(text: bytes) -> None:
    with pytest.raises(TooLargeError):
        parse(bytearray(text))


def test_a_long_list_of_numbers_is_looked_through_without_holding_the_interpreter() -> None:
    body = bytearray(b"[" + b"128, " * 4_000_000 + b"1]")
    begun = time.thread_time()
    json.loads(body)
    naive = time.thread_time() - begun

    def refused() -> None:
        with pytest.raises(TooLargeError):
            parse(body)

    held, _ = longest_hold(refused)
    assert held < 0.25 * naive


def test_texts_that_never_end_are_read_once() -> None:
    """A quadratic scan of 100,000 opened texts would take minutes."""
    with pytest.raises(RequestError):
        parse(bytearray(b'"\\"' * 1_000_000))
