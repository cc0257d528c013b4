"""The meeting point with the `label-studio-ml` package: finding it, and running our service beside its server.

That package makes a model object per request and calls it from the threads of a synchronous server. Our service lives
in one event loop, in a thread of its own, for as long as the process does.
"""

from __future__ import annotations

import atexit
import importlib
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from ml_backend.api.app import create_app
from ml_backend.context import AppContext
from ml_backend.serving.predictions import Predictions

T = TypeVar("T")

PIP_LINE = 'pip install "label-studio-ml @ git+https://github.com/HumanSignal/label-studio-ml-backend.git"'


class UpstreamError(ImportError):
    """The package `label-studio-ml` is missing or too old; the message is one sentence with the line to run."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What is taken from the package: its base class, its response, its prediction."""

    base: Any
    response: Any
    prediction: Any


def load_upstream() -> Upstream:
    """Import the package. Raises ``UpstreamError``."""
    try:
        importlib.import_module("label_studio_ml")
    except ModuleNotFoundError as error:
        raise UpstreamError(
            f"this needs the package label-studio-ml, which is not installed; run: {PIP_LINE} (or use "
            "`int-backend serve`, which does without it)"
        ) from error
    try:
        response = importlib.import_module("label_studio_ml.response")
        base = importlib.import_module("label_studio_ml.model")
        objects = importlib.import_module("label_studio_sdk.label_interface.objects")
        return Upstream(base.LabelStudioMLBase, response.ModelResponse, objects.PredictionValue)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("label_studio_ml"):
            raise UpstreamError(
                f"the installed label-studio-ml is the old 1.x of 2023, which has another interface; run: {PIP_LINE}"
            ) from error
        raise UpstreamError(
            f"label-studio-ml needs the package {error.name}, which is not installed; run: {PIP_LINE}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise UpstreamError(f"the installed label-studio-ml cannot be used ({error}); run: {PIP_LINE}") from error


class Runtime:
    """A running service. Safe between threads.

    Args:
        make: makes the application that holds it.

    Raises:
        ValueError: the settings, the profile or the method's options are wrong.
        StoreError: the data folder cannot be used.
    """

    def __init__(self, make: Callable[[], FastAPI] = create_app) -> None:
        app = make()
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(app.router.lifespan_context(app)))
            self._open = stack.pop_all()
        self.context: AppContext = app.state.context
        self.predictions: Predictions = app.state.predictions

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the service's event loop and wait for its result."""

        async def result() -> T:
            return await work

        return self._portal.call(result)

    def close(self) -> None:
        """Stop the service and wait for its end."""
        self._open.close()


_lock = threading.Lock()
_current: tuple[int, Runtime] | None = None


def current() -> Runtime:
    """This process's runtime, started on first use: never at import, so that a server may fork after importing us."""
    global _current  # upstream makes a model object per request; the models must outlive it
    with _lock:
        if _current is None or _current[0] != os.getpid():
            _current = (os.getpid(), Runtime())
            atexit.register(_current[1].close)
        return _current[1]


def use(runtime: Runtime) -> None:
    """Take this runtime instead of starting one, e.g. in tests."""
    global _current
    with _lock:
        _current = (os.getpid(), runtime)
