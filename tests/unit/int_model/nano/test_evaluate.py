"""The test set, and the tables of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from int_model.evaluation import Evaluation, Record
from int_model.evaluation.result import Setting, VariantInfo, conclude
from int_model.nano import evaluate
from int_model.nano.evaluate import held_out
from int_model.nano.world import TASKS


def test_the_test_set_is_large_enough_and_holds_every_task() -> None:
    assert evaluate.SCENES >= 200
    assert {held_out(index).task for index in range(40)} == set(TASKS)
    again = evaluate.SceneGenerator("test", evaluate.TEST_SEED).scene(3)
    assert np.array_equal(held_out(3).image, again.image)


def record(variant: str, scene: int, iou: float, contrast: float | None = None) -> Record:
    task = list(TASKS)[scene % 3]
    named = None if variant == "vlm_box" else 1.0
    metrics = {"iou": iou, "named": named, "seconds": 0.5, "calls": 7.0, "contrast": contrast}
    return Record(f"scene {scene}", task, "", variant, 0, metrics=metrics, calls={"detect": 7})


def measured() -> Evaluation:
    setting = Setting("2026", "1", "nano", "cpu", {"0": "f"}, "native", (0,), 500)
    records = [record("vlm_box", i, 0.25) for i in range(6)]
    records += [record("int", i, 0.75, None if i == 5 else 0.1 * (i - 1)) for i in range(6)]
    return conclude(setting, [VariantInfo(name, name) for name in ("vlm_box", "int")], records)


def text(table: Table) -> str:
    console = Console(width=200, record=True)
    console.print(table)
    return console.export_text()


def test_the_tables_say_what_was_measured() -> None:
    first, second = [line for line in text(evaluate.strategy_table(measured())).splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in first.split("│")[1:-1]] == [
        "vlm_box", "0.250  [0.250, 0.250]", "0.250", "0.250", "0.250", "", "-", "0.50"
    ]  # fmt: skip
    assert [cell.strip() for cell in second.split("│")[1:-1]] == [
        "int", "0.750  [0.750, 0.750]", "0.750", "0.750", "0.750", "0.500  [0.500, 0.500]", "1.00", "0.50"
    ]  # fmt: skip
    kit = text(evaluate.kit_table({"SAM": [0.5, 0.7], "CLIP": [1.0, 0.0, 1.0]}))
    assert kit.index("CLIP") < kit.index("SAM")
    assert "0.600" in kit
    assert "0.667" in kit


def test_the_contrast_counts_where_both_names_stood() -> None:
    own = [record for record in measured().records if record.variant == "int"]
    told = evaluate.contrast_line(own)
    assert "5 scenes that had both: 0.100" in told
    assert told.endswith("positive in 60%.")
    assert evaluate.contrast_line(own[5:]).startswith("No scene had both")


def test_all_of_it_on_two_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.json"
    variant = ["--variant", "short", '{"iterations": {"count": 1}}']
    options = ["--count", "2", "--processes", "1", "--strategies", "vlm_box", *variant, "--json", str(values)]
    assert evaluate.main(options) == 0
    told = capsys.readouterr()
    assert "part 2 of 2" in told.err
    assert "2 scenes in" in told.out
    kept = json.loads(values.read_text())
    assert [(r["variant"], r["example"]) for r in kept["records"]] == [
        (name, f"scene 2501-000{i}") for name in ("vlm_box", "short") for i in range(2)
    ]
    assert len(kept["kit"]["SAM, box prompt: mean IoU"]) == sum(len(held_out(i).targets) for i in range(2))
