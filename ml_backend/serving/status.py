"""What operators see: the models' state, queues, and the last problems in plain words."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from int_model.io.errors import ImageError
from ml_backend.errors import EngineError
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.clicks import ClickError
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.task_prompt import PromptError
from ml_backend.labelstudio.wire import fresh_id
from ml_backend.serving.engine import Engine
from ml_backend.serving.log_lines import Throttle, one_line
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_EXPECTED = (ClickError, ConfigError, EngineError, FetchError, ImageError, PromptError, StoreError)
_PROBLEMS = 50
_LONGEST = 400


class Status:
    """Collects problems; belongs to one event loop.

    Args:
        engine: owns the models.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._problems: deque[str] = deque(maxlen=_PROBLEMS)
        self._throttle = Throttle()

    def report(self, what: str, problem: object) -> None:
        """Note a problem with ``what``; an unexpected exception goes to the log with an id that finds it.

        Whoever sends tasks writes much of these texts: they become one line each, and of a flood the log gets a part.
        """
        if isinstance(problem, Exception) and not isinstance(problem, _EXPECTED):
            incident = fresh_id()
            _log.error("%s failed unexpectedly, incident %s", what, incident, exc_info=problem)
            told = f"{what}: unexpected {type(problem).__name__}, incident {incident} in the log"
        else:
            told = f"{what}: {problem}"
            dropped = self._throttle.admits()
            if dropped is not None:
                _log.warning("%s", told)
            if dropped:
                _log.warning("%d more problems came too fast for the log; the metrics count failed tasks", dropped)
        self._problems.append(one_line(told, _LONGEST))

    def view(self, versions: Sequence[str], tasks: int) -> dict[str, Any]:
        """The page; ``versions`` in use, ``tasks`` on their way."""
        engine = self._engine.status
        return {
            "models": engine.state,
            "why": engine.why,
            "waiting_for_models": engine.waiting,
            "at_the_models": engine.working,
            "waiting_clicks": engine.clicks,
            "out_of_memory": dict(engine.out_of_memory),
            "tasks_on_their_way": tasks,
            "versions": list(versions),
            "problems": list(self._problems),
        }
