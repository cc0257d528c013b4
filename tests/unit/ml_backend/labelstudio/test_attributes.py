"""What attributes hold and where they count, as the documentation and `doctor` tell it."""

from __future__ import annotations

from ml_backend.labelstudio.attributes import PROMPTING, output_attributes, unknown_attributes
from ml_backend.labelstudio.output_options import OutputOptions

CONFIG = (
    '<View><!-- a note --><Image name="image" value="$image"/><PolygonLabels name="label" toName="image" {control}>'
    '<Label value="Animal" {label}/></PolygonLabels></View>'
)


def test_every_output_option_is_an_attribute_with_its_range_and_meaning() -> None:
    told = {one.name: one for one in output_attributes()}
    assert list(told) == [f"model_{name}" for name in OutputOptions.model_fields]
    values = {name: one.values for name, one in told.items()}
    assert values["model_score_threshold"] == "number from 0 to 1"
    assert values["model_max_points"] == "whole number, at least 0"
    assert set(values["model_nested"].split(", ")) == {"keep", "drop", "join"}
    for name, field in OutputOptions.model_fields.items():
        assert field.description
        assert told[f"model_{name}"].meaning == field.description
        assert told[f"model_{name}"].default == f"`INT_{name.upper()}`"
        assert told[f"model_{name}"].on == "control"


def test_an_attribute_counts_on_its_own_tag_only() -> None:
    for entry in PROMPTING:
        there, elsewhere = entry.on, {"control": "label", "label": "control"}[entry.on]
        config = CONFIG.format(**{there: f'{entry.name}="x"', elsewhere: ""})
        assert unknown_attributes(config) == []
    only_of_a_control = CONFIG.format(control="", label='model_prompt_field="caption" model_nested="join"')
    assert unknown_attributes(only_of_a_control) == [
        ("model_prompt_field", "<Label value='Animal'>"),
        ("model_nested", "<Label value='Animal'>"),
    ]
    assert unknown_attributes(CONFIG.format(control='opacity="0.5" model_what="y"', label='background="red"')) == [
        ("model_what", "<PolygonLabels name='label'>")
    ]
