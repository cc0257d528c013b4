"""What an application answers to, read from the application itself, so that what is new cannot be forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute


@dataclass(frozen=True)
class Place:
    """A route: its path as declared, and filled with values."""

    path: str
    address: str


def places(app: FastAPI, method: str, values: Mapping[str, object]) -> list[Place]:
    """The routes of a method. ``values`` fill their parameters; one without a value is an error that names it."""
    found = []
    for route in app.routes:
        if isinstance(route, APIRoute) and method in route.methods:
            missing = set(route.param_convertors) - set(values)
            assert not missing, f"{route.path} is new here: say which {', '.join(missing)} the tests are to take"
            found.append(Place(route.path, route.path.format(**values)))
    return found
