"""The benchmark over worlds: lines, tables, going on. Its models are fakes; a scene's truth is what they find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import worlds
from benchmarks.variants import SETS


def line(scene: int, variant: str, iou: float, targets: int = 1, **more: Any) -> dict[str, Any]:
    base = {"world": "home", "profile": "nano", "cell": "", "id": f"scene {scene}", "named": None, "empty": 0.0}
    cost = {"calls": 10, "seconds": 0.1, "iterations": 1}
    return {**base, **cost, "variant": variant, "iou": iou, "targets": targets, **more}


LINES = [
    *(line(i, "grounded_sam", 0.5, 1 + i % 2) for i in range(20)),
    *(line(i, "int", 0.5 + 0.1 * (1 + i % 2), 1 + i % 2, named=float(i % 2)) for i in range(19)),
]


def test_differences_are_paired_and_kinds_of_scenes_apart() -> None:
    rows = {(row["scenes"], row["variant"]): row for row in worlds.table(LINES, "grounded_sam")}
    everything, one, several = (rows[kind, "int"] for kind in ("all", "one", "several"))
    assert (everything["n"], everything["paired"], rows["all", "grounded_sam"]["n"]) == (19, 19, 20)
    assert one["minus"] == pytest.approx([0.1, 0.1, 0.1])
    assert several["minus"] == pytest.approx([0.2, 0.2, 0.2])
    assert everything["minus"][0] == pytest.approx((10 * 0.1 + 9 * 0.2) / 19, abs=1e-4)
    assert everything["minus"][1] < everything["minus"][0] < everything["minus"][2]
    assert (one["named"], several["named"], rows["one", "grounded_sam"]["named"]) == (0, 1, None)
    assert not [row for row in rows.values() if row["scenes"] == "empty"]


def test_worlds_and_profiles_are_never_mixed() -> None:
    other = [{**entry, "profile": "second", "iou": 1.0} for entry in LINES]
    rows = worlds.table([*LINES, *other], "grounded_sam")
    found = {(row["profile"], row["variant"]): row for row in rows if row["scenes"] == "all"}
    assert found["nano", "grounded_sam"]["iou"] == 0.5
    assert found["second", "grounded_sam"]["iou"] == 1.0
    assert found["second", "int"]["minus"] == [0, 0, 0]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [json.dumps(entry) for entry in LINES]
    (tmp_path / "part-1.jsonl").write_text("\n".join(texts[:20]) + "\n" + texts[20][:30], encoding="utf-8")
    (tmp_path / "part-2.jsonl").write_text("\n".join(texts[20:]) + "\n", encoding="utf-8")
    assert worlds.read(tmp_path) == LINES
    assert worlds.main(["table", str(tmp_path)]) == 0
    assert "nano / home / several" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(SETS))
def test_every_variant_is_a_valid_configuration(name: str) -> None:
    names = [entry.variant.name for entry in SETS[name]]
    assert len(set(names)) == len(names)
    for entry in SETS[name]:
        worlds.options_of(entry.variant, entry.preset, "nano").config()


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    arguments = ["run", "--set", "choice", "--only", "grounded_sam", "--worlds", "mosaic", "--seeds", "7"]
    for count in ("1", "2", "2"):
        assert worlds.main([*arguments, "--count", count, "--out", str(tmp_path)]) == 0
        lines = worlds.read(tmp_path)
        assert len(lines) == int(count)
    assert {entry["variant"] for entry in lines} == {"grounded_sam"}
    assert len({entry["id"] for entry in lines}) == 2
