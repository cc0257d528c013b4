"""The model version: one string for ``/setup`` and every prediction, new whenever the output could differ."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ml_backend.labelstudio.connections import VERSION_PREFIX
from ml_backend.labelstudio.label_config import LabelingConfig
from ml_backend.labelstudio.output_options import OutputOptions, options_for
from ml_backend.labelstudio.task_prompt import ConnectionParams, PromptError, prompt_of
from ml_backend.serving.model_loading import ModelIdentity

_MOST_LETTERS = 30


def model_version(
    identity: ModelIdentity,
    config: LabelingConfig | str,
    params: ConnectionParams,
    default_prompt: str,
    options: OutputOptions,
    max_regions: int,
) -> str:
    """``int-<profile>-<strategy>-<words of the prompt>-<8 hex digits>``, the digits over all that changes a prediction.

    Of the prompts those count that the config's labels use, wherever they come from: two projects, or two runs of one,
    that draw the same have the same version. ``config`` is the text of the labeling config where it cannot be parsed.
    """
    looked_for = [] if isinstance(config, str) else _looked_for(config, params, default_prompt)
    described: dict[str, Any] = {
        "package": package_version(),
        "models": {name: identity.fingerprint_of(name) for name in _strategies(config, params, options)},
        **({"adapter": identity.adapter} if identity.adapter else {}),
        "config": config if isinstance(config, str) else config.digest,
        "looks_for": looked_for,
        "extra": {key: params.options[key] for key in sorted(params.options)},
        "options": options.model_dump(mode="json"),
        "max_regions": max_regions,
    }
    text = json.dumps(described, sort_keys=True, default=str)
    digits = hashlib.sha256(text.encode()).hexdigest()[:8]
    words = _words([prompt for _, _, prompt, _ in looked_for])
    return f"{VERSION_PREFIX}{'-'.join(filter(None, (identity.profile, identity.strategy, words, digits)))}"


def _looked_for(config: LabelingConfig, params: ConnectionParams, default: str) -> list[tuple[str, str, str, str]]:
    """Control, label and prompt of every target, and the task field that goes before the prompt, or ""."""
    found = []
    for target in (target for image in config.images for target in config.targets(image)):
        try:
            prompt, _ = prompt_of(target, params, default, {})
        except PromptError:
            prompt = ""
        field = target.control.prompt_field or params.prompt_field
        found.append((target.control.name, target.label.value if target.label else "", prompt, field))
    return found


def _words(prompts: Sequence[str]) -> str:
    """The first prompt in letters that fit an address, and how many others there are."""
    unique = list(dict.fromkeys(prompts))
    plain = unicodedata.normalize("NFKD", unique[0]).encode("ascii", "ignore").decode().lower() if unique else ""
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > _MOST_LETTERS:
        words = words[: _MOST_LETTERS + 1].rpartition("-")[0] or words[:_MOST_LETTERS]
    return f"{words}-and-{len(unique) - 1}-more" if words and len(unique) > 1 else words


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
