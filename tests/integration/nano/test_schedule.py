"""What the schedule saves with K = 9 patches and I = 5 iterations, counted on the bundled models; equal results."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import schedule


def test_fewer_tokens_are_read_and_every_result_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert schedule.main(["--images", "3", "--iterations", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    sys.stdout.write("\n".join(lines))  # for `pytest -rP`
    rows = {line.split()[0]: json.loads(line[10:]) for line in lines}
    read = {name: row["prefilled tokens"] for name, row in rows.items()}
    assert read["literal"] > 3 * read["now"]
    assert read["unshared"] > 1.8 * read["now"]
    assert rows["now"]["images encoded by the VLM"] <= rows["unshared"]["images encoded by the VLM"]
    for row in rows.values():
        assert row["same names"] == 3
        assert row["least IoU of masks"] == 1.0
