"""The task prompt in a connection's extra params, without losing what else they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from int_model.core.task_prompt import TaskPrompt
from ml_backend.labelstudio.label_config import LabelingConfig
from ml_backend.labelstudio.task_prompt import parse_extra_params


def with_prompt(current: Any, prompt: str) -> Any:
    """The extra params with that prompt for every label that has none of its own.

    Plain text is replaced; of an object (or of JSON text) only the key ``prompt`` changes.

    Raises:
        ValueError: the prompt is no usable one, or the extra params cannot be read.
    """
    text = TaskPrompt(prompt).text
    params = parse_extra_params(current)
    if params.warning:
        raise ValueError(f"{params.warning}; correct the extra params under Settings > Model, then connect again")
    stored = _object(current)
    if stored is None:
        return text if not _read_as_other(text) else json.dumps({"prompt": text})
    changed = dict(stored)
    if isinstance(changed.get("prompt"), Mapping) and "prompts" not in changed:
        changed["prompts"] = changed.pop("prompt")
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
