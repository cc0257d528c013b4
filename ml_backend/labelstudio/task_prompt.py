"""Where the task prompt of a label comes from: the first that is set, from the task's field to the label's name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from int_model.core.task_prompt import TaskPrompt
from ml_backend.labelstudio.label_config import Target

Source = Literal["typed", "task field", "label", "control", "extra params", "environment", "label name"]
_PROMPT_KEYS = ("prompt", "prompts", "prompt_field")


class PromptError(ValueError):
    """There is no usable prompt; the message says where to put one."""


@dataclass(frozen=True, slots=True)
class ConnectionParams:
    """What the connection's extra params say.

    Attributes:
        prompt: for every label, or "".
        prompts: by label name or alias.
        prompt_field: a task field that holds the prompt, for controls without their own; or "".
        options: all other keys of the JSON object.
        warning: why the params were (partly) ignored, or "".
        folded: the prompts by label name or alias in any case.
    """

    prompt: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt_field: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""
    folded: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", {key.casefold(): text for key, text in self.prompts.items()})

    def for_label(self, target: Target) -> str:
        """The prompt for a target's label, "" if there is none; exact names go before names in another case."""
        if target.label is None:
            return self.prompt
        names = [name for name in (target.label.value, target.label.alias) if name]
        exact = [self.prompts[name] for name in names if name in self.prompts]
        loose = [self.folded[name.casefold()] for name in names if name.casefold() in self.folded]
        return next(iter(exact + loose), self.prompt)


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Targets that share one prompt and strategy ("": the service's) and therefore one run of the models."""

    prompt: TaskPrompt
    targets: tuple[Target, ...]
    source: Source
    strategy: str = ""

    def chosen(self, mined_name: str) -> list[Target]:
        """The targets for an instance of that mined name: of the label that means it, else of the first label."""
        named = [t for t in self.targets if t.label is not None and t.label.means(mined_name)]
        label = (named or list(self.targets))[0].label
        value = label.value if label else None
        return [t for t in self.targets if (t.label.value if t.label else None) == value]


def parse_extra_params(value: Any) -> ConnectionParams:
    """Read extra params in any form they come in: plain text, JSON text, an object, or nothing. Never raises."""
    if value is None:
        return ConnectionParams()
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return ConnectionParams()
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            if text[0] in "{[":
                return ConnectionParams(warning="the extra params look like JSON but are not valid; they are ignored")
            return ConnectionParams(prompt=text)
        if isinstance(parsed, bool | int | float):  # a prompt may be a number, e.g. the text on a plate
            return ConnectionParams(prompt=text)
        return ConnectionParams(prompt=parsed.strip()) if isinstance(parsed, str) else parse_extra_params(parsed)
    if isinstance(value, Mapping):
        return _from_mapping(value)
    kind = type(value).__name__
    return ConnectionParams(
        warning=f'the extra params are a {kind}; write the prompt as plain text or as {{"prompt": ...}}'
    )


def _from_mapping(value: Mapping[str, Any]) -> ConnectionParams:
    warnings = []
    prompt, prompts, prompt_field = value.get("prompt"), value.get("prompts"), value.get("prompt_field")
    if isinstance(prompt, Mapping) and prompts is None:
        prompt, prompts = None, prompt
    if prompt is not None and not isinstance(prompt, str):
        warnings.append("'prompt' is not text")
    if prompts is not None and not isinstance(prompts, Mapping):
        warnings.append("'prompts' is not an object of label: prompt")
    by_label = (
        {str(k): v.strip() for k, v in prompts.items() if isinstance(v, str) and v.strip()}
        if isinstance(prompts, Mapping)
        else {}
    )
    if isinstance(prompts, Mapping) and len(by_label) != len(prompts):
        warnings.append("some of 'prompts' are not text")
    return ConnectionParams(
        prompt=prompt.strip() if isinstance(prompt, str) else "",
        prompts=by_label,
        prompt_field=prompt_field.strip() if isinstance(prompt_field, str) else "",
        options={str(k): v for k, v in value.items() if k not in _PROMPT_KEYS},
        warning=f"in the extra params {' and '.join(warnings)}; that is ignored" if warnings else "",
    )


def prompt_of(
    target: Target, params: ConnectionParams, default: str, data: Mapping[str, Any], typed: str = ""
) -> tuple[str, Source]:
    """The prompt's text and where it came from.

    Args:
        target: label and control.
        params: of the connection.
        default: from the environment, or "".
        data: the task's data.
        typed: what the annotator typed just now, or "".

    Raises:
        PromptError: nothing is set and the control has no labels.
    """
    label, control = target.label, target.control
    steps: tuple[tuple[str, Source], ...] = (
        (typed, "typed"),
        (_field_text(control.prompt_field or params.prompt_field, data, target), "task field"),
        (label.prompt if label else "", "label"),
        (control.prompt, "control"),
        (params.for_label(target), "extra params"),
        (default, "environment"),
        (label.value if label else "", "label name"),
    )
    for text, source in steps:
        if text.strip():
            return " ".join(text.encode("utf-8", "replace").decode().split()), source
    raise PromptError(
        f"there is no prompt for <{control.geometry} name='{control.name}'>: set model_prompt on it, or write the "
        "prompt into the connection's extra params, or set INT_PROMPT"
    )


def group_by_prompt(
    targets: Sequence[Target],
    params: ConnectionParams,
    default: str,
    data: Mapping[str, Any],
    typed: str = "",
    strategies: Mapping[str, str] = MappingProxyType({}),
    max_prompts: int | None = None,
) -> list[PromptGroup]:
    """The runs that a task needs: targets by prompt (ignoring case) and strategy, in the order of the config.

    ``strategies`` names the strategy of controls, by their name.

    Raises:
        PromptError: a prompt is missing, or longer than allowed, or they are more than ``max_prompts``.
    """
    found: dict[tuple[str, str], tuple[str, Source, list[Target]]] = {}
    for target in targets:
        text, source = prompt_of(target, params, default, data, typed)
        key = (text.casefold(), strategies.get(target.control.name, ""))
        found.setdefault(key, (text, source, []))[2].append(target)
    if max_prompts is not None and len(found) > max_prompts:
        raise PromptError(
            f"the labels ask for {len(found)} different prompts; the most is INT_MAX_PROMPTS ({max_prompts}): give "
            "several labels one prompt (model_prompt on the control), or leave labels to people (model_skip)"
        )
    groups = []
    for (_, strategy), (text, source, members) in found.items():
        try:
            prompt = TaskPrompt(text)
        except ValueError as error:
            raise PromptError(f"the prompt from the {source} cannot be used: {error}") from None
        groups.append(PromptGroup(prompt, tuple(members), source, strategy))
    return groups


def _field_text(name: str, data: Mapping[str, Any], target: Target) -> str:
    value = data.get(name) if name else None
    if isinstance(value, Mapping) and target.label is not None:
        value = value.get(target.label.value) or value.get(target.label.alias)
    return value if isinstance(value, str) else ""
