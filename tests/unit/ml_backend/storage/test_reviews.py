"""What people thought of a run's images: kept once for each, and the order in which the images are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import TaskResult, TaskState
from ml_backend.storage.database import Database
from ml_backend.storage.reviews import LONGEST_NOTE, Reviews, Verdict
from tests.integration.ledger.kit import SPEC

DONE, NOTHING, FAILED = TaskState.DONE, TaskState.ABSTAINED, TaskState.FAILED
Results = dict[int, tuple[TaskState, float | None]]
FIRST: Results = {1: (DONE, 0.9), 2: (DONE, 0.2), 3: (NOTHING, None), 4: (DONE, 0.5), 5: (FAILED, None)}
SECOND: Results = {1: (DONE, 0.8), 2: (DONE, 0.7), 3: (DONE, 0.6), 4: (DONE, 0.1), 5: (DONE, 0.9)}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    yield made
    made.close()


def run(database: Database, results: Results, version: str = "v1") -> int:
    ledger = Ledger(database)
    made = ledger.create(replace(SPEC, model_version=version), results)
    lease = ledger.lease(made.id, "host:1:x", 100)
    assert lease is not None
    ledger.finish(lease, [TaskResult(task, state, score) for task, (state, score) in results.items()])
    return int(made.id)


def order(reviews: Reviews, of: int, against: int | None = None, skip: int = 0, limit: int = 100) -> list[int]:
    return [one.task for one in reviews.page(of, skip, limit, against)]


def test_a_verdict_is_kept_in_place_of_the_one_before_and_can_be_taken_back(database: Database) -> None:
    reviews, first, second = Reviews(database), run(database, FIRST), run(database, SECOND, "v2")
    assert reviews.counts(first) == {"": 4, "accept": 0, "skip": 0, "wrong": 0}
    assert reviews.put(first, 1, Verdict.WRONG, "the tail\0 is missing", "jane" * 60)
    assert reviews.put(first, 2, Verdict.SKIP, "", "joe")
    assert reviews.put(second, 1, Verdict.ACCEPT, "n" * (LONGEST_NOTE + 1), "joe")
    assert reviews.put(first, 1, Verdict.ACCEPT, "seen again", "jane" * 60)
    assert reviews.counts(first) == {"": 2, "accept": 1, "skip": 1, "wrong": 0}
    assert reviews.counts(second) == {"": 4, "accept": 1, "skip": 0, "wrong": 0}
    kept = {one.task: one for one in reviews.page(first, 0, 10)}
    assert (kept[1].verdict, kept[1].note, kept[1].who) == (Verdict.ACCEPT, "seen again", ("jane" * 60)[:200])
    assert (kept[3].verdict, kept[3].note, kept[3].who, kept[3].state) == (None, "", "", "abstained")
    (other,) = [one for one in reviews.page(second, 0, 10) if one.task == 1]
    assert len(other.note) == LONGEST_NOTE
    assert reviews.put(first, 1, None, "", "jane")
    assert reviews.counts(first)["accept"] == 0
    assert reviews.counts(first)["skip"] == 1
    assert reviews.counts(second)["accept"] == 1


def test_only_an_image_that_the_run_shows_can_be_judged(database: Database) -> None:
    reviews, first = Reviews(database), run(database, FIRST)
    run(database, {9: (DONE, 0.5)}, "v2")
    for task in (5, 9, 99):
        assert not reviews.put(first, task, Verdict.WRONG, "", "joe")
    assert reviews.counts(first) == {"": 4, "accept": 0, "skip": 0, "wrong": 0}
    assert reviews.counts(99) == {"": 0, "accept": 0, "skip": 0, "wrong": 0}


def test_what_looks_wrong_comes_first_and_what_was_accepted_last(database: Database) -> None:
    reviews, first = Reviews(database), run(database, FIRST)
    assert order(reviews, first) == [3, 2, 4, 1], "by doubt: first what has no score"
    reviews.put(first, 1, Verdict.WRONG, "", "joe")
    assert order(reviews, first) == [1, 3, 2, 4]
    reviews.put(first, 3, Verdict.ACCEPT, "", "joe")
    reviews.put(first, 2, Verdict.SKIP, "", "joe")
    assert order(reviews, first) == [1, 4, 2, 3]
    assert order(reviews, first, skip=1, limit=2) == [4, 2]


def test_two_runs_are_compared_by_what_they_disagree_about(database: Database) -> None:
    reviews, first, second = Reviews(database), run(database, FIRST), run(database, SECOND, "v2")
    run(database, dict.fromkeys(FIRST, (DONE, 0.0)), "v3")
    assert order(reviews, first, second) == [3, 2, 4, 1], "what only one found, then the largest differences"
    assert order(reviews, second, first) == [3, 2, 4, 1]
    shown = {one.task: (one.score, one.other) for one in reviews.page(first, 0, 10, second)}
    assert shown == {1: (0.9, 0.8), 2: (0.2, 0.7), 3: (None, 0.6), 4: (0.5, 0.1)}
    assert all(one.other is None for one in reviews.page(first, 0, 10))


def test_images_without_a_score_differ_by_all_of_the_others(database: Database) -> None:
    scores: tuple[Results, Results] = {1: (DONE, None), 2: (DONE, 0.6)}, {1: (DONE, 0.3), 2: (DONE, 0.2)}
    reviews, first, second = Reviews(database), run(database, scores[0]), run(database, scores[1], "v2")
    assert order(reviews, first, second) == [2, 1]
    assert order(reviews, second, first) == [2, 1]


def test_accepting_by_score_takes_what_was_found_and_nobody_objected_to(database: Database) -> None:
    reviews, first = Reviews(database), run(database, {**FIRST, 6: (DONE, 0.5), 7: (NOTHING, 0.9)})
    run(database, dict.fromkeys(FIRST, (DONE, 1.0)), "v2")
    assert reviews.at_least(first, 0.5, 0, 10) == [(1, 0.9), (4, 0.5), (6, 0.5)]
    assert reviews.at_least(first, 0.5, 1, 10) == [(4, 0.5), (6, 0.5)]
    assert reviews.at_least(first, 0.5, 0, 2) == [(1, 0.9), (4, 0.5)]
    for task, verdict in ((1, Verdict.WRONG), (4, Verdict.SKIP), (6, Verdict.ACCEPT)):
        reviews.put(first, task, verdict, "", "joe")
    assert reviews.at_least(first, 0.5, 0, 10) == [(6, 0.5)]
