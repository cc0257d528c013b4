"""Pages of runs: durations, shares of the bar, what is offered in which state."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.api.run_actions.form import Form, Offered
from ml_backend.api.run_pages import PAGE, Notice, RunView, error_page, list_page, no_picture, run_page
from ml_backend.runs.plain import run_json
from ml_backend.runs.types import Progress, Run, RunRequest, RunSpec, RunState, TaskRecord, TaskState

SPEC = RunSpec(RunRequest(project=1), "<View/>", None, "int-nano-int-01234567", "polyp", "int", "0" * 64)
BEGUN = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
FORM = Form(Offered(True, {1: "Frogs"}))
VOID = {"meta", "img", "input", "br", "link"}


class Balanced(HTMLParser):
    """Notices elements that are not closed, or closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def well_formed(page: str) -> str:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return page


def seen(state: RunState, **counts: int) -> RunView:
    finished = BEGUN + timedelta(minutes=3) if state is RunState.FINISHED else None
    run = Run("5", SPEC, state, "the config changed" if state is RunState.STOPPED else "", BEGUN, finished)
    return RunView(run, Progress({s: counts.get(s.value, 0) for s in TaskState}, 2.0, 1))


def page(one: RunView, records: list[TaskRecord] | None = None, **options: Any) -> str:
    given = {"state": None, "after": 0, "pictures": True, **options}
    shown = records or []
    failures = [record for record in shown if record.state is TaskState.FAILED]
    return well_formed(run_page(one, failures, shown, [Notice("look", bad=True)], **given))


@pytest.mark.parametrize(
    ("state", "failed", "offered", "renews"),
    [
        (RunState.PREPARING, 0, {"cancel"}, True),
        (RunState.ACTIVE, 0, {"cancel"}, True),
        (RunState.ACTIVE, 1, {"cancel", "retry"}, True),
        (RunState.STOPPED, 1, {"resume"}, False),
        (RunState.CANCELLED, 0, {"resume"}, False),
        (RunState.FINISHED, 0, set(), False),
        (RunState.FINISHED, 2, {"retry"}, False),
    ],
)
def test_what_is_offered_fits_the_state(state: RunState, failed: int, offered: set[str], renews: bool) -> None:
    text = page(seen(state, done=3, failed=failed, pending=0 if state is RunState.FINISHED else 4))
    assert set(re.findall(r'action="5/(\w+)"', text)) == offered
    assert ('http-equiv="refresh"' in text) is renews
    assert ("the config changed" in text) is (state is RunState.STOPPED)


def test_a_stall_is_named() -> None:
    running = seen(RunState.ACTIVE, leased=16)
    assert "silent worker" not in page(running)
    stalled = replace(running, progress=replace(running.progress, silent=16, free_in=80.2))
    for text in (page(stalled), list_page([stalled], [], None, FORM)):
        assert "16 images held by a silent worker, free in 80 s" in text
    free = replace(running, progress=replace(running.progress, silent=1, free_in=0.0))
    assert "1 image held by a silent worker, free now" in page(free)
    cancelled = seen(RunState.CANCELLED)
    assert not replace(cancelled, progress=replace(cancelled.progress, silent=16, free_in=80.0)).stall


@given(st.lists(st.integers(0, 10**6), min_size=6, max_size=6))
def test_the_bar_never_overflows(counts: list[int]) -> None:
    by_state = {state.value: count for state, count in zip(TaskState, counts, strict=True)}
    text = well_formed(list_page([seen(RunState.ACTIVE, **by_state)], [], None, FORM))
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", text)]
    final = sum(counts) - by_state["pending"] - by_state["leased"]
    assert sum(widths) <= 100.01
    assert sum(widths) == pytest.approx(100 * final / sum(counts) if sum(counts) else 0, abs=0.01)


def test_pictures_and_the_next_page() -> None:
    records = [TaskRecord(n, TaskState.DONE, 1, 0.5, "", 1.0, n) for n in range(1, PAGE + 2)]
    text = page(seen(RunState.FINISHED, done=PAGE + 1), records)
    assert text.count("<img") == PAGE
    assert f'href="5?after={PAGE}"' in text
    assert 'loading="lazy"' in text
    assert "<img" not in page(seen(RunState.FINISHED, done=PAGE + 1), records, pictures=False)
    failed = [replace(records[0], state=TaskState.FAILED, reason="<b>broken</b> & lost", score=None)]
    text = page(seen(RunState.FINISHED, failed=1), failed, state=TaskState.FAILED, after=3)
    assert "&lt;b&gt;broken&lt;/b&gt; &amp; lost" in text
    assert "<img" not in text


def test_json_of_a_run() -> None:
    one = seen(RunState.FINISHED, done=2, failed=1)
    found = run_json(one.run, one.progress)
    assert found["created_at"] == "2026-11-01T12:00:00Z"
    assert found["finished_at"] == "2026-11-01T12:03:00Z"
    assert (found["total"], found["left"], found["eta_seconds"]) == (3, 0, 0.0)
    assert found["counts"].keys() == {state.value for state in TaskState}


def test_texts_are_escaped_everywhere() -> None:
    nasty = '"><script>x</script>'
    odd = replace(seen(RunState.STOPPED, done=1), run=replace(seen(RunState.STOPPED).run, why=nasty))
    odd = replace(odd, run=replace(odd.run, spec=replace(SPEC, prompt=nasty, strategy=nasty, model_version=nasty)))
    offered = Offered(True, {1: nasty}, True, {2: nasty})
    form = Form(offered, {"project": nasty, "prompt": nasty, "view": nasty, "limit": nasty}, 1, True, nasty, nasty)
    pages = [page(odd), list_page([odd], [Notice(nasty)], 3, form), error_page(400, nasty, nasty, "")]
    pages.append(no_picture(nasty).decode())
    for text in pages:
        assert "<script" not in text
