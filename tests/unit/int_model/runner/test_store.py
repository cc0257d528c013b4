"""The store: all or nothing, one run or several at a time, and a sentence for whatever else."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from int_model.runner.store import Entry, ResultKey, ResultStore, StoreError, fingerprint

KEY = ResultKey("digest", "a frog", "identity")


@pytest.mark.parametrize("file", ["o/w/s.sqlite", None])
def test_results_and_notes_are_kept(tmp_path: Path, file: str | None) -> None:
    with ResultStore(None if file is None else tmp_path / file) as store:
        assert store.get(KEY) is None
        assert store.failed(KEY) is None
        store.put({KEY: Entry(b"one"), ResultKey("digest", "a frog", "other"): Entry(error="too large")})
        store.put({KEY: Entry(b"two")})
        assert store.get(KEY) == Entry(b"two")
        assert store.failed(KEY) is False
        assert store.failed(ResultKey("digest", "a frog", "other")) is True
        odd = ResultKey("digest", "\udcff", "identity")
        store.put({odd: Entry(error="no \udcfe")})
        assert store.failed(odd)
        store.keep_notes({"settings": {"a": 1}, "\udcff": 2})
        assert store.note("settings") == {"a": 1}
        assert store.note("\udcff") == 2
        assert store.note("nothing") is None


def test_the_name_of_a_key_knows_all_its_parts() -> None:
    keys = [
        KEY,
        ResultKey("x", "a frog", "identity"),
        ResultKey("digest", "x", "identity"),
        ResultKey("digest", "a frog", "x"),
    ]
    assert len({key.name for key in keys}) == 4
    assert fingerprint("a", 1) != fingerprint("a", "1")


class Torn(Mapping[ResultKey, Entry]):
    """Entries of which the second is never reached."""

    def __getitem__(self, key: ResultKey) -> Entry:
        raise KeyboardInterrupt

    def __iter__(self) -> Iterator[ResultKey]:
        yield KEY
        raise KeyboardInterrupt

    def __len__(self) -> int:
        return 2


def test_a_failed_put_keeps_nothing(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            store.put(Torn())
        assert store.get(KEY) is None
        store.put({KEY: Entry(b"one")})
        assert store.get(KEY) == Entry(b"one")


def test_a_store_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "o" / "w" / "s.sqlite"
    with ResultStore(place), pytest.raises(StoreError, match=r"another run is working in '.*o'; wait for it"):
        ResultStore(place)
    with ResultStore(place):
        pass


MANY = """
import sys
from dataclasses import replace
from pathlib import Path
from int_model.runner.store import Entry, ResultKey, ResultStore
with ResultStore(Path(sys.argv[1]), shared=True) as store:
    for i in range(40):
        store.put({ResultKey(sys.argv[2], str(i), ""): Entry(b"x")})
"""


def test_a_shared_store_takes_what_several_processes_put(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", MANY, str(file), name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with ResultStore(file, shared=True) as store:
        assert all(store.get(ResultKey(name, str(i), "")) for name in "abc" for i in range(40))


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_bytes(b"no database, but long enough to look like one" * 30)
    with pytest.raises(StoreError, match="is damaged"):
        ResultStore(tmp_path / "s.sqlite")


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as old:  # as 0.1.0 wrote them
        old.execute(
            "CREATE TABLE results (digest TEXT, key TEXT, failed INTEGER, result TEXT, PRIMARY KEY (digest, key))"
        )
        old.execute("CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        old.execute("INSERT INTO notes VALUES ('format', '1')")
    with pytest.raises(StoreError, match="was written by another version of this program; choose another --out"):
        ResultStore(tmp_path / "s.sqlite")


def test_of_two_that_open_a_store_at_once_one_gets_it(tmp_path: Path) -> None:
    file = tmp_path / "w" / "r.sqlite"
    ResultStore(file).__exit__(None, None, None)
    for _ in range(3):
        together, over = threading.Barrier(2), threading.Barrier(2)

        def take(together: threading.Barrier = together, over: threading.Barrier = over) -> bool:
            together.wait()
            try:
                with ResultStore(file):
                    over.wait()
            except StoreError:
                over.wait()
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            got = [threads.submit(take) for _ in range(2)]
            assert sorted(one.result() for one in got) == [False, True], "now and then both were refused"


class Hesitant(sqlite3.Connection):
    """Reads, and waits for another one that has read, before it writes the tables; closes when that one closes, too."""

    reading, closing = threading.Barrier(2), threading.Barrier(2)

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        self.execute("SELECT count(*) FROM sqlite_master").fetchone()
        with contextlib.suppress(threading.BrokenBarrierError):
            self.reading.wait(0.5)
        return super().executescript(script)

    def close(self) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.closing.wait(0.5)
        super().close()


def test_of_two_that_have_both_read_a_store_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of events in which both were refused: each kept the lock of a reader that the other one waited for."""
    file = tmp_path / "w" / "r.sqlite"
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **more: connect(*given, **more, factory=Hesitant))
    over = threading.Barrier(2)

    def take() -> bool:
        try:
            with ResultStore(file):
                over.wait(20)
        except StoreError:
            over.wait(20)
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        got = [threads.submit(take) for _ in range(2)]
        assert sorted(one.result() for one in got) == [False, True]
