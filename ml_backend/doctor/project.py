"""What the project asks for: its labeling config against our outputs, and whether it shows predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from defusedxml.ElementTree import fromstring

from ml_backend.connect.plan import Change, apply
from ml_backend.doctor.diagnosis import Diagnosis, of_error, ok, problem, split_remedy, warning
from ml_backend.labelstudio.attributes import unknown_attributes
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import PRELABEL_SETTING, prelabel_obstacles
from ml_backend.labelstudio.label_config import ConfigError, LabelingConfig, parse_label_config
from ml_backend.labelstudio.output_options import options_for
from ml_backend.labelstudio.task_prompt import ConnectionParams, PromptError, parse_extra_params, prompt_of
from ml_backend.settings import Settings

CONFIG, PREDICTIONS, SAMPLING, CLICKS, FIX = "labeling config", "predictions", "sampling", "clicks", "fix"
_SHOWN = 3


def examine_config(text: str, extra_params: Any, settings: Settings) -> tuple[list[Diagnosis], LabelingConfig | None]:
    """The labeling config and the connection's extra params; the config is None where it cannot work."""
    try:
        config = parse_label_config(text)
    except ConfigError as error:
        message, remedy = split_remedy(str(error), "")
        if not remedy:
            message, _, remedy = str(error).partition(" Needed: ")
        return [problem(CONFIG, _sentence(message), remedy or "correct it in Settings > Labeling Interface")], None
    params = parse_extra_params(extra_params)
    found: list[Diagnosis] = []
    if params.warning:
        remedy = "correct the extra params of the connection (Settings > Model): plain text, or JSON"
        found.append(warning(CONFIG, _sentence(params.warning), remedy))
    found += [_skipped(text) for text in config.warnings]
    for control in config.controls:
        for text_ in options_for(control, params.options, settings.output).warnings:
            found.append(warning(CONFIG, _sentence(text_), "correct the value; docs/settings.md lists what is allowed"))
    for name, where in unknown_attributes(text):
        said = f"The attribute {name} on {where} is not known and changes nothing."
        found.append(warning(CONFIG, said, "correct its name; docs/settings.md lists all attributes"))
    prompts, broken = _prompts(config, params, settings)
    found += broken
    if not broken:
        controls = ", ".join(dict.fromkeys(f"{t.control.geometry} '{t.control.name}'" for t in _targets(config)))
        found.append(ok(CONFIG, f"It can be pre-annotated: {controls}; prompts: {', '.join(prompts)}."))
    return found, config


def examine_predictions(project: Mapping[str, Any], title: str, version: str) -> list[Diagnosis]:
    """Whether the project shows our predictions.

    Args:
        project: as Label Studio gives it.
        title: of our connection, or "" if there is none.
        version: our model version, or "" if unknown.
    """
    obstacles = prelabel_obstacles(project, version, title)
    found = [
        (problem if obstacle.hides_all else warning)(
            PREDICTIONS, _sentence(obstacle.text), f"{obstacle.remedy}, or run the doctor with --fix"
        )
        for obstacle in obstacles
    ]
    chosen = str(project.get("model_version") or "")
    if not found:
        live = " (it asks the backend for them, which has to be running)" if title and chosen == title else ""
        found.append(ok(PREDICTIONS, f"The project shows predictions{f' of {chosen!r}' if chosen else ''}{live}."))
    if project.get("sampling") == "Uncertainty sampling" and title and chosen != version:
        text = (
            "Uncertainty sampling looks for predictions of the chosen version; with a connection's title it is random."
        )
        wanted = repr(version) if version else "a version int-..."
        remedy = f"choose {wanted} under {PRELABEL_SETTING} once predictions exist"
        found.append(warning(SAMPLING, text, remedy))
    return found


def examine_clicks(config: str, *, interactive: bool) -> Diagnosis | None:
    """Whether clicks with the config's smart tools are sent to us; None where it has none. The config must parse."""
    tools = [e.tag for e in fromstring(config, forbid_dtd=True).iter() if str(e.get("smart", "")).lower() == "true"]
    if not tools:
        return None
    named = ", ".join(dict.fromkeys(map(str, tools)))
    if interactive:
        return ok(CLICKS, f"The smart tools {named} ask our connection.")
    text = f"The labeling config has smart tools ({named}), but the connection does not take clicks."
    return warning(CLICKS, text, "switch on 'Use for interactive preannotations' in the connection (Settings > Model)")


def mended(client: LabelStudioClient, change: Change) -> Diagnosis:
    """Make a change of `ml_backend.connect`; says what was changed, or why it was not."""
    try:
        apply(client, change)
    except LabelStudioError as error:
        return of_error(FIX, error, "change it in the project's settings", before="Not changed: ")
    return ok(FIX, f"Changed: {change.text}.")


def _targets(config: LabelingConfig) -> list[Any]:
    return [target for image in config.images for target in config.targets(image)]


def _prompts(config: LabelingConfig, params: ConnectionParams, settings: Settings) -> tuple[list[str], list[Diagnosis]]:
    """The prompts of a task without fields of its own, and labels that have none."""
    said: list[str] = []
    broken: list[Diagnosis] = []
    for target in _targets(config):
        try:
            text, source = prompt_of(target, params, settings.prompt, {})
        except PromptError as error:
            message, _, remedy = str(error).partition(": ")
            broken.append(problem(CONFIG, _sentence(message), remedy))
            continue
        said.append(f"{text!r} (from the {source})")
    unique = list(dict.fromkeys(said))
    more = [f"and {len(unique) - _SHOWN} more"] if len(unique) > _SHOWN else []
    return unique[:_SHOWN] + more, list(dict.fromkeys(broken))


def _skipped(text: str) -> Diagnosis:
    return warning(CONFIG, _sentence(f"{text}; it is left out"), "correct it in Settings > Labeling Interface")


def _sentence(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
