"""Which task comes next: open ones only, each for one annotator, the order as scores in Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ml_backend.cli.main import app
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.learning.review import NOTHING_FOUND, OpenTask, in_order, open_tasks, write_scores
from tests.support.annotation_events import region
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

SCORES = {1: 0.9, 2: 0.2, 3: 0.6, 4: 0.4, 5: 0.95}
"""Of the predictions of tasks 1 to 5; task 6 has none, 7 is annotated, 8 has a draft, 9 an empty prediction."""


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks={n: {"data": {"image": "x"}} for n in range(1, 10)})
    made.tasks[7] |= {"total_annotations": 1}
    made.tasks[8] |= {"drafts": [{"id": 1}]}
    polygon = region("Polyp", (10, 10), (50, 10), (50, 50))
    for task, score in SCORES.items():
        made.keep([{"task": task, "result": [polygon], "score": 0.01, "model_version": "old"}])
        made.keep([{"task": task, "result": [polygon], "score": score, "model_version": "new"}])
    made.keep([{"task": 9, "result": [], "score": 0.0, "model_version": "new"}])
    with label_studio(made) as running:
        yield running


@pytest.fixture
def call(fake: LabelStudio, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setenv("LABEL_STUDIO_URL", fake.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["next", "--project", "1", *arguments])

    return run  # type: ignore[return-value]


def test_open_tasks_are_those_that_nobody_began(fake: LabelStudio) -> None:
    with LabelStudioClient(fake.url, TOKEN) as client:
        found = {task.id: task for task in open_tasks(client, 1)}
    assert set(found) == {1, 2, 3, 4, 5, 6, 9}
    assert (found[2].doubt, found[2].stratum, found[2].score) == (pytest.approx(0.8), "Polyp", 0.2)
    assert (found[6].doubt, found[6].prediction) == (NOTHING_FOUND, None)
    assert (found[9].doubt, found[9].stratum) == (NOTHING_FOUND, "")


def made(ids: range | list[int]) -> list[OpenTask]:
    return [OpenTask(i, (i * 37 % 100) / 100, "ab"[i % 2], i, 0.5) for i in ids]


@given(st.integers(1, 5), st.integers(0, 99), st.sampled_from(["random", "doubt"]))
def test_every_task_is_one_annotators_and_stays_so(annotators: int, seed: int, order: str) -> None:
    tasks = made(range(1, 60))
    shares = [
        [task.id for task in in_order(tasks, order, seed=seed, annotator=n, annotators=annotators)]  # type: ignore[arg-type]
        for n in range(1, annotators + 1)
    ]
    assert sorted(i for share in shares for i in share) == [task.id for task in tasks]
    later = [task for task in tasks if task.id % 3]  # the others were finished meanwhile
    for n, share in enumerate(shares, 1):
        left = {task.id for task in in_order(later, order, seed=seed, annotator=n, annotators=annotators)}  # type: ignore[arg-type]
        assert left == {i for i in share if i % 3}


def test_by_doubt_the_most_doubtful_of_each_label_come_first() -> None:
    tasks = [OpenTask(i, i / 10, "a" if i < 8 else "b", i, None) for i in range(10)]
    first = [task.id for task in in_order(tasks, "doubt", random_share=0.0)]
    assert first[:4] == [7, 9, 6, 8]
    shuffled = [task.id for task in in_order(tasks, "random", seed=1)]
    assert sorted(shuffled) == list(range(10))
    assert shuffled not in ([task.id for task in in_order(tasks, "random", seed=2)], sorted(shuffled), first)


def test_an_annotator_who_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="of 2 annotators there is no number 3"):
        in_order(made([1]), "random", annotator=3, annotators=2)


def test_scores_rise_along_the_order_and_are_written_once(fake: LabelStudio) -> None:
    with LabelStudioClient(fake.url, TOKEN) as client:
        order = in_order(list(open_tasks(client, 1)), "doubt", random_share=0.0)
        assert write_scores(client, order) == 6
        newest = {task: entries[-1]["score"] for task, entries in fake.predictions.items()}
        assert sorted(newest, key=lambda task: newest[task]) == [task.id for task in order if task.prediction]
        assert all(entries[0]["score"] == 0.01 for task, entries in fake.predictions.items() if task < 6)
        before = len(fake.requests)
        write_scores(client, [OpenTask(t.id, t.doubt, t.stratum, t.prediction, newest.get(t.id)) for t in order])
        assert len(fake.requests) == before, "nothing changes, so nothing is sent"


def test_the_command_names_tasks_and_writes_the_order(fake: LabelStudio, call) -> None:  # type: ignore[no-untyped-def]
    shown = call("--order", "doubt", "--count", "3", "--json")
    assert shown.exit_code == 0, shown.output
    answer = json.loads(shown.stdout)
    assert (answer["open"], answer["written"], len(answer["tasks"])) == (7, 0, 3)
    assert answer["tasks"][0]["address"] == f"{fake.url}/projects/1/data?task={answer['tasks'][0]['task']}"
    halves = [
        {row["task"] for row in json.loads(call("--annotator", n, "--of", "2", "--json").stdout)["tasks"]}
        for n in ("1", "2")
    ]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == {1, 2, 3, 4, 5, 6, 9}
    written = call("--write")
    assert written.exit_code == 0, written.output
    assert "6 predictions have their place as score, 1 tasks have no prediction" in written.output
    assert call("--annotator", "3", "--of", "2").exit_code == 2
    fake.down = True
    assert call().exit_code != 0


def test_without_label_studio_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"):
        monkeypatch.delenv(name, raising=False)
    answer = CliRunner().invoke(app, ["next", "--project", "1"])
    assert answer.exit_code == 2
    assert "LABEL_STUDIO_URL" in answer.output
