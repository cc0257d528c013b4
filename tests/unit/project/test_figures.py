from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
_SPEC = importlib.util.spec_from_file_location("figures", ROOT / "scripts" / "figures.py")
assert _SPEC is not None
assert _SPEC.loader is not None
figures: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figures)

DATA = {
    "nano": {"strategies": {"int": {"iou": [0.67, 0.635, 0.705], "polyp": 0.7}, "box": {"polyp": 0.4}}, "scenes": 240}
}


def test_no_document_says_anything_else_than_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["--check"]) == 0, f"{capsys.readouterr().out}run: make figures"


def test_documents_do_quote_figures() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    marks = re.findall(r"<!-- figures?: [^>]+ -->", "".join(page.read_text() for page in pages))
    assert len(marks) >= 4


def test_every_file_of_figures_names_the_command_that_wrote_it() -> None:
    files = list((ROOT / "docs" / "figures").glob("*.json"))
    assert files
    for path in files:
        assert json.loads(path.read_text())["command"].startswith("python -m ")


def test_a_changed_number_and_a_changed_table_are_noticed() -> None:
    text = (
        "IoU <!-- figure: nano.strategies.int.iou -->0.99<!-- /figure --> on "
        "<!-- figure: nano.scenes -->7<!-- /figure -->\n"
        "<!-- figures: nano.strategies -->\nold\n<!-- /figures -->\n"
    )
    printed = figures.printed(text, DATA)
    assert "-->0.67<!--" in printed
    assert "-->240<!--" in printed
    assert "| `int` | 0.670 (0.635 - 0.705) | 0.700 |" in printed
    assert "| `box` |  | 0.400 |" in printed
    assert figures.printed(printed, DATA) == printed


def test_a_figure_that_was_never_measured_is_refused() -> None:
    with pytest.raises(KeyError):
        figures.printed("<!-- figure: nano.nothing -->1<!-- /figure -->", DATA)
