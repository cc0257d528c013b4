"""Options of the connection and of single controls: the nearest wins, and a wrong one costs nothing but a warning."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend.labelstudio.label_config import Control, parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions, options_for

DEFAULTS = OutputOptions()


def control(attributes: str = "") -> Control:
    config = parse_label_config(
        f'<View><Image name="i" value="$image"/><PolygonLabels name="p" toName="i" {attributes}><Label value="Cat"/>'
        "</PolygonLabels></View>"
    )
    return config.controls[0]


def test_without_any_option_everything_that_was_found_is_shown() -> None:
    assert (DEFAULTS.score_threshold, DEFAULTS.min_part, DEFAULTS.nested, DEFAULTS.strategy) == (
        0.0,
        0.0,
        "keep",
        "int",
    )
    chosen = options_for(control(), {}, DEFAULTS)
    assert (chosen.options, chosen.warnings) == (DEFAULTS, ())


@pytest.mark.parametrize("value", [0.0, 1.0, "0.25", " 1 "])
def test_shares_from_none_to_all_are_taken(value: Any) -> None:
    chosen = options_for(None, {"score_threshold": value, "min_part": value}, DEFAULTS)
    assert chosen.warnings == ()
    assert chosen.options.score_threshold == chosen.options.min_part == float(value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("score_threshold", 1.5, "less than or equal to 1"),
        ("score_threshold", -0.5, "greater than or equal to 0"),
        ("min_part", 1.5, "less than or equal to 1"),
        ("min_part", -0.5, "greater than or equal to 0"),
        ("min_part", "much", "valid number"),
        ("strategy", "magic", "there is no such strategy; choose one of: "),
        ("nested", "hide", "'join'"),
    ],
)
def test_what_is_out_of_range_is_ignored_and_named(name: str, value: Any, said: str) -> None:
    chosen = options_for(control(), {name: value}, DEFAULTS)
    told = [
        text for text in chosen.warnings if text.startswith(f"{name} = {str(value)!r} in the extra params is ignored: ")
    ]
    assert len(told) == 1
    assert said in told[0]
    assert getattr(chosen.options, name) == getattr(DEFAULTS, name)


def test_a_control_goes_before_the_connection_and_an_empty_option_says_nothing() -> None:
    extra = {"score_threshold": 0.5, "model_nested": "JOIN", "min_part": "", "strategy": None}
    connection = options_for(None, extra, DEFAULTS)
    assert connection.warnings == ()
    assert (connection.options.score_threshold, connection.options.nested) == (0.5, "join")
    own = options_for(control('model_score_threshold="0.75" model_nested=" "'), extra, DEFAULTS)
    assert (own.options.score_threshold, own.options.nested, own.options.min_part) == (0.75, "join", 0.0)
    wrong = options_for(control('model_score_threshold="7"'), extra, DEFAULTS)
    assert wrong.options.score_threshold == 0.5
    (told,) = wrong.warnings
    assert "<... name='p'>" in told
