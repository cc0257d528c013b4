"""``load_suite``: a profile's five models, loaded and ready. Importing this module does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from int_model.models.identity import profile_fingerprint
from int_model.models.memory import accelerator_total
from int_model.models.memory_plan import fitting, plan
from int_model.models.profile import Profile, ProfileError, RoleSettings, Weights, profile_names, read_profile
from int_model.models.protocols import Concepts, Detector, Dialogue, Inpainter, PromptAdapter, Segmenter, TextImage

__all__ = [
    "ModelSuite",
    "Profile",
    "ProfileError",
    "load_suite",
    "profile_fingerprint",
    "profile_names",
    "read_profile",
]

_PROTOCOLS: dict[str, type[Any]] = {
    "vlm": Dialogue,
    "inpainter": Inpainter,
    "detector": Detector,
    "segmenter": Segmenter,
    "text_image": TextImage,
    "concepts": Concepts,
}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class ModelSuite:
    """The models of a profile, which work together.

    Attributes:
        vlm: a strategy that needs more than dialogue checks for it when it is made.
        profile: the profile's name.
        device: where the models run, e.g. ``cpu`` or ``cuda``.
        fingerprint: see ``profile_fingerprint``.
        int_overrides: the profile's overrides of the method's configuration, nested as in ``IntConfig``.
        concepts: only where the profile names it.
        prompt_adapter: what was learned for a project, used by every strategy over this suite; its identity is
            a part of the project's version.
    """

    vlm: Dialogue
    inpainter: Inpainter
    detector: Detector
    segmenter: Segmenter
    text_image: TextImage
    profile: str
    device: str
    fingerprint: str
    int_overrides: Mapping[str, Any]
    concepts: Concepts | None = None
    prompt_adapter: PromptAdapter | None = None


def load_suite(
    profile: str | Path | Profile = "nano",
    *,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> ModelSuite:
    """Load a profile's models.

    Args:
        profile: name of a shipped profile, path of a profile file, or a ``Profile`` (``overrides`` must then be None).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        overrides: dotted keys, e.g. ``{"segmenter.id": "facebook/sam-vit-base"}`` (see ``read_profile``).
        offline: use only weights that are already on this machine; None leaves it to ``HF_HUB_OFFLINE``.
        progress: called as ``progress(role, done, total)`` before each role is loaded, and once at the end with
            ``("ready", total, total)``.

    Raises:
        ProfileError: the profile does not exist or holds unknown keys or values.
        ValueError: the device does not exist, or its whole memory is less than the weights take.
        WeightsError: (from ``int_model.models.weights``) weights are absent, incomplete or unreadable.
    """
    if isinstance(profile, Profile):
        if overrides:
            raise ProfileError("overrides apply to a profile's name or file; give read_profile both instead")
    else:
        profile = read_profile(profile, overrides)

    from int_model.models.device import choose_device
    from int_model.models.weights import Source

    place = choose_device(device)
    _check_memory(profile, str(place))
    local_only = _hub_is_offline() if offline is None else offline
    models: dict[str, Any] = {}
    for done, role in enumerate(profile.roles):
        if progress is not None:
            progress(role, done, len(profile.roles))
        settings = getattr(profile, role)
        source = None
        if isinstance(settings, Weights):
            source = Source.of(role, settings, device=place, offline=local_only)
        models[role] = _load(settings, source)
    if progress is not None:
        progress("ready", len(profile.roles), len(profile.roles))
    return ModelSuite(
        **models,
        profile=profile.name,
        device=str(place),
        fingerprint=profile_fingerprint(profile),
        int_overrides=profile.int_overrides,
    )


def _check_memory(profile: Profile, device: str) -> None:
    """Refuse a CUDA card that is too small before anything is loaded: afterwards the error would name a tensor."""
    total = accelerator_total(device)
    if total is None or (wanted := plan(profile)).weights_gb <= total:
        return
    others = [found.profile for found in fitting(total)]
    raise ValueError(
        f"the weights of the profile '{profile.name}' take {wanted.weights_gb:.1f} GB, and {device} has {total:.1f} "
        f"GB: choose the profile {' or '.join(others) or 'of smaller models'}, or set vlm.quantize to int4"
    )


def _hub_is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _load(settings: RoleSettings, source: Any) -> Any:
    module, _, function = settings.loader.partition(":")
    model = getattr(importlib.import_module(module), function)(settings, source)
    protocol = _PROTOCOLS[settings.role]
    if not isinstance(model, protocol):
        raise ProfileError(
            f"{settings.role}.kind '{settings.kind}' loads a {type(model).__name__}, which lacks methods of "
            f"int_model.models.protocols.{protocol.__name__}: choose another kind, or complete the class"
        )
    return model
