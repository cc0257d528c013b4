"""The page of settings and attributes says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ml_backend.cli.docs_tables import PAGE, page, variables
from ml_backend.labelstudio.attributes import PROMPTING, Attribute, output_attributes, unknown_attributes
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions, options_for
from ml_backend.labelstudio.task_prompt import ConnectionParams, prompt_of
from ml_backend.settings import Settings

LABELLED = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image" {}>'
    '<Label value="Animal" {}/><Label value="Plant"/></PolygonLabels></View>'
)
PACKAGE = Path(sys.modules["ml_backend"].__file__ or "").parent


def test_the_committed_page_is_up_to_date(tmp_path: Path) -> None:
    assert PAGE.read_text() == page(), "run: python -m ml_backend.cli.docs_tables"
    target = tmp_path / "page.md"
    subprocess.run([sys.executable, "-m", "ml_backend.cli.docs_tables", str(target)], check=True)
    assert target.read_text() == page()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_row_with_a_meaning_and_its_variable_works(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = Settings.model_fields[name]
    (row,) = [line for line in page().splitlines() if line.startswith(f"| `{variables(name, info)[0]}`")]
    assert info.description
    assert info.description in row
    assert all(_told(name, variable, monkeypatch) != _told(name, "", monkeypatch) for variable in variables(name, info))


def _told(name: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What becomes of a setting whose variable holds nonsense: its value, or the error."""
    with monkeypatch.context() as patch:
        if variable:
            patch.setenv(variable, "no such value {")
        try:
            value = getattr(Settings(), name)
        except ValueError as error:
            return str(error)
        return str(getattr(value, "get_secret_value", lambda: value)())


def _read(control: str = "", label: str = "") -> tuple[object, ...]:
    """Everything that an attribute can change."""
    config = parse_label_config(LABELLED.format(control, label))
    targets = config.targets("image")
    prompts = [prompt_of(t, ConnectionParams(), "", {"field": "a task's own"}) for t in targets]
    first = config.controls[0]
    labels = [(x.output, x.means("frog")) for x in first.labels]
    return (prompts, labels, first.skip, options_for(first, {}, OutputOptions()).options)


VALUES = {
    "model_prompt": "frog",
    "hint": "frog",
    "model_prompt_field": "field",
    "predicted_values": "frog, toad",
    "alias": "Tier",
    "model_strategy": "vlm_box",
    "model_score_threshold": "0.5",
    "model_min_area": "99",
    "model_epsilon": "3",
    "model_min_iou": "0.5",
    "model_max_points": "9",
    "model_holes": "drop",
    "model_nested": "join",
    "model_min_part": "0.1",
}


@pytest.mark.parametrize("entry", [*PROMPTING, *output_attributes()], ids=lambda e: f"{e.name} on {e.on}")
def test_every_attribute_in_the_table_changes_something(entry: Attribute) -> None:
    name, on = entry.name, entry.on
    text = f'{name}="{VALUES.get(name, "false" if on == "control" else "true")}"'
    assert _read(**{on: text}) != _read()
    assert unknown_attributes(LABELLED.format(*([text, ""] if on == "control" else ["", text]))) == []


def test_every_attribute_that_the_code_reads_is_in_the_table() -> None:
    texts = [
        (PACKAGE / "labelstudio" / f"{name}.py").read_text()
        for name in ("label_config", "task_prompt", "output_options")
    ]
    read = {name for text in texts for name in re.findall(r'\.get\("(model_\w+)"', text)}
    assert read
    assert read <= {entry.name for entry in PROMPTING}


def test_an_attribute_on_the_wrong_tag_is_unknown_there() -> None:
    found = unknown_attributes(LABELLED.format('model_promt="x"', 'model_epsilon="3" MODEL_PROMPT="y"'))
    assert found == [
        ("model_promt", "<PolygonLabels name='label'>"),
        ("model_epsilon", "<Label value='Animal'>"),
    ]
