"""The attributes of a labeling config that this backend reads, as data: for the documentation and for `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from defusedxml.ElementTree import fromstring

from ml_backend.labelstudio.output_options import OutputOptions


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        name: as it is written, in lower case.
        on: ``control`` (PolygonLabels, Polygon, ...) or ``label``.
        values: what it may hold.
        default: in words.
        meaning: one sentence.
    """

    name: str
    on: str
    values: str
    default: str
    meaning: str


PROMPTING = (
    Attribute("model_prompt", "control", "text", "", "Task prompt of all its labels that have none of their own."),
    Attribute("model_prompt", "label", "text", "", "Task prompt of this label."),
    Attribute("hint", "label", "text", "", "Taken as the task prompt where model_prompt is not set."),
    Attribute("model_prompt_field", "control", "name of a task field", "", "The task's own prompt, before all others."),
    Attribute("predicted_values", "label", "names, separated by commas", "", "Mined names that mean this label."),
    Attribute("alias", "label", "text", "", "Stands in results instead of the label's name, as Label Studio has it."),
    Attribute(
        "model_skip", "control", "true or false", "by priority",
        "true: never fill it; false: fill it even if another control of the image has the same labels.",
    ),
    Attribute("model_skip", "label", "true or false", "false", "true: leave this label to people."),
)  # fmt: skip


def output_attributes() -> tuple[Attribute, ...]:
    """One per output option, from the model that checks them."""
    schema = OutputOptions.model_json_schema()["properties"]
    return tuple(
        Attribute(f"model_{name}", "control", _values(schema[name]), f"`INT_{name.upper()}`", info.description or "")
        for name, info in OutputOptions.model_fields.items()
    )


def unknown_attributes(config: str) -> list[tuple[str, str]]:
    """``model_*`` attributes that nothing reads, as (attribute, tag). The text must be a config that parses."""
    on_control = {entry.name for entry in (*PROMPTING, *output_attributes()) if entry.on == "control"}
    on_label = {entry.name for entry in PROMPTING if entry.on == "label"}
    found = []
    for element in fromstring(config, forbid_dtd=True).iter():
        if not isinstance(element.tag, str):
            continue
        known = on_label if element.tag.lower() == "label" else on_control
        who = element.get("name") or element.get("value") or ""
        where = f"<{element.tag} {'value' if element.tag.lower() == 'label' else 'name'}='{who}'>"
        names = (key.lower() for key in element.attrib)
        found += [(name, where) for name in names if name.startswith("model_") and name not in known]
    return found


def _values(schema: dict[str, object]) -> str:
    if "enum" in schema:
        choices = schema["enum"]
        return ", ".join(map(str, choices)) if isinstance(choices, list) else ""
    low, high = schema.get("minimum"), schema.get("maximum")
    kind = "whole number" if schema.get("type") == "integer" else "number"
    if low is not None and high is not None:
        return (
            f"{kind} from {low:g} to {high:g}" if isinstance(low, int | float) and isinstance(high, int | float) else ""
        )
    return f"{kind}, at least {low:g}" if isinstance(low, int | float) else kind
