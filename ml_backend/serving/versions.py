"""The model version: one string for ``/setup`` and every prediction, new whenever the output could differ."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ml_backend.labelstudio.connections import VERSION_PREFIX
from ml_backend.labelstudio.label_config import LabelingConfig
from ml_backend.labelstudio.output_options import OutputOptions, options_for
from ml_backend.labelstudio.task_prompt import ConnectionParams
from ml_backend.serving.model_loading import ModelIdentity


def model_version(
    identity: ModelIdentity,
    config: LabelingConfig | str,
    params: ConnectionParams,
    default_prompt: str,
    options: OutputOptions,
    max_regions: int,
) -> str:
    """``int-<profile>-<strategy>-<8 hex digits>`` over everything that changes a prediction.

    ``config`` is the text of the labeling config where it cannot be parsed.
    """
    described: dict[str, Any] = {
        "package": package_version(),
        "models": {name: identity.fingerprint_of(name) for name in _strategies(config, params, options)},
        **({"adapter": identity.adapter} if identity.adapter else {}),
        "config": config if isinstance(config, str) else config.digest,
        "prompt": params.prompt,
        "prompts": dict(params.prompts),
        "prompt_field": params.prompt_field,
        "extra": {key: params.options[key] for key in sorted(params.options)},
        "default_prompt": default_prompt,
        "options": options.model_dump(mode="json"),
        "max_regions": max_regions,
    }
    text = json.dumps(described, sort_keys=True, default=str)
    return f"{VERSION_PREFIX}{identity.profile}-{identity.strategy}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _strategies(config: LabelingConfig | str, params: ConnectionParams, options: OutputOptions) -> list[str]:
    """The strategies that the project's controls use, sorted."""
    controls = [None] if isinstance(config, str) else [None, *config.controls]
    return sorted({options_for(control, params.options, options).options.strategy for control in controls})


@functools.cache  # reading it takes milliseconds, and /setup and /versions ask for it per project
def package_version() -> str:
    """The installed version of this program; ``source`` where it is not installed."""
    try:
        return version("int-backend")
    except PackageNotFoundError:
        return "source"
