"""The knobs of a control: defaults from the settings, then the connection's extra params, then the control's tag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from int_model.masks.polygons import PolygonOptions
from int_model.strategies.registry import STRATEGIES
from ml_backend.labelstudio.label_config import Control

Nested = Literal["join", "drop", "keep"]


class OutputOptions(PolygonOptions):
    """How masks are made and what becomes of them; every field can be set in the labeling config.

    As ``model_<field>`` on a control tag, or for the whole connection in its extra params.
    """

    strategy: str = Field(
        "int",
        description="How masks are made. The models are loaded once for all of them.",
        json_schema_extra={"enum": list(STRATEGIES)},
    )
    score_threshold: float = Field(
        0.0, ge=0.0, le=1.0, description="Below it a mask is left out, and a whole result counts as found nothing."
    )

    nested: Nested = Field(
        "keep",
        description="What becomes of a mask that lies in a larger one, being the same object again or a piece of it: "
        "join, drop or keep.",
    )
    min_part: float = Field(
        0.0, ge=0.0, le=1.0, description="Parts smaller than this share of an object's largest part are dropped."
    )

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        if value not in STRATEGIES:
            raise ValueError(f"there is no such strategy; choose one of: {', '.join(STRATEGIES)}")
        return value


@dataclass(frozen=True, slots=True)
class Chosen:
    """Options and what was wrong with those that had to be ignored."""

    options: OutputOptions
    warnings: tuple[str, ...] = ()


def options_for(control: Control | None, extra: Mapping[str, Any], defaults: OutputOptions) -> Chosen:
    """The options of a control (None: of the connection). A value out of range is ignored, with a warning."""
    options, warnings = defaults, []
    layers: list[tuple[str, Callable[[str], Any]]] = [
        ("the extra params", lambda name: extra.get(name, extra.get(f"model_{name}")))
    ]
    if control is not None:
        attributes = control.attributes
        layers.append((f"<... name='{control.name}'>", lambda name: attributes.get(f"model_{name}")))
    for place, get in layers:
        for name in OutputOptions.model_fields:
            value = get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            try:
                text = value.strip().lower() if isinstance(value, str) else value
                options = OutputOptions.model_validate(options.model_dump() | {name: text})
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                warnings.append(f"{name} = {str(value)[:40]!r} in {place} is ignored: {reason}")
    return Chosen(options, tuple(warnings))
