"""Profiles: which checkpoint fills which role, as checked data. No torch here.

A profile is a TOML file with one table per role (``vlm``, ``inpainter``, ``detector``, ``segmenter``, ``text_image``
and, if wanted, ``concepts``), a table ``int`` with overrides of the method's configuration, and a table ``meta`` for
people. The key ``kind`` of a role names an adapter: a shipped one by its short name, or any other, in a profile file
only, as ``package.module:Class``, a subclass of ``RoleSettings``.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from int_model.models.roles import (
    SHIPPED_KINDS,
    ConceptsRole,
    DetectorRole,
    DiffusersRole,
    DtypeName,
    MeanColourRole,
    OfficialGroundingDinoRole,
    OfficialSam2Role,
    OfficialSamRole,
    OpenAIRole,
    OpenClipRole,
    OpenCVRole,
    RoleSettings,
    SegmenterRole,
    Table,
    TextImageRole,
    VisionLanguageRole,
    Weights,
)

__all__ = [
    "OPTIONAL_ROLES",
    "ROLES",
    "SHIPPED_KINDS",
    "ConceptsRole",
    "DetectorRole",
    "DiffusersRole",
    "DtypeName",
    "MeanColourRole",
    "Meta",
    "OfficialGroundingDinoRole",
    "OfficialSam2Role",
    "OfficialSamRole",
    "OpenAIRole",
    "OpenCVRole",
    "OpenClipRole",
    "Profile",
    "ProfileError",
    "RoleSettings",
    "SegmenterRole",
    "TextImageRole",
    "VisionLanguageRole",
    "Weights",
    "profile_names",
    "read_profile",
]

ROLES = ("vlm", "inpainter", "detector", "segmenter", "text_image")
OPTIONAL_ROLES = ("concepts",)
"""Roles that a profile may leave out; only the strategy ``sam3`` asks for this one."""


_DEFAULT_KIND = "hf"


class ProfileError(ValueError):
    """A profile that does not exist or does not make sense; the message is one sentence that names the remedy."""


class Meta(Table):
    """For people: what the profile is for, the accelerator memory it needs, the licence of each role's weights."""

    description: str = ""
    memory_gb: float | None = None
    licences: Mapping[str, str] = {}


class Profile(Table):
    """The roles of a suite. Raises ``pydantic.ValidationError`` on unknown keys or values."""

    name: str
    vlm: RoleSettings
    inpainter: RoleSettings
    detector: RoleSettings
    segmenter: RoleSettings
    text_image: RoleSettings
    concepts: RoleSettings | None = None
    int_overrides: Mapping[str, Any] = Field(default={}, alias="int")
    meta: Meta = Meta()

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that this profile fills."""
        return (*ROLES, *(role for role in OPTIONAL_ROLES if getattr(self, role) is not None))


def profile_names() -> list[str]:
    """The names of the profiles that ship with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def read_profile(profile: str | Path, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Read a shipped profile by name, or a TOML file by path, and apply overrides.

    Args:
        profile: a name of ``profile_names()`` or the path of a ``.toml`` file.
        overrides: dotted keys, e.g. ``{"segmenter.id": "facebook/sam-vit-base", "inpainter.kind": "opencv"}``; texts
            are converted to the key's type. A new ``id`` without a new ``revision`` uses the branch ``main`` (the old
            commit belongs to the old repository); a new ``kind`` drops the old kind's options.

    Raises ``ProfileError`` with one sentence that names the file and the key at fault.
    """
    name, table = _read(profile)
    for key in sorted(overrides or {}, key=_kinds_first):
        _override(table, key, (overrides or {})[key], overrides or {})
    place = ""
    try:
        for place in (*ROLES, *OPTIONAL_ROLES):
            if isinstance(table.get(place), dict):
                table[place] = _settings(place, table[place])
        place = ""
        return Profile.model_validate({"name": name, **table})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (place, *first["loc"]) if part)
        raise ProfileError(f"profile '{name}': {where}: {first['msg']}") from error


def _settings(role: str, table: dict[str, Any]) -> RoleSettings:
    kind = str(table.setdefault("kind", _DEFAULT_KIND))
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if name else SHIPPED_KINDS[role, kind]
    except KeyError as error:
        names = ", ".join(shipped for own, shipped in SHIPPED_KINDS if own == role)
        raise ProfileError(
            f"there is no {role}.kind '{kind}'; choose one of: {names}, or name a class of your own in a profile file, "
            "as package.module:Class"
        ) from error
    except (ImportError, AttributeError) as error:
        raise ProfileError(f"{role}.kind '{kind}' cannot be imported ({error}); check the name and the path") from error
    if not (isinstance(found, type) and issubclass(found, RoleSettings) and getattr(found, "role", "") == role):
        raise ProfileError(f"{role}.kind '{kind}' is not a subclass of RoleSettings with role = '{role}'")
    return found.model_validate(table)


def _shipped() -> Any:
    return resources.files("int_model.models") / "profiles"


def _read(profile: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(profile).expanduser()
    is_path = isinstance(profile, Path) or path.suffix == ".toml"
    if not is_path and str(profile) not in profile_names():
        raise ProfileError(
            f"there is no profile '{profile}'; use one of {', '.join(profile_names())} or the path of a .toml file"
        )
    try:
        text = path.read_text("utf-8") if is_path else (_shipped() / f"{profile}.toml").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"the profile file '{path}' cannot be read: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"the profile file '{path}' is not TOML: {error}") from error
    if is_path:
        for role in (*ROLES, *OPTIONAL_ROLES):
            _resolve_relative_id(table.get(role), path.parent)
    return (path.stem if is_path else str(profile)), table


def _resolve_relative_id(table: Any, folder: Path) -> None:
    if isinstance(table, dict) and str(table.get("id", "")).startswith(("./", "../")):
        table["id"] = str((folder / table["id"]).resolve())


def _kinds_first(key: str) -> tuple[bool, str]:
    return (not key.endswith(".kind"), key)


def _override(table: dict[str, Any], key: str, value: Any, overrides: Mapping[str, Any]) -> None:
    role, _, option = key.partition(".")
    if role not in (*ROLES, *OPTIONAL_ROLES, "int") or not option:
        raise ProfileError(f"'{key}' overrides nothing; keys look like segmenter.id, with a role of {', '.join(ROLES)}")
    if role == "int":
        _set_nested(table.setdefault("int", {}), option.split("."), value)
        return
    section = table.setdefault(role, {})
    if option == "kind" and section.get("kind", _DEFAULT_KIND) != value:
        if ":" in str(value):
            raise ProfileError(f"{role}.kind '{value}' runs code of its own, so it belongs in a profile file")
        section.clear()
    if option == "id" and section.get("id") != value and f"{role}.revision" not in overrides:
        section.pop("revision", None)
    section[option] = value


def _set_nested(table: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    table[keys[-1]] = value
