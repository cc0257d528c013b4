"""The run: every result once, whatever stops or breaks in between; costs noted; the JSON comes back as it was."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from int_model.core.config import IntConfig
from int_model.core.options import ConfigError, nested
from int_model.core.types import Image
from int_model.evaluation import BrokenExample, Example, Variant, evaluate, load_evaluation, save_evaluation
from int_model.evaluation.runner import STORE
from tests.support.fakes import TASK, FakeSegmenter, fake_suite, scene

VARIANTS = [Variant("full"), Variant("-PNM", config={"switches.pnm": False}), Variant("detector", "grounded_sam")]


def example(i: int, **more: Any) -> Example:
    image, masks = scene(objects=[("frog", 20 + 2 * i, 35, 15), ("snake", 100, 75, 10)][: 1 + i % 2])
    return Example(f"e{i}", image, TASK, instances=tuple(masks), **more)


@dataclass
class Choosy(FakeSegmenter):
    """Breaks on one image, and counts what it encodes."""

    poison: Image | None = None

    def encode(self, images: Sequence[Image]) -> Any:
        if self.poison is not None and any(np.array_equal(image, self.poison) for image in images):
            raise RuntimeError("this one is poison")
        return super().encode(images)


def test_every_variant_runs_on_every_example_in_order(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    outcome = evaluate(
        [example(i) for i in range(5)],
        VARIANTS,
        fake_suite(),
        cache_dir=tmp_path,
        batch_size=2,
        progress=lambda done, total, _text: told.append((done, total)),
    )
    names = [variant.name for variant in VARIANTS]
    assert [(r.variant, r.example) for r in outcome.records] == [(v, f"e{i}") for v in names for i in range(5)]
    assert told[-1] == (15, 15)
    by_name = {row.variant: row for row in outcome.summary()}
    assert by_name["detector"]["iou"].value > 0.95
    assert by_name["detector"]["ap"].value == pytest.approx(1, abs=0.01)
    assert by_name["full"]["calls"].value > 5 * by_name["detector"]["calls"].value
    record = outcome.records[0]
    assert record.calls["vlm_generate"] > 0
    assert record.metrics["seconds"] > 0
    assert record.metrics["peak_rss_mb"] > 10
    assert (tmp_path / record.picture).read_bytes()[:2] == b"\xff\xd8"


def test_a_second_run_makes_nothing_anew(tmp_path: Path) -> None:
    examples = [example(i) for i in range(3)]
    first = evaluate(examples, VARIANTS, fake_suite(), cache_dir=tmp_path)
    idle = fake_suite(segmenter=Choosy(poison=None))
    again = evaluate(examples, VARIANTS, idle, cache_dir=tmp_path)
    assert idle.segmenter.encoded == 0  # type: ignore[attr-defined]
    assert again.records == first.records
    assert again.summaries == first.summaries
    more = evaluate([*examples, example(3)], VARIANTS[:1], idle, cache_dir=tmp_path)
    assert idle.segmenter.encoded > 0  # type: ignore[attr-defined]
    assert len(more.records) == 4


CHANGES: dict[str, Any] = {
    "image": lambda e: replace(e, image=e.image ^ np.uint8(1)),
    "truth": lambda e: replace(e, instances=(e.instances[0], np.roll(e.instances[0], 1))),
    "task": lambda e: replace(e, task="owl"),
}


@pytest.mark.parametrize("what", [*CHANGES, "config", "models", "protocol"])
def test_whatever_changes_a_result_names_another_one(what: str, tmp_path: Path) -> None:
    before = example(0)
    evaluate([before], VARIANTS[:1], fake_suite(), cache_dir=tmp_path)
    after = CHANGES[what](before) if what in CHANGES else before
    suite = replace(fake_suite(), fingerprint="1" * 16) if what == "models" else fake_suite()
    variant = Variant("full", config={"fuse": {"duplicate_iou": 0.77}}) if what == "config" else VARIANTS[0]
    evaluate([after], [variant], suite, cache_dir=tmp_path, protocol="promac" if what == "protocol" else "native")
    assert kept(tmp_path) == 2


def test_the_same_work_under_two_names_is_done_once() -> None:
    counting = fake_suite(segmenter=Choosy())
    twins = [Variant("full"), Variant("five", config={"iterations.count": IntConfig().iterations.count})]
    outcome = evaluate([example(0)], twins, counting)
    single = fake_suite(segmenter=Choosy())
    evaluate([example(0)], twins[:1], single)
    assert counting.segmenter.encoded == single.segmenter.encoded  # type: ignore[attr-defined]
    assert [r.variant for r in outcome.records] == ["full", "five"]
    assert outcome.records[0].key == outcome.records[1].key


def test_one_bad_image_is_a_recorded_failure_and_is_tried_again(tmp_path: Path) -> None:
    examples = [example(i) for i in range(4)]
    poisoned = fake_suite(segmenter=Choosy(poison=examples[2].image))
    broken = BrokenExample("torn", "the image is truncated", TASK)
    outcome = evaluate([*examples, broken], VARIANTS[2:], poisoned, cache_dir=tmp_path, batch_size=4)
    assert {r.example: r.error for r in outcome.failures()} == {
        "e2": "the models failed on this image (RuntimeError: this one is poison); --debug shows where",
        "torn": "the image is truncated",
    }
    assert (outcome.summary()[0].images, outcome.summary()[0].failed) == (3, 2)
    assert evaluate(examples, VARIANTS[2:], fake_suite(), cache_dir=tmp_path).failures() == []


def test_damaged_results_are_made_anew(tmp_path: Path) -> None:
    first = evaluate([example(0)], VARIANTS[2:], fake_suite(), cache_dir=tmp_path)
    with sqlite3.connect(tmp_path / STORE) as store:
        (payload,) = store.execute("SELECT payload FROM results").fetchone()
    for damage in (payload[:200], b"", b"[]", b'{"key": "other"}'):
        with sqlite3.connect(tmp_path / STORE) as store:
            store.execute("UPDATE results SET payload = ?", (damage,))
        again = evaluate([example(0)], VARIANTS[2:], fake_suite(), cache_dir=tmp_path)
        assert again.summary()[0]["iou"].value == first.summary()[0]["iou"].value


def test_results_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "abcd.json").write_text("{}")
    with pytest.raises(ValueError, match="by an earlier version of this program; choose another --out"):
        evaluate([example(0)], VARIANTS, fake_suite(), cache_dir=tmp_path)


def kept(folder: Path) -> int:
    """How many results are in the store by now."""
    if not (folder / STORE).exists():
        return 0
    with closing(sqlite3.connect(folder / STORE)) as store:
        try:
            return int(store.execute("SELECT COUNT(*) FROM results").fetchone()[0])
        except sqlite3.OperationalError:  # it is being made
            return 0


SCRIPT = """
import sys, time
from pathlib import Path
from int_model.evaluation import Variant, evaluate
from tests.support.fakes import FakeSegmenter, fake_suite
from tests.unit.int_model.evaluation.test_runner import example

class Slow(FakeSegmenter):
    def encode(self, images):
        time.sleep(0.2)
        return super().encode(images)

evaluate([example(i) for i in range(30)], [Variant("d", "grounded_sam")], fake_suite(segmenter=Slow()),
         cache_dir=Path(sys.argv[1]), batch_size=1)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[4]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    try:
        while kept(tmp_path) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    finished = kept(tmp_path)
    assert 3 <= finished < 30
    with sqlite3.connect(tmp_path / STORE) as store:
        for (payload,) in store.execute("SELECT payload FROM results"):
            picture = tmp_path / json.loads(payload)["picture"]  # whole, every one of them, with its picture
            assert picture.read_bytes()[-2:] == b"\xff\xd9"
    counting = fake_suite(segmenter=Choosy())
    outcome = evaluate([example(i) for i in range(30)], [Variant("d", "grounded_sam")], counting, cache_dir=tmp_path)
    assert counting.segmenter.encoded == 30 - finished  # type: ignore[attr-defined]
    assert len(outcome.records) == 30
    assert outcome.failures() == []


def test_several_seeds_need_models_that_differ() -> None:
    with pytest.raises(ValueError, match="answers the same for every seed"):
        evaluate([example(0)], VARIANTS, fake_suite(), seeds=(1, 2))
    with pytest.raises(ValueError, match="seeds 1 and 2 are the same"):
        evaluate([example(0)], VARIANTS, lambda _seed: fake_suite(), seeds=(1, 2))
    outcome = evaluate(
        [example(0)], VARIANTS[2:], lambda seed: replace(fake_suite(), fingerprint=f"{seed:016d}"), seeds=(1, 2)
    )
    assert [r.seed for r in outcome.records] == [1, 2]
    assert outcome.setting.models == {"1": "0" * 15 + "1", "2": "0" * 15 + "2"}
    assert outcome.summary()[0]["iou"].images == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"variants": []}, "give at least one variant"),
        ({"variants": [Variant("a"), Variant("a", "vlm_box")]}, "two variants are called 'a'"),
        ({"variants": [Variant("a", config={"switches.pmn": False})]}, "there is no option 'switches.pmn'"),
        ({"examples": []}, "there are no images"),
        ({"examples": [example(0), example(0)]}, "two examples are called 'e0'"),
        ({"protocol": "paper"}, "there is no protocol 'paper'; choose one of: native, mask, promac"),
        ({"seeds": (1, 1)}, "each only once"),
    ],
)
def test_wrong_usage_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    given = {"examples": [example(0)], "variants": VARIANTS, "suite": fake_suite(), **change}
    with pytest.raises(ValueError, match=sentence):
        evaluate(given.pop("examples"), given.pop("variants"), given.pop("suite"), **given)


def test_variants_and_examples_check_themselves() -> None:
    with pytest.raises(ValueError, match="there is no strategy 'magic'"):
        Variant("a", "magic")
    with pytest.raises(ValueError, match="has a name"):
        Variant(" ")
    image, _ = scene()
    with pytest.raises(ValueError, match="has no truth"):
        Example("a", image, TASK)
    with pytest.raises(ValueError, match="a true mask is bool"):
        Example("a", image, TASK, mask=np.zeros((3, 3), dtype=np.bool_))
    assert nested({"a.b": 1, "a": {"c.d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}
    for clash in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}):
        with pytest.raises(ValueError, match="both as a value and as a section"):
            nested(clash)
    with pytest.raises(ConfigError):
        Variant("a", config={"nonsense": 1}).configured(IntConfig())


def test_an_evaluation_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    bad = BrokenExample("torn", "no image", TASK, group="g2")
    examples = [*(example(i, group=f"g{i % 2}", name="frog") for i in range(4)), bad]
    outcome = evaluate(examples, VARIANTS, fake_suite(), facts={"Data": "made up"}, rounds=50)
    file = tmp_path / "evaluation.json"
    save_evaluation(outcome, file)
    loaded = load_evaluation(file)
    assert loaded.setting == outcome.setting
    assert loaded.variants == outcome.variants
    assert loaded.summaries == outcome.summaries
    assert repr(loaded.differences) == repr(outcome.differences)  # NaN is not equal to itself
    assert loaded.records == tuple(replace(r, curves={}) for r in outcome.records)
    save_evaluation(loaded, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    data = json.loads(file.read_bytes())
    assert data["format"] == "int-evaluation/1"
    assert data["metrics"]["mae"]["better"] == "lower"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "int-evaluation/9", "setting": {}}'])
def test_other_files_are_no_evaluations(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not an evaluation|evaluate again"):
        load_evaluation(tmp_path / "e.json")
    with pytest.raises(ValueError, match="is not an evaluation"):
        load_evaluation(tmp_path / "none.json")
