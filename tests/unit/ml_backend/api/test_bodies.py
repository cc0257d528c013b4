"""Bodies at each of their limits, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from ml_backend import json_pieces
from ml_backend.api import bodies
from ml_backend.api.bodies import Bodies, Budget, TooMuchError
from ml_backend.json_pieces import TooLargeError, parse
from ml_backend.labelstudio.wire import RequestError


def parsed(content: Any) -> Any:
    return parse(bytearray(content if isinstance(content, bytes) else json.dumps(content).encode()))[1]


def task(**more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"annotations": [1], "tasks": [{"predictions": [2]}]}, **more}


def test_what_is_never_read_of_tasks_is_left_out() -> None:
    odd = {"a": [{"b": "]}\\"}], "c": "{["}
    given = {"tasks": [task(annotations=[odd], predictions={"x": odd}, drafts=[], other=[odd]), task()], "project": 7}
    kept = {"id": 1, "data": task()["data"], "annotations": None, "predictions": None, "drafts": None, "other": [odd]}
    count, content = parse(bytearray(json.dumps(given).encode()))
    assert content == {"tasks": [kept, task()], "project": 7}
    assert count < len(json.dumps(given))
    assert count == len(json.dumps(content))


@pytest.mark.parametrize(
    "given",
    [
        {"task": [task(annotations=[1])]},
        {"tasks": {"annotations": [1]}},
        {"tasks": [[{"annotations": [1]}]]},
        {"tasks": [task(annotations="text", predictions=None, drafts=3)]},
        {"x": "tasks", "annotations": [1]},
        [{"tasks": [{"annotations": [1]}]}],
        {"tasks": "x", "other": [{"annotations": [1]}]},
        {"tasks": [{"data": "annotations", "more": [1]}]},
        {},
        [],
        "text",
        7,
    ],
)
def test_everything_else_is_as_it_came(given: Any) -> None:
    text = json.dumps(given).encode()
    assert parse(bytearray(text)) == (len(text), given)


def test_a_long_name_is_no_part_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "annotations".ljust(30, "x")
    assert parsed({"tasks": [{name: [1], "drafts": [1]}]}) == {"tasks": [{name: [1], "drafts": None}]}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    given=st.lists(st.dictionaries(st.sampled_from(["id", "data", "annotations", "drafts"]), values), max_size=4),
    other=values,
    piece=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
)
def test_a_text_says_the_same_in_pieces(
    given: list[dict[str, Any]], other: Any, piece: int, indent: int | None
) -> None:
    """However small the pieces are; what is never read of tasks is left out."""
    whole = {"before": other, "tasks": given, "after": [other, 1]}
    kept = [
        {name: None if name in ("annotations", "drafts") and isinstance(value, list | dict) else value
         for name, value in one.items()}
        for one in given
    ]  # fmt: skip
    text = bytearray(json.dumps(whole, ensure_ascii=piece % 2 == 0, indent=indent).encode())
    assert parse(text, piece)[1] == whole | {"tasks": kept}


def test_a_byte_order_mark_before_a_text_says_nothing() -> None:
    assert parsed(b'\xef\xbb\xbf{"tasks": ["\xc3\xa4"]}') == {"tasks": ["ä"]}
    assert parsed('["\ufeff"]'.encode()) == ["\ufeff"]


def test_a_long_text_is_parsed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def loads(text: bytes) -> Any:
        lengths.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(json_pieces, "_loads", loads)
    content = [str(number) for number in range(1000, 3000)]
    text = json.dumps(content).encode()
    assert parse(bytearray(text), 600)[1] == content
    assert len(lengths) > len(text) / 620
    assert max(lengths) < 620


@pytest.mark.parametrize(("depth", "good"), [(200, True), (201, False)])
def test_two_hundred_levels_are_the_most(depth: int, good: bool) -> None:
    text = b"[" * depth + b"]" * depth
    if good:
        assert parsed(text)
    else:
        with pytest.raises(RequestError, match="at most 200 levels"):
            parsed(text)


@pytest.mark.parametrize(
    ("limit", "most", "given", "good"),
    [
        ("_MAX_CONTAINERS", 4, [[], [], []], True),
        ("_MAX_CONTAINERS", 4, [[], [], [], []], False),
        ("_MAX_CONTAINERS", 4, {"tasks": [{"drafts": [[], [], []]}]}, True),  # what is left out counts once
        ("_MAX_ITEMS", 3, [1, 2, 3, 4], True),
        ("_MAX_ITEMS", 3, [1, 2, 3, 4, 5], False),
        ("_MAX_ITEMS", 3, {"tasks": [{"drafts": [1], "predictions": [1, 1], "annotations": {}, "id": 1}]}, True),
        ("_MAX_ITEMS", 2, {"tasks": [{"drafts": [1], "predictions": [1, 1], "annotations": {}, "id": 1}]}, False),
        ("_MAX_TOKENS", 4, ["a", "b"], True),
        ("_MAX_TOKENS", 4, ["a", "b", "c"], False),
        ("_MAX_WIDE", 9, ["äöü"], True),
        ("_MAX_WIDE", 9, ["äöüx"], False),
        ("_MAX_WIDE", 9, ["a long text in ASCII"], True),
    ],
)
def test_how_much_a_body_may_hold(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, given: Any, good: bool
) -> None:
    monkeypatch.setattr(json_pieces, limit, most)
    text = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    if limit == "_MAX_WIDE" and good and not text.isascii():
        monkeypatch.setattr(json_pieces, limit, len(text))
    if good:
        parsed(text)
    else:
        with pytest.raises(TooLargeError):
            parsed(text)


def test_the_limits_of_a_service() -> None:
    mb = 1 << 20
    found = (json_pieces._MAX_TOKENS, json_pieces._MAX_CONTAINERS, json_pieces._MAX_ITEMS, json_pieces._MAX_WIDE)
    assert found == (2_000_000, 400_000, 3_000_000, 32 * mb)
    assert (bodies._BODY_SECONDS, bodies._INLINE_BYTES) == (60.0, 64 * 1024)


@pytest.mark.parametrize("text", [b"{", b"nope", b"[1,]", b'"\\q"', b"\xff", b""])
def test_no_json_is_said_so(text: bytes) -> None:
    with pytest.raises(RequestError, match="not valid JSON"):
        parsed(text)


# --- reading


def request(chunks: Sequence[bytes], **headers: str) -> Request:
    left = list(chunks)

    async def receive() -> Any:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or chunks[-1] == b"more"}

    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": listed}, receive)


def read(given: Request, most: int = 1000, budget: Budget | None = None) -> Any:
    shared = budget or Budget(10_000)

    async def run() -> Any:
        async with Bodies(shared).read(given, most) as content:
            return content, shared.used

    found = asyncio.run(run())
    assert shared.used == 0
    return found


TEXT = json.dumps({"text": "x" * 85}).encode()  # 97 bytes


def test_a_body_counts_while_it_is_in_use() -> None:
    assert read(request([TEXT[:40], TEXT[40:]])) == (json.loads(TEXT), len(TEXT))
    large = json.dumps({"tasks": [{"drafts": ["x" * 70_000]}]}).encode()
    content, used = read(request([large]), 100_000, Budget(100_000))
    assert content == {"tasks": [{"drafts": None}]}
    assert used == len('{"tasks": [{"drafts": null}]}')


@pytest.mark.parametrize(("length", "good"), [("97", True), ("98", False), ("x", True), ("", True)])
def test_a_length_that_is_too_large_is_refused_before_reading(length: str, good: bool) -> None:
    asked = request([TEXT], content_length=length)
    if good:
        assert read(asked, 97)[0]
    else:
        with pytest.raises(TooLargeError, match="the body has 98 bytes"):
            read(asked, 97)


@pytest.mark.parametrize(("most", "good"), [(97, True), (96, False)])
def test_a_body_is_cut_off_at_its_limit(most: int, good: bool) -> None:
    if good:
        assert read(request([TEXT[:50], TEXT[50:]]), most)[0]
    else:
        with pytest.raises(TooLargeError, match="more than 96 bytes"):
            read(request([TEXT[:50], TEXT[50:]]), most)


@pytest.mark.parametrize(("free", "good"), [(97, True), (96, False)])
def test_all_bodies_together_have_a_limit(free: int, good: bool) -> None:
    budget = Budget(500, used=500 - free)

    async def run() -> None:
        async with Bodies(budget).read(request([TEXT[:50], TEXT[50:]]), 1000):
            assert budget.used == 500 - free + 97

    if good:
        asyncio.run(run())
    else:
        with pytest.raises(TooMuchError, match="bytes are being read already"):
            asyncio.run(run())
    assert budget.used == 500 - free


def test_who_hangs_up_or_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="closed before the body was complete"):
        read(request([TEXT[:10], b"more"]))
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.01)

    async def never() -> Any:
        await asyncio.sleep(20)

    with pytest.raises(RequestError, match=r"did not arrive within 0\.01 s"):
        read(Request({"type": "http", "method": "POST", "headers": []}, never))
