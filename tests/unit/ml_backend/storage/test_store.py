from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from int_model.runner.store import ResultKey
from ml_backend.storage.database import StoreError
from ml_backend.storage.store import Project, Store
from ml_backend.storage.tables import ProjectRow, ResultRow


def kept(store: Store) -> int:
    with store.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(ResultRow)) or 0


def test_projects_and_results_are_kept(tmp_path: Path) -> None:
    store = Store.in_folder(tmp_path / "new")
    store.save_project(Project("1", {"prompt": "ü"}, "<View/>"))
    store.save_project(Project("1", "text", "<View/>"))
    store.put_result(ResultKey("sha", "prompt", "v1"), b"one")
    store.put_result(ResultKey("sha", "prompt", "v1"), b"two")
    store.close()
    store = Store.in_folder(tmp_path / "new")
    assert store.projects() == [Project("1", "text", "<View/>")]
    assert store.get_result(ResultKey("sha", "prompt", "v1")) == b"two"
    for other in (("x", "prompt", "v1"), ("sha", "x", "v1"), ("sha", "prompt", "v2")):
        assert store.get_result(ResultKey(*other)) is None
    store.close()


def test_the_adapter_of_a_project_outlives_what_label_studio_says(tmp_path: Path) -> None:
    store = Store.in_folder(tmp_path)
    store.save_project(Project("1", "polyp", "<View/>"))
    assert (store.adapter_of("1"), store.adapter_of("2")) == ("", "")
    store.choose_adapter("1", "ab12")
    store.choose_adapter("2", "cd34")
    store.save_project(Project("1", "a polyp", "<View></View>"))
    assert store.projects() == [Project("1", "a polyp", "<View></View>", "ab12"), Project("2", adapter="cd34")]
    store.choose_adapter("1", "")
    assert (store.adapter_of("1"), store.adapter_of("2")) == ("", "cd34")
    store.close()


def test_the_oldest_results_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ml_backend.storage.store.time.time", lambda: now[0])
    store = Store.in_folder(tmp_path, cache_entries=4)
    for index in range(4):
        now[0] = index + 1.0
        store.put_result(ResultKey(f"sha{index}", "p", "v"), b"x")
    now[0] = 50.0
    assert store.get_result(ResultKey("sha0", "p", "v")) == b"x"
    for index in range(4, 8):
        now[0] = 100.0 + index
        store.put_result(ResultKey(f"sha{index}", "p", "v"), b"x")
    assert kept(store) == 4
    assert store.get_result(ResultKey("sha1", "p", "v")) is None
    store.close()
    empty = Store.in_folder(tmp_path / "none", cache_entries=0)
    empty.put_result(ResultKey("a", "b", "c"), b"x")
    assert kept(empty) == 0
    empty.close()


def test_old_results_go_after_every_64_writes_of_a_large_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ml_backend.storage.store.time.time", lambda: now[0])
    store = Store.in_folder(tmp_path, cache_entries=70)
    counts = []
    for index in range(1, 129):
        now[0] = index
        store.put_result(ResultKey(f"sha{index}", "p", "v"), b"x")
        counts.append(kept(store))
    assert counts == [*range(1, 128), 70]
    assert store.get_result(ResultKey("sha58", "p", "v")) is None
    assert store.get_result(ResultKey("sha59", "p", "v")) == b"x"
    store.close()


def test_a_result_that_is_used_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ml_backend.storage.store.time.time", lambda: now[0])
    store = Store.in_folder(tmp_path, cache_entries=4)
    for index in range(8):
        now[0] = index + 1.0
        if index == 7:
            assert store.get_result(ResultKey("sha0", "p", "v")) == b"x"
        store.put_result(ResultKey(f"sha{index}", "p", "v"), b"x")
        if index == 3:
            now[0] = 4.5
            assert store.get_result(ResultKey("sha1", "p", "v")) == b"x"
    left = [index for index in range(8) if store.get_result(ResultKey(f"sha{index}", "p", "v")) is not None]
    assert left == [0, 5, 6, 7]
    closed: list[bool] = []
    monkeypatch.setattr(store.database, "close", lambda close=store.database.close: (closed.append(True), close()))
    store.close()
    assert closed == [True]


def test_long_prompts_are_told_apart(tmp_path: Path) -> None:
    store = Store.in_folder(tmp_path)
    for length in (199, 200, 201, 300):
        store.put_result(ResultKey("sha", "p" * length, "v"), str(length).encode())
    for length in (199, 200, 201, 300):
        assert store.get_result(ResultKey("sha", "p" * length, "v")) == str(length).encode()
    with store.database.read() as connection:
        keys = set(connection.scalars(select(ResultRow.prompt)))
    assert {"p" * 199, "p" * 200} < keys
    assert max(map(len, keys)) == 200
    store.close()


def test_the_newest_projects_stay_and_those_with_an_adapter(tmp_path: Path) -> None:
    store = Store.in_folder(tmp_path)
    store.choose_adapter("0", "ab12")
    for number in range(1, 6):
        store.save_project(Project(str(number)))
    with store.database.write() as connection:
        for number in range(6):
            changed = update(ProjectRow).where(ProjectRow.id == str(number))
            connection.execute(changed.values(updated_at=datetime(2026, 1, 1 + number, tzinfo=UTC)))
    assert [project.id for project in store.newest_projects(6)] == ["5", "4", "3", "2", "1", "0"]
    assert [project.id for project in store.newest_projects(7)] == ["5", "4", "3", "2", "1", "0"]
    assert len(store.projects()) == 6
    assert [project.id for project in store.newest_projects(2)] == ["5", "4"]
    assert [project.id for project in store.projects()] == ["0", "4", "5"]
    store.close()


def test_forgotten_projects_go_unless_they_have_an_adapter(tmp_path: Path) -> None:
    store = Store.in_folder(tmp_path)
    for number in "123":
        store.save_project(Project(number))
    store.choose_adapter("2", "ab12")
    store.forget_projects([])
    assert len(store.projects()) == 3
    store.forget_projects(["1", "2"])
    assert [project.id for project in store.projects()] == ["2", "3"]
    store.close()
    assert Store.in_folder(tmp_path).database.is_sqlite


def test_a_folder_that_cannot_be_used_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="INT_DATA_DIR"):
        Store.in_folder(tmp_path / "file" / "sub")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "backend.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="INT_DATA_DIR"):
        Store.in_folder(broken)
