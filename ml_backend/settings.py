"""Every setting of the service, from the environment. Nothing else in the package reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from int_model.core.options import deep_merge, nested
from int_model.masks.polygons import Holes
from int_model.strategies.model_options import ModelOptions, preset_names
from int_model.strategies.registry import DEFAULT_STRATEGY, STRATEGIES
from ml_backend.labelstudio.output_options import Nested, OutputOptions

_MEGABYTE = 1024 * 1024


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


def _data_home() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "int-backend"


class SecretFiles(PydanticBaseSettingsSource):
    """Reads a secret from the file that ``<NAME>_FILE`` names, as container platforms hand them over."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if "SecretStr" not in str(field.annotation) and field_name != "basic_auth_user":
            return None, field_name, False
        aliases = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
        for name in [str(alias) for alias in aliases] or [f"INT_{field_name.upper()}"]:
            path = os.environ.get(f"{name}_FILE")
            if path:
                try:
                    return Path(path).read_text(encoding="utf-8").strip(), field_name, False
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"{name}_FILE names {path}, which cannot be read: {error}") from None
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(info, name)[0] for name, info in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """The service's settings. Lists are separated by commas. Secrets never show in ``repr`` or logs."""

    model_config = SettingsConfigDict(
        env_prefix="INT_", populate_by_name=True, extra="ignore", frozen=True, env_ignore_empty=True
    )

    # --- models
    profile: str = Field("nano", description="Which models: the name of a profile or the path of a profile file.")
    strategy: str = Field(DEFAULT_STRATEGY, description=f"How masks are made: {', '.join(STRATEGIES)}.")
    preset: str = Field("", description=f"A named configuration of the strategy: {', '.join(preset_names())}.")
    adapter: Path | None = Field(
        None, description="What `int-backend learn` wrote: a bundle that changes what the segmenter draws."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    profile_overrides: dict[str, Any] = Field({}, description='JSON, e.g. {"segmenter.id": "facebook/sam-vit-base"}.')
    int_config: dict[str, Any] = Field(
        {},
        validation_alias=_names("INT_CONFIG"),
        description='JSON, options of the strategy, over its preset: {"pnm": {"key": "name"}}.',
    )
    micro_batch: int = Field(4, ge=1, le=256, description="Images that the models take at once.")
    run_batch: int = Field(
        16, ge=1, le=1000, description="Batch runs: tasks that a worker takes at a time; one that dies delays so many."
    )
    oom_fallback: Literal["fail", "cpu"] = Field(
        "fail",
        description="An image too large for the accelerator fails, or goes to a second copy of the models on the CPU "
        "(slow; loaded when first needed; takes as much main memory as the models in float32).",
    )
    embedding_cache_bytes: int = Field(
        512 * _MEGABYTE, ge=0, description="Interactive: most bytes of encoded images that are kept for further clicks."
    )
    queue_size: int = Field(512, ge=1, description="Most images waiting for the models.")

    # --- prompt and output
    prompt: str = Field("", description="The task prompt where the project itself sets none.")
    score_threshold: float = Field(0.0, ge=0.0, le=1.0, description="Results below it count as found nothing.")
    min_area: int = Field(16, ge=0, description="Parts and holes of fewer pixels are dropped.")
    epsilon: float = Field(1.0, ge=0.0, le=1000.0, description="Polygons: largest distance to the outline, in pixels.")
    min_iou: float = Field(0.95, ge=0.0, le=1.0, description="Polygons: smallest IoU of a polygon with its mask.")
    max_points: int = Field(0, ge=0, description="Polygons: most points; 0 for any number.")
    holes: Holes = Field("bridge", description="Holes in polygons: bridge, drop or brush.")
    nested: Nested = Field("keep", description="Masks that lie in a larger one of their label: join, drop or keep.")
    min_part: float = Field(
        0.0, ge=0.0, le=1.0, description="Parts smaller than this share of an object's largest part are dropped."
    )
    max_regions: int = Field(300, ge=1, description="Most regions of one image; those with the lowest scores go.")

    # --- Label Studio
    label_studio_url: str = Field(
        "", validation_alias=_names("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"), description="As the backend reaches it."
    )
    label_studio_api_key: SecretStr | None = Field(
        None, validation_alias=_names("LABEL_STUDIO_API_KEY"), description="Personal access token or legacy token."
    )
    label_studio_public_url: str = Field(
        "",
        validation_alias=_names("INT_LABEL_STUDIO_PUBLIC_URL"),
        description="As people's browsers reach it, for links; LABEL_STUDIO_URL if empty.",
    )

    # --- batch runs
    redis_url: SecretStr | None = Field(
        None,
        validation_alias=_names("REDIS_URL"),
        description="Batch runs are left to `int-backend worker`: redis://redis:6379/1; none: the backend does them.",
    )
    runs_from_predict: bool = Field(
        True, description="What /predict cannot answer in time becomes a batch run, if Label Studio's token is set."
    )

    # --- learning
    learn: Literal["auto", "asked"] = Field(
        "auto",
        description="When a project learns from its corrections: by itself as they grow, or when somebody asks for it.",
    )
    learn_from: int = Field(3, ge=2, description="Corrected tasks of the first training that begins by itself.")
    learn_most: int = Field(100, ge=2, description="Most tasks that a training learns from: those changed last.")
    learn_group: str = Field(
        "", description="Field of the tasks' data by which images belong together: patient, series."
    )
    learn_steps: int | None = Field(
        None, ge=1, description="Training steps of an arm; none: 120, from 16 images on 240."
    )

    # --- service
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of this machine.")
    port: int = Field(9090, ge=0, le=65535, validation_alias=_names("INT_PORT", "PORT"), description="Port.")
    deadline: float = Field(80.0, gt=0, le=3600, description="Seconds until /predict answers with what is ready.")
    data_dir: Path = Field(default_factory=_data_home, description="Where projects and results are kept.")
    database_url: SecretStr | None = Field(
        None,
        validation_alias=_names("DATABASE_URL"),
        description="PostgreSQL instead of the SQLite file in the data folder: postgresql://user:password@host/name.",
    )
    cache_entries: int = Field(20_000, ge=0, description="Most results kept; 0 keeps none.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the log.")
    basic_auth_user: str | None = Field(
        None, validation_alias=_names("BASIC_AUTH_USER", "INT_BASIC_AUTH_USER"), description="Name for Basic auth."
    )
    basic_auth_pass: SecretStr | None = Field(
        None, validation_alias=_names("BASIC_AUTH_PASS", "INT_BASIC_AUTH_PASS"), description="Its password."
    )
    read_token: SecretStr | None = Field(
        None, description="Opens the pages of runs, /status, /metrics and /audit, and then only it or the next does."
    )
    admin_token: SecretStr | None = Field(None, description="Starts and steers runs, and then only it does.")
    open_to_network: bool = Field(
        False, description="Listen beyond this machine without Basic auth: everybody who reaches the port may call."
    )
    hostnames: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names with a dot under which the backend is called, e.g. ml.example.org, *.svc.cluster.local; * "
        "for any. Others are refused.",
    )
    open_health: bool = Field(False, description="Answer GET / and /health without Basic auth.")
    webhook_secret: SecretStr | None = Field(None, description="Webhooks must send it as X-Webhook-Secret.")
    max_body_bytes: int = Field(256 * _MEGABYTE, ge=1024, description="Largest request.")
    max_setup_bytes: int = Field(4 * _MEGABYTE, ge=1024, description="Largest request to /setup.")
    max_webhook_bytes: int = Field(16 * _MEGABYTE, ge=1024, description="Largest request to /webhook.")
    max_bodies_bytes: int = Field(
        320 * _MEGABYTE, ge=1024, description="Most bytes of requests in memory at a time; more is refused (503)."
    )

    max_labels: int = Field(500, ge=1, description="Most labels, and most controls, of a labeling config.")
    max_prompts: int = Field(32, ge=1, description="Most different prompts for one image.")
    max_projects: int = Field(1000, ge=1, description="Most projects remembered; those used longest ago go.")
    project_quota: int = Field(20_000, ge=1, description="Most images of one project that wait at a time.")

    # --- images
    max_image_bytes: int = Field(100 * _MEGABYTE, ge=1024, description="Largest image file.")
    max_image_pixels: int = Field(100_000_000, ge=1, description="Largest width x height.")
    max_decoded_pixels: int = Field(
        400_000_000, ge=1, description="Most pixels of decoded images in memory; others wait. One may always be there."
    )
    decode_timeout: float = Field(20.0, gt=0, description="Seconds that decoding one image may take.")
    decoders: int = Field(2, ge=1, le=32, description="Processes that decode images of more than 2 megapixels.")
    image_timeout: float = Field(60.0, gt=0, description="Seconds for one image, redirects included.")
    downloads: int = Field(8, ge=1, le=64, description="Images fetched at the same time.")
    local_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that /data/local-files/?d= may be read from directly; none by default."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Private hosts or networks that images may come from, e.g. minio, 10.1.0.0/16."
    )
    hide_names: bool = Field(
        False, description="Name no files and folders in /status, logs and runs: they may be called after patients."
    )
    ca_bundle: Path | None = Field(None, description="PEM file with the certificate authorities to trust.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files that ``*_FILE`` names."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, SecretFiles(settings_cls)

    @field_validator("local_roots", "allowed_hosts", "hostnames", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("local_roots")
    @classmethod
    def _real_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in value:
            if not root.expanduser().is_dir():
                raise ValueError(f"the local root {root} is not a folder")
        return tuple(root.expanduser().resolve() for root in value)

    @field_validator("label_studio_url", "label_studio_public_url")
    @classmethod
    def _address(cls, value: str) -> str:
        text = value.strip().rstrip("/")
        if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
            raise ValueError(f"'{value}' is not an address like http://label-studio:8080")
        if urlsplit(text).path.endswith("/api"):
            raise ValueError(f"'{value}' ends in /api; give the address at which the browser opens Label Studio")
        return text

    @field_validator("ca_bundle")
    @classmethod
    def _bundle_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"the CA bundle {value} is not a file")
        return value

    @model_validator(mode="after")
    def _both_or_none(self) -> Settings:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError("set both BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither")
        return self

    @property
    def is_open(self) -> bool:
        """Whether others than this machine may call without a password."""
        local = self.host == "localhost" or self.host.startswith("127.") or self.host in ("::1", "")
        return self.basic_auth_pass is None and not local

    @property
    def models(self) -> ModelOptions:
        """The models and the strategy. What is wrong with them is found when they are used."""
        return ModelOptions(
            profile=self.profile,
            overrides=self.profile_overrides,
            strategy=self.strategy,
            preset=self.preset,
            changes=self.int_config,
            device=self.device,
        )

    def with_models(self, overrides: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
        """These settings with further overrides of the profile and changes of the strategy, which win."""
        more = {
            "profile_overrides": {**self.profile_overrides, **overrides},
            "int_config": deep_merge(nested(self.int_config), nested(changes)),
        }
        return self.model_copy(update=more)

    @property
    def output(self) -> OutputOptions:
        """The defaults of the output options."""
        values = {name: getattr(self, name) for name in OutputOptions.model_fields}
        if self.strategy not in STRATEGIES:  # no backend starts with it; the doctor lives on and says so
            del values["strategy"]
        return OutputOptions.model_validate(values)


def load_settings(given: Mapping[str, Any]) -> Settings:
    """The settings of the environment with what the command line gave on top; None means not given.

    Raises ``ValueError`` with one sentence that names the setting.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parts = [str(part) for part in first["loc"]]
        if parts and parts[0] in Settings.model_fields and given.get(parts[0]) is None:  # not from the command line
            parts[0] = f"INT_{parts[0].upper()}"
        names = " / ".join(parts)
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"the setting {names} is wrong: {reason}" if names else reason) from None
