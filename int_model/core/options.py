"""Tables of options: their names, dotted as on the command line or nested, and the errors about wrong ones."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """A configuration value is unknown or out of range; the message names the option and the remedy."""


class UnknownOptionError(ConfigError):
    """There is no such option.

    Attributes:
        option: its dotted name.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class Section(BaseModel):
    """A table of options; frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(Section):
    """A whole configuration: sections of options."""

    def merged(self, overrides: Mapping[str, Any]) -> Self:
        """This configuration with nested ``overrides``, e.g. ``{"pnm": {"key": "name"}}``; raises ``ConfigError``."""
        try:
            return self.model_validate(deep_merge(self.model_dump(), overrides))
        except ValidationError as error:
            raise _explained(type(self), error) from error

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change exactly when a value changes."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def options_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every option of a configuration with its dotted name, in the order of the sections."""
    for name, field in model.model_fields.items():
        section = _section_of(model, name)
        if section is None:
            yield prefix + name, field
        else:
            yield from options_of(section, f"{prefix}{name}.")


def fitting(model: type[BaseModel], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the nested ``overrides`` whose options ``model`` has."""
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in model.model_fields:
            continue
        section = _section_of(model, name)
        if section is None or not isinstance(value, Mapping):
            found[name] = value
        elif own := fitting(section, value):
            found[name] = own
    return found


def deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables as one; ``overrides`` wins."""
    out = dict(base)
    for key, value in overrides.items():
        below = out.get(key)
        out[key] = deep_merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections: ``{"a.b": 3, "a": {"c": 4}}`` becomes ``{"a": {"b": 3, "c": 4}}``.

    Raises ``ValueError`` if a key is both a value and a section.
    """
    out: dict[str, Any] = {}
    for dotted, value in leaves(options):
        *sections, last = dotted.split(".")
        place: Any = out
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or isinstance(place.get(last), dict):
            message = f"'{dotted}' was given both as a value and as a section; leave one out"
            raise ValueError(message)  # noqa: TRY004 a user's slip, shown as one sentence
        place[last] = value
    return out


def leaves(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested or dotted ``options`` with their dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in options.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """``["a.b=3", "c=text"]`` as ``{"a.b": 3, "c": "text"}``; a value is TOML if it can be, else text.

    Raises ``ValueError`` for an entry without a key or an equals sign.
    """
    out: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        key = key.strip()
        if not key or not equals:
            raise ValueError(f"'{change}' is not KEY=VALUE; write for instance iterations.count=3")
        try:
            value = tomllib.loads(f"value = {text}")
            out[key] = value["value"] if value.keys() == {"value"} else text
        except tomllib.TOMLDecodeError:
            out[key] = text.strip()
    return out


def _section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _explained(model: type[BaseModel], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    option = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        sections = [str(part) for part in first["loc"][:-1]]
        for name in sections:
            model = _section_of(model, name) or model
        where = ".".join(sections) or "the configuration"
        message = f"there is no option '{option}'; {where} has: {', '.join(model.model_fields)}"
        return UnknownOptionError(option, message)
    return ConfigError(f"option '{option}': {first['msg']} (given: {first['input']!r})")
