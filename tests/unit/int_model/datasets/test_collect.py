"""The resumable part: what is saved, what is done again, and what a SIGKILL loses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from int_model.datasets.collect import make_plan
from int_model.datasets.contents import LabelPlan
from int_model.datasets.store import DatasetStore
from int_model.runner.results import StoredResult
from int_model.runner.store import StoreError
from tests.unit.int_model.datasets.folders import LABELS, Shapes, fill, picture, shapes


def test_a_second_run_does_nothing_and_new_images_are_added(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in (10, 0, 12)]
    with DatasetStore(tmp_path / "s" / "results.sqlite") as store:
        assert fill(store, paths) == [""] * 3
    again = Shapes()
    with DatasetStore(tmp_path / "s" / "results.sqlite") as store:
        plan = make_plan(store, paths, LABELS, retry_failed=True)
        assert (plan.todo, plan.done, plan.failed) == ((), 3, 0)
        paths.append(picture(tmp_path / "new.png", 13))
        fill(store, paths, again)
        assert again.seen == [("rings", 13), ("pairs", 13)]
        known = store.file(paths[1])
        assert known is not None
        result = store.result(LABELS[0].key(known.digest))
        assert isinstance(result, StoredResult)
        assert (result.objects, result.reason) == ((), "nothing there")


def test_another_prompt_does_its_own_work_only(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "a.png", 10)]
    with DatasetStore(tmp_path / "s.sqlite") as store:
        fill(store, paths)
        assert make_plan(store, paths, [*LABELS, LabelPlan("Other", "other", "key")], retry_failed=False).todo == tuple(
            paths
        )
        assert make_plan(store, paths, LABELS[:1], retry_failed=False).done == 1


def test_a_changed_file_is_done_again_a_renamed_one_is_not(tmp_path: Path) -> None:
    old = picture(tmp_path / "a.png", 10)
    with DatasetStore(tmp_path / "s.sqlite") as store:
        fill(store, [old])
        new = old.rename(tmp_path / "renamed.png").resolve()
        strategy = Shapes()
        fill(store, [new], strategy)
        assert strategy.seen == []
        picture(new, 11)
        os.utime(new, ns=(1, 1))
        fill(store, [new], strategy)
        assert strategy.seen == [("rings", 11), ("pairs", 11)]


def test_identical_files_are_segmented_once(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{name}.png", 10) for name in "abcd"]
    strategy = Shapes()
    with DatasetStore(tmp_path / "s.sqlite") as store:
        assert fill(store, paths, strategy) == [""] * 4
    assert strategy.seen == [("rings", 10), ("pairs", 10)]


def test_broken_and_failing_images_are_kept_apart_and_tried_again_when_asked(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in (10, 1, 12)]
    broken = tmp_path.resolve() / "broken.png"
    broken.write_bytes(b"<html>")
    with DatasetStore(tmp_path / "s.sqlite") as store:
        errors = fill(store, [*paths, broken])
        assert sorted(errors, key=len)[:2] == ["", ""]
        assert any("out of memory" in error for error in errors)
        assert any("looks like HTML" in error for error in errors)
        plan = make_plan(store, [*paths, broken], LABELS, retry_failed=False)
        assert (len(plan.todo), plan.done, plan.failed) == (0, 2, 2)
        plan = make_plan(store, [*paths, broken], LABELS, retry_failed=True)
        assert plan.todo == (paths[1], broken)
        picture(broken, 30)
        strategy = Shapes()
        assert len(fill(store, [*paths, broken], strategy, retry=True)) == 2
        assert {value for _, value in strategy.seen} == {30}
        assert make_plan(store, [*paths, broken], LABELS, retry_failed=False).failed == 1


def test_an_unreadable_file_is_an_error_not_an_end(tmp_path: Path) -> None:
    gone = tmp_path.resolve() / "gone.png"
    with DatasetStore(tmp_path / "s.sqlite") as store:
        (error,) = fill(store, [gone])
    assert "not a file" in error


def test_a_store_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "o" / "w" / "s.sqlite"), pytest.raises(StoreError, match="another run is working in"):
        DatasetStore(tmp_path / "o" / "w" / "s.sqlite")
    with DatasetStore(tmp_path / "o" / "w" / "s.sqlite"):
        pass


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_bytes(b"no database, but long enough to look like one" * 30)
    with pytest.raises(StoreError, match="is damaged"):
        DatasetStore(tmp_path / "s.sqlite")


KILLED = """
import os, signal, sys
from pathlib import Path
from int_model.datasets.store import DatasetStore
from tests.unit.int_model.datasets.folders import Shapes, fill

def kill(values):
    if 24 in values:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
with DatasetStore(folder / "s" / "results.sqlite") as store:
    fill(store, sorted((folder / "in").resolve().iterdir()), Shapes(kill))
"""


def test_sigkill_loses_at_most_one_micro_batch(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "in" / f"{value}.png", value) for value in range(20, 29)]
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    strategy = Shapes()
    with DatasetStore(tmp_path / "s" / "results.sqlite") as store:
        plan = make_plan(store, paths, LABELS, retry_failed=False)
        assert plan.done == 4, "batches of two: 20 to 23 were saved, 24 and 25 were being worked on"
        fill(store, paths, strategy)
        assert {value for _, value in strategy.seen} == {24, 25, 26, 27, 28}
        for path in paths:
            known = store.file(path)
            assert known is not None
            for plan_ in LABELS:
                result = store.result(plan_.key(known.digest))
                assert isinstance(result, StoredResult)
                for found, mask in zip(result.objects, shapes(plan_.prompt), strict=True):
                    np.testing.assert_array_equal(found.mask, mask)
