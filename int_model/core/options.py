"""Dotted option names, as on the command line, and the nested tables that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections: ``{"a.b": 3, "a": {"c": 4}}`` becomes ``{"a": {"b": 3, "c": 4}}``.

    Raises ``ValueError`` if a key is both a value and a section.
    """
    out: dict[str, Any] = {}
    for dotted, value in _leaves(options, ""):
        *sections, last = dotted.split(".")
        place: Any = out
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or isinstance(place.get(last), dict):
            message = f"'{dotted}' was given both as a value and as a section; leave one out"
            raise ValueError(message)  # noqa: TRY004 a user's slip, shown as one sentence
        place[last] = value
    return out


def _leaves(options: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in options.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found
