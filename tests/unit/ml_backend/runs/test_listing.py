"""Which tasks a run takes, and what is known of them: what Label Studio is asked, page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ml_backend.runs.listing import PAGE, Existing, counted, existing, list_tasks, look_at, predicted
from ml_backend.runs.types import RunRequest

V = "int-v-1"


class Tasks:
    """Answers as Label Studio's task list does; ``rows`` by id, ``view`` the order of a view."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = {row["id"]: row for row in rows}
        self.view: list[int] = []
        self.asked: list[tuple[int, int]] = []
        self.queries: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def tasks_page(
        self, project: int, page: int, size: int, *, view: int | None = None, query: Any = None, whole: bool = False
    ) -> list[dict[str, Any]]:
        assert (project, size) == (7, 100)
        self.asked.append((page, len(self.rows)))
        self.queries.append(query)
        self.meanwhile()
        if view is not None:
            return [self.rows[task] for task in self.view[(page - 1) * size : page * size]]
        chosen = dict(sorted(self.rows.items()))
        if included := query.get("selectedItems", {}).get("included"):
            assert len(included) <= 100
            chosen = {task: row for task, row in chosen.items() if task in included}
        for item in query.get("filters", {}).get("items", []):
            if item["filter"] == "filter:tasks:id":
                chosen = {task: row for task, row in chosen.items() if task > item["value"]}
            else:
                (version,) = item["value"]
                chosen = {task: row for task, row in chosen.items() if version in versions_of(row)}
        return list(chosen.values())[:size]


def versions_of(row: dict[str, Any]) -> list[str]:
    return [entry["model_version"] for entry in row.get("all", [])]


def row(task: int, *versions: str, shown: str | None = None, **more: Any) -> dict[str, Any]:
    """A task with a prediction of each version; the list of versions as Label Studio shows it, if not in full."""
    kept = [
        {"id": 100 * task + n, "model_version": name, "result": [1], "score": 0.5} for n, name in enumerate(versions)
    ]
    listed = ",".join(dict.fromkeys(versions)) if shown is None else shown
    told = {"all": kept, "predictions": kept, "total_predictions": len(kept), "predictions_model_versions": listed}
    return {"id": task, "data": {}, **told, **more}


def listed(tasks: Any, stopping: Callable[[], bool] = lambda: False, **request: Any) -> list[int]:
    return list(list_tasks(tasks, RunRequest(project=7, **request), V, stopping))


def test_all_tasks_come_once_by_pages_of_a_hundred() -> None:
    tasks = Tasks(*(row(n) for n in range(1, 251)))
    assert listed(tasks) == list(range(1, 251))
    assert len(tasks.asked) == 4
    assert [query["filters"]["items"][0]["value"] for query in tasks.queries] == [0, 100, 200, 250]
    assert all(query["ordering"] == ["tasks:id"] for query in tasks.queries)
    assert PAGE == 100


def test_tasks_that_come_and_go_meanwhile_shift_nothing() -> None:
    tasks = Tasks(*(row(n) for n in range(1, 151)))

    def change() -> None:
        if len(tasks.asked) == 2:
            for gone in range(1, 60):
                del tasks.rows[gone]
            tasks.rows[500] = row(500)

    tasks.meanwhile = change
    assert listed(tasks) == [*range(1, 151), 500]


def test_a_view_gives_its_own_order_and_each_task_once() -> None:
    tasks = Tasks(*(row(n) for n in range(1, 131)))
    tasks.view = [*range(130, 30, -1), 32, 31, *range(30, 0, -1)]  # a page that has moved meanwhile
    assert listed(tasks, view=3) == list(range(130, 0, -1))
    assert [page for page, _ in tasks.asked] == [1, 2, 3]


def test_a_view_whose_page_only_repeats_goes_on() -> None:
    tasks = Tasks(*(row(n) for n in range(1, 102)))
    tasks.view = [*range(1, 101), *range(1, 101), 101]
    assert listed(tasks, view=3) == list(range(1, 102))


@pytest.mark.parametrize(("limit", "requests"), [(1, 1), (100, 1), (101, 2), (150, 2)])
def test_a_limit_ends_the_list(limit: int, requests: int) -> None:
    tasks = Tasks(*(row(n) for n in range(1, 151)))
    assert listed(tasks, limit=limit) == list(range(1, limit + 1))
    assert len(tasks.asked) in (requests, requests + 1)


def test_it_stops_when_told_to() -> None:
    tasks = Tasks(*(row(n) for n in range(1, 251)))
    assert listed(tasks, lambda: len(tasks.asked) >= 1) == list(range(1, 101))


@pytest.mark.parametrize("counter", ["total_annotations", "cancelled_annotations"])
def test_what_people_did_is_left_out_unless_asked_for(counter: str) -> None:
    tasks = Tasks(row(1, **{counter: 1}), row(2))
    assert listed(tasks) == [2]
    assert listed(tasks, include_annotated=True) == [1, 2]


def test_only_missing_leaves_out_what_has_this_version() -> None:
    tasks = Tasks(row(1, V), row(2, "other"), row(3))
    assert listed(tasks, only_missing=True) == [2, 3]
    assert listed(tasks) == [1, 2, 3]


def test_rows_without_an_id_are_not_tasks() -> None:
    tasks = Tasks(row(1))
    tasks.rows[2] = {"data": {}, "id": None}
    tasks.view = [1, 2]
    assert listed(tasks, view=3) == [1]


# --- looks


def test_a_look_tells_what_people_did_and_what_is_predicted() -> None:
    tasks: Any = Tasks(
        row(1, V), row(2, "other"), row(3, total_annotations=2), row(4, draft_exists=True), row(5, draft_exists="yes")
    )
    seen = look_at(tasks, 7, [1, 2, 3, 4, 5, 6], V)
    assert {task: (v.annotated, v.drafted, v.predicted, v.several) for task, v in seen.items()} == {
        1: (False, False, True, False),
        2: (False, False, False, False),
        3: (True, False, False, False),
        4: (False, True, False, False),
        5: (False, False, False, False),
    }
    assert len(tasks.asked) == 1
    hidden = tasks.queries[0]["hiddenColumns"]
    assert "tasks:predictions_results" in hidden["explore"]
    assert hidden["explore"] == hidden["labeling"]
    assert tasks.queries[0]["selectedItems"] == {"all": False, "included": [1, 2, 3, 4, 5, 6]}


def test_a_version_whose_name_holds_another_is_not_the_same() -> None:
    tasks: Any = Tasks(row(1, f"{V}0"), row(2, "a", V), row(3, shown=f"a, {V}"))
    assert {task: seen.predicted for task, seen in look_at(tasks, 7, [1, 2, 3], V).items()} == {
        1: False, 2: True, 3: True,
    }  # fmt: skip


@pytest.mark.parametrize(("shown", "looked"), [("x" * 499, False), ("x" * 500, True), ("x" * 501, True), ("", True)])
def test_a_list_of_versions_that_may_be_cut_is_looked_at_again(shown: str, looked: bool) -> None:
    tasks: Any = Tasks(row(1, V, shown=shown), row(2, "other", shown=shown))
    seen = look_at(tasks, 7, [1, 2], V)
    assert (seen[1].predicted, seen[2].predicted) == (looked, False)
    assert len(tasks.asked) == 1 + looked


def test_a_task_without_predictions_needs_no_second_look() -> None:
    tasks: Any = Tasks(row(1))
    assert not look_at(tasks, 7, [1], V)[1].predicted
    assert len(tasks.asked) == 1


@pytest.mark.parametrize(
    ("made", "several"),
    [
        (row(1, V), False),
        (row(1, V, V), True),
        (row(1, V, "other"), False),
        (row(1, V, "other", "other"), True),
        (row(1, V, shown="x" * 499, total_predictions=1), False),
        (row(1, V, shown="x" * 500, total_predictions=1), True),
        (row(1, V, total_predictions=None), False),
    ],
)
def test_several_are_seen_by_more_predictions_than_versions(made: dict[str, Any], several: bool) -> None:
    tasks: Any = Tasks(made)
    assert counted(tasks, 7, [1], V) == {1: several}
    assert predicted(tasks, 7, [1], V) == {1}
    if len(made["predictions_model_versions"]) < 499:
        assert look_at(tasks, 7, [1], V)[1].several is several


def test_a_hundred_and_one_tasks_are_asked_for_in_two_requests() -> None:
    tasks: Any = Tasks(*(row(n, V) for n in range(1, 102)))
    for ask in (counted, existing, look_at):
        tasks.asked.clear()
        assert sorted(ask(tasks, 7, range(101, 0, -1), V)) == list(range(1, 102))
        assert len(tasks.asked) == 2
    tasks.asked.clear()
    assert counted(tasks, 7, [], V) == {}
    assert tasks.asked == []


def test_existing_predictions_come_oldest_first_and_each_once() -> None:
    old, new = ({"id": n, "model_version": V, "result": [], "score": score} for n, score in ((5, 1), (9, "high")))
    other = {"id": 3, "model_version": "other", "result": [1], "score": 0.5}
    tasks: Any = Tasks(row(1, V, predictions=[new, old, other, old, "broken"]), row(2, V, predictions=None), row(3, V))
    assert existing(tasks, 7, [1, 2, 3], V) == {
        1: [Existing(5, 1.0, empty=True), Existing(9, None, empty=True)],
        3: [Existing(300, 0.5, empty=False)],
    }


def test_tasks_that_were_not_asked_for_are_left_out() -> None:
    tasks: Any = Tasks(row(1, V), row(2, V))
    everything = list(tasks.rows.values())
    tasks.tasks_page = lambda *_, **__: everything
    assert set(counted(tasks, 7, [2], V)) == set(existing(tasks, 7, [2], V)) == set(look_at(tasks, 7, [2], V)) == {2}
