"""The table "where does INT pay?": right rows, paired differences, targets and empty scenes apart."""

from __future__ import annotations

import pytest

from int_model.evaluation.records import Detections, Record
from int_model.evaluation.result import Evaluation, Setting, VariantInfo
from int_model.nano.cell_table import cell_rows, cell_table
from int_model.nano.worlds import table_cells

GAINS = {"hidden": 0.2, "half": 0.1, "plain": 0.0}


def record(example: str, group: str, variant: str, truths: int, iou: float, empty: float) -> Record:
    found = Detections((), tuple(() for _ in range(10)), truths)
    metrics = {"iou": iou, "empty": empty}
    return Record(example, "camouflaged animal", group, variant, 0, metrics=metrics, detections=found)


@pytest.fixture
def evaluation() -> Evaluation:
    """In every cell six scenes with one target, three with two, two empty ones; ``int`` gains by camouflage."""
    records = []
    for group in table_cells():
        for number, truths in enumerate([1] * 6 + [2] * 3 + [0] * 2):
            gain = GAINS[group.split(", ")[0]] * (1 if truths == 1 else -0.5)
            base = 0.4 + 0.01 * number
            left = truths == 0
            records.append(record(f"{group} {number}", group, "int", truths, 1.0 if left else base + gain, float(left)))
            records.append(record(f"{group} {number}", group, "plain detector", truths, 0.0 if left else base, 0.0))
    setting = Setting("", "", "", "", {}, "native", (0,), 100, {})
    variants = (VariantInfo("int", "int"), VariantInfo("plain detector", "grounded_sam"))
    return Evaluation(setting, variants, tuple(records), (), ())


def test_gains_stand_in_their_cells(evaluation: Evaluation) -> None:
    rows = {row.cell: row for row in cell_rows(evaluation, "int", 200)}
    assert list(rows)[:8] == ["all", "plain", "half", "hidden", "clean", "cluttered", "home", "away"]
    assert len(rows) == 1 + 7 + 12
    for cell, gain in (("hidden, clean, away", 0.2), ("half", 0.1), ("plain, cluttered, home", 0.0)):
        row = rows[cell]
        assert row.one_target is not None
        assert row.several_targets is not None
        assert row.any_target is not None
        assert row.one_target.value == pytest.approx(gain)
        assert row.several_targets.value == pytest.approx(-gain / 2)
        assert row.any_target.value == pytest.approx((6 * gain - 3 * gain / 2) / 9)
        assert row.one_target.low == pytest.approx(gain)  # paired: every image gains the same
    whole = rows["all"].one_target
    assert whole is not None
    assert whole.images == 72
    assert whole.value == pytest.approx(0.1)
    assert whole.low < whole.value < whole.high


def test_the_table_in_markdown(evaluation: Evaluation) -> None:
    text = cell_table(evaluation, "int", 200)
    assert "## int minus plain detector, IoU" in text
    assert "| hidden, clean, away | 0.54" in text
    assert "+0.200 (+0.200 to +0.200), 6 | -0.100 (-0.100 to -0.100), 3 |" in text
    assert "| int | 1.000 (1.000 to 1.000), 24 |" in text
    assert "| plain detector | 0.000 (0.000 to 0.000), 24 |" in text
