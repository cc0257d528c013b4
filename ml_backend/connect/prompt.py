"""The task prompt and options in a connection's extra params, without losing what else they say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from int_model.core.task_prompt import TaskPrompt
from ml_backend.labelstudio.label_config import LabelingConfig
from ml_backend.labelstudio.task_prompt import parse_extra_params


def with_params(current: Any, prompt: str = "", options: Mapping[str, Any] | None = None) -> Any:
    """The extra params with that prompt for every label that has none of its own, and with those options.

    Plain text is a prompt; of an object (or of JSON text) only the keys ``prompt`` and those of the options change.

    Args:
        current: the extra params as they are.
        prompt: "" for the one that is there.
        options: by the names of `OutputOptions`; others stay as they are.

    Raises:
        ValueError: the prompt is no usable one, or the extra params cannot be read.
    """
    text = TaskPrompt(prompt).text if prompt else ""
    params = parse_extra_params(current)
    if params.warning:
        raise ValueError(f"{params.warning}; correct the extra params under Settings > Model, then connect again")
    stored = _object(current)
    if stored is None:
        kept = {"prompt": text or params.prompt} if text or params.prompt else {}
        return text if not options and text and not _read_as_other(text) else json.dumps(kept | dict(options or {}))
    changed = {**stored, **(options or {})}
    if text and isinstance(changed.get("prompt"), Mapping) and "prompts" not in changed:
        changed["prompts"] = changed.pop("prompt")
    if text:
        changed["prompt"] = text
    return json.dumps(changed, ensure_ascii=False) if isinstance(current, str) else changed


def overruled(config: LabelingConfig, params: Any) -> list[str]:
    """The labels that keep a prompt of their own, which goes before the connection's."""
    by_label = parse_extra_params(params).prompts
    targets = [target for image in config.images for target in config.targets(image)]
    own = [
        t.label.value for t in targets if t.label and (t.label.prompt or t.control.prompt or t.label.value in by_label)
    ]
    return list(dict.fromkeys(own))


def overruled_options(config: LabelingConfig, names: Iterable[str]) -> list[str]:
    """The controls that set one of those options themselves, as ``model_<name> of 'control'``."""
    wanted = list(names)
    targets = [target for image in config.images for target in config.targets(image)]
    own = [
        f"model_{n} of '{t.control.name}'" for t in targets for n in wanted if t.control.attributes.get(f"model_{n}")
    ]
    return list(dict.fromkeys(own))


def _object(current: Any) -> Mapping[str, Any] | None:
    """The extra params as an object, None where they are plain text or nothing."""
    if isinstance(current, str):
        try:
            current = json.loads(current)
        except (ValueError, RecursionError):
            return None
    return current if isinstance(current, Mapping) else None


def _read_as_other(text: str) -> bool:
    """Whether plain text would be read as JSON."""
    return parse_extra_params(text).prompt != text
