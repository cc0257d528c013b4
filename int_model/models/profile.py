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
    OfficialSamRole,
    OpenAIRole,
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
    "OfficialSamRole",
    "OpenAIRole",
    "OpenCVRole",
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


<<<<<<< HEAD
class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class RoleSettings(_Table):
    """A kind of adapter: the keys of its table in a profile, and who loads it. An adapter declares a subclass.

    Attributes:
        kind: as written in the profile.
        role: the table that it may stand in.
        loader: ``package.module:function``, called as ``function(settings, source)``; returns a model with the role's
            Protocol. ``source`` is an ``int_model.models.weights.Source``, or None for a kind without weights.
        speed_only: options that do not change what the model answers.
    """

    kind: str
    role: ClassVar[str]
    loader: ClassVar[str]
    speed_only: ClassVar[frozenset[str]] = frozenset({"max_batch"})


class Weights(RoleSettings):
    """A kind that loads a checkpoint.

    Attributes:
        id: hub id (``owner/name``), path of a folder, or ``bundled:NAME`` for a checkpoint inside this package. A path
            in a profile file may start with ``./`` or ``../``: it is then relative to that file.
        revision: branch, tag or commit of a hub id; unused for folders.
        dtype: ``auto`` is float16 on CUDA and float32 elsewhere.
    """

    speed_only: ClassVar[frozenset[str]] = frozenset({"id", "revision", "max_batch"})
    id: str = Field(min_length=1)
    revision: str = "main"
    dtype: DtypeName = "auto"


class VisionLanguageRole(Weights):
    """Any image-text-to-text model of transformers.

    Attributes:
        max_batch: most images, or (image, answer) rows, in one pass.
        padded: pad images to a square with the processor's mean colour, so that its centre crop removes nothing.
        units: how the model words box coordinates (see ``CoordinateFrame``).
        max_side: shrink larger images to this longer side first; 0 leaves them. For models without a fixed input size.
        chat_template: a name of ``int_model.models.adapters.templates``, Jinja text, or empty for the checkpoint's own.
        quantize: ``int8`` or ``int4`` through bitsandbytes (CUDA only).
        share_prefix: score the answers to one question on one prefilled cache instead of a full pass each.
        feature_cache_mb: how much memory projected image features may hold between calls (LLaVA).
    """

    role: ClassVar = "vlm"
    loader: ClassVar = "int_model.models.adapters.vision_language:load"
    speed_only: ClassVar = Weights.speed_only | {"feature_cache_mb", "share_prefix"}
    kind: str = "hf"
    max_batch: int = Field(default=8, ge=1)
    padded: bool = True
    units: Literal["auto", "unit", "thousand", "pixel"] = "auto"
    max_side: int = Field(default=0, ge=0)
    chat_template: str = ""
    quantize: Literal["none", "int8", "int4"] = "none"
    share_prefix: bool = True
    feature_cache_mb: int = Field(default=256, ge=0)

    @model_validator(mode="after")
    def _pixels_need_the_whole_image(self) -> VisionLanguageRole:
        if self.units == "pixel" and self.max_side:
            raise ValueError("units = 'pixel' counts pixels of the unshrunk image; set max_side = 0 or other units")
        return self


class DetectorRole(Weights):
    """GroundingDINO, OWL-ViT or OWLv2 of transformers.

    Attributes:
        max_batch: most images in one pass.
        template: the query for a name; ``{}`` stands for it. GroundingDINO's is lower-cased and ends in a full stop.
    """

    role: ClassVar = "detector"
    loader: ClassVar = "int_model.models.adapters.detector:load"
    kind: str = "hf"
    max_batch: int = Field(default=4, ge=1)
    template: str = "{}"

    @model_validator(mode="after")
    def _template_names_the_name(self) -> DetectorRole:
        if self.template.count("{}") != 1:
            raise ValueError("template holds {} exactly once, where the name goes")
        return self


class SegmenterRole(Weights):
    """SAM of transformers.

    Attributes:
        max_batch: most images encoded, or prompts decoded, in one pass.
    """

    role: ClassVar = "segmenter"
    loader: ClassVar = "int_model.models.adapters.segmenter:load"
    kind: str = "hf"
    max_batch: int = Field(default=8, ge=1)


class TextImageRole(Weights):
    """CLIP of transformers.

    Attributes:
        max_batch: most images or texts in one pass.
        surgery_layers: how many last blocks run the second (k-k) path for patch features; 0 gives plain patch tokens.
        text_cache: how many text embeddings are kept.
    """

    role: ClassVar = "text_image"
    loader: ClassVar = "int_model.models.adapters.text_image:load"
    speed_only: ClassVar = Weights.speed_only | {"text_cache"}
    kind: str = "hf"
    max_batch: int = Field(default=32, ge=1)
    surgery_layers: int = Field(default=6, ge=0)
    text_cache: int = Field(default=4096, ge=0)


class ConceptsRole(Weights):
    """SAM 3 of transformers, asked with a text.

    Attributes:
        max_batch: most images in one pass.
    """

    role: ClassVar = "concepts"
    loader: ClassVar = "int_model.models.adapters.concepts:load"
    kind: str = "hf"
    max_batch: int = Field(default=1, ge=1)


class OpenCVRole(RoleSettings):
    """Classical inpainting: no weights, no prompts.

    Attributes:
        method: Telea's fast marching or Bertalmio's Navier-Stokes.
        radius: neighbourhood of a pixel, as a fraction of the image's diagonal (at least 1 pixel).
        max_side: larger images are filled at this longer side and the filling is enlarged; 0 always works at full size.
    """

    role: ClassVar = "inpainter"
    loader: ClassVar = "int_model.models.adapters.inpainting:load_opencv"
    kind: str = "opencv"
    method: Literal["telea", "ns"] = "telea"
    radius: float = Field(default=0.01, gt=0, le=0.1)
    max_side: int = Field(default=512, ge=0)


class MeanColourRole(RoleSettings):
    """Fill with the mean colour of what is left: the cheapest baseline."""

    role: ClassVar = "inpainter"
    loader: ClassVar = "int_model.models.adapters.inpainting:load_mean_colour"
    kind: str = "mean-colour"


class DiffusersRole(Weights):
    """Stable Diffusion inpainting of diffusers.

    Attributes:
        max_batch: most images in one pass.
        size: side of the square the image is squashed to, in pixels (a multiple of 8).
        steps, guidance: denoising steps and guidance scale.
        scheduler: ``unipc`` and ``dpm++`` get by with 20-25 steps; ``ddim`` with 50 is the released code's kind.
        seed: of each image's own generator, so that an image's result does not depend on its batch.
    """

    role: ClassVar = "inpainter"
    loader: ClassVar = "int_model.models.adapters.inpainting:load_diffusers"
    kind: str = "diffusers"
    max_batch: int = Field(default=9, ge=1)
    size: int = Field(default=512, ge=8, multiple_of=8)
    steps: int = Field(default=25, ge=1)
    guidance: float = Field(default=7.5, ge=0)
    scheduler: Literal["unipc", "dpm++", "ddim"] = "unipc"
    seed: int = Field(default=32, ge=0)


SHIPPED_KINDS: dict[tuple[str, str], type[RoleSettings]] = {
    (shipped.role, shipped.model_fields["kind"].default): shipped
    for shipped in (
        VisionLanguageRole,
        OpenCVRole,
        MeanColourRole,
        DiffusersRole,
        DetectorRole,
        SegmenterRole,
        TextImageRole,
        ConceptsRole,
    )
}
"""The kinds with a short name, by role and name."""


class Meta(_Table):
=======
class Meta(Table):
>>>>>>> 29ee615 (Schedule: dialogues and scoring go on from what the model has read; batches by size; the best mask alone leaves the device)
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
