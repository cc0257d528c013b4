"""The resumable part: what is saved, what is done again, and what a SIGKILL loses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from int_model.core.task_prompt import TaskPrompt
from int_model.datasets.collect import known_file, make_plan, result_key
from int_model.datasets.records import Result, StoredObject, decode_mask, encode_mask, measure
from int_model.datasets.store import Store, StoreError
from tests.unit.int_model.datasets.folders import LABELS, Shapes, fill, picture, shapes

KEYS = [plan.key for plan in LABELS]


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
def test_masks_survive_and_are_measured(mask: np.ndarray) -> None:
    counts = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(counts, mask.shape), mask)
    area, (x, y, w, h) = measure(counts, mask.shape)
    assert area == mask.sum()
    if area:
        rows, cols = np.nonzero(mask)
        assert (x, y, w, h) == (cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1)


def test_results_survive_as_text() -> None:
    result = Result((StoredObject("04", 'a "name"\n', 0.25),), "näme", "", "", 1.5, "1")
    assert Result.from_json(result.to_json()) == result
    for text in ("", "[]", '{"objects": [[1]]}', '{"objects": [], "what": 1}'):
        with pytest.raises(ValueError, match=r"cannot be read|Expecting|unpack"):
            Result.from_json(text)


def test_the_key_knows_everything_that_makes_a_result() -> None:
    base = ("models", "int", "config", TaskPrompt("polyp"))
    others = [
        ("m", *base[1:]),
        (base[0], "vlm_box", *base[2:]),
        (*base[:2], "c", base[3]),
        (*base[:3], TaskPrompt("x")),
    ]
    assert len({result_key(*key) for key in (base, *others)}) == 5
    assert result_key(*base) == result_key(*base[:3], TaskPrompt(" polyp. "))


def test_a_second_run_does_nothing_and_new_images_are_added(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in (10, 0, 12)]
    with Store(tmp_path / "s" / "results.sqlite") as store:
        assert fill(store, paths) == [""] * 3
    again = Shapes()
    with Store(tmp_path / "s" / "results.sqlite") as store:
        plan = make_plan(store, paths, KEYS, retry_failed=True)
        assert (plan.todo, plan.done, plan.failed) == ((), 3, 0)
        paths.append(picture(tmp_path / "new.png", 13))
        fill(store, paths, again)
        assert again.seen == [("rings", 13), ("pairs", 13)]
        known = known_file(store, paths[1])
        assert known is not None
        result = store.result(known.digest, "key-rings")
        assert result is not None
        assert (result.objects, result.reason) == ((), "nothing there")


def test_another_prompt_does_its_own_work_only(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "a.png", 10)]
    with Store(tmp_path / "s.sqlite") as store:
        fill(store, paths)
        assert make_plan(store, paths, [*KEYS, "other"], retry_failed=False).todo == tuple(paths)
        assert store.count("other") == 0
        assert make_plan(store, paths, KEYS[:1], retry_failed=False).done == 1


def test_a_changed_file_is_done_again_a_renamed_one_is_not(tmp_path: Path) -> None:
    old = picture(tmp_path / "a.png", 10)
    with Store(tmp_path / "s.sqlite") as store:
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
    with Store(tmp_path / "s.sqlite") as store:
        assert fill(store, paths, strategy) == [""] * 4
    assert strategy.seen == [("rings", 10), ("pairs", 10)]


def test_broken_and_failing_images_are_kept_apart_and_tried_again_when_asked(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in (10, 1, 12)]
    broken = tmp_path.resolve() / "broken.png"
    broken.write_bytes(b"<html>")
    with Store(tmp_path / "s.sqlite") as store:
        errors = fill(store, [*paths, broken])
        assert sorted(errors, key=len)[:2] == ["", ""]
        assert any("out of memory" in error for error in errors)
        assert any("looks like HTML" in error for error in errors)
        plan = make_plan(store, [*paths, broken], KEYS, retry_failed=False)
        assert (len(plan.todo), plan.done, plan.failed) == (0, 2, 2)
        plan = make_plan(store, [*paths, broken], KEYS, retry_failed=True)
        assert plan.todo == (paths[1], broken)
        picture(broken, 30)
        strategy = Shapes()
        assert len(fill(store, [*paths, broken], strategy, retry=True)) == 2
        assert {value for _, value in strategy.seen} == {30}
        assert make_plan(store, [*paths, broken], KEYS, retry_failed=False).failed == 1


def test_an_unreadable_file_is_an_error_not_an_end(tmp_path: Path) -> None:
    gone = tmp_path.resolve() / "gone.png"
    with Store(tmp_path / "s.sqlite") as store:
        (error,) = fill(store, [gone])
    assert "not a file" in error


def test_a_store_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with Store(tmp_path / "o" / "w" / "s.sqlite"), pytest.raises(StoreError, match="another run is working in"):
        Store(tmp_path / "o" / "w" / "s.sqlite")
    with Store(tmp_path / "o" / "w" / "s.sqlite"):
        pass


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_bytes(b"no database, but long enough to look like one" * 30)
    with pytest.raises(StoreError, match="is damaged"):
        Store(tmp_path / "s.sqlite")


def test_a_failed_save_keeps_nothing_of_its_batch(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 10)
    with Store(tmp_path / "s.sqlite") as store:

        class Bad(Result):
            def to_json(self) -> str:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.save([], {("d", "k"): Result(), ("e", "k"): Bad()})
        assert store.state("d", "k") is None
        assert fill(store, [path]) == [""]


KILLED = """
import os, signal, sys
from pathlib import Path
from int_model.datasets.store import Store
from tests.unit.int_model.datasets.folders import Shapes, fill

def kill(values):
    if 24 in values:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
with Store(folder / "s" / "results.sqlite") as store:
    fill(store, sorted((folder / "in").resolve().iterdir()), Shapes(kill))
"""


def test_sigkill_loses_at_most_one_micro_batch(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "in" / f"{value}.png", value) for value in range(20, 29)]
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    strategy = Shapes()
    with Store(tmp_path / "s" / "results.sqlite") as store:
        plan = make_plan(store, paths, KEYS, retry_failed=False)
        assert plan.done == 4, "batches of two: 20 to 23 were saved, 24 and 25 were being worked on"
        fill(store, paths, strategy)
        assert {value for _, value in strategy.seen} == {24, 25, 26, 27, 28}
        for path in paths:
            known = known_file(store, path)
            assert known is not None
            for plan_ in LABELS:
                result = store.result(known.digest, plan_.key)
                assert result is not None
                for found, mask in zip(result.objects, shapes(plan_.prompt), strict=True):
                    np.testing.assert_array_equal(decode_mask(found.counts, known.size), mask)
