"""The projects in memory: so many at most, and so much text; those used longest ago go."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass

from ml_backend.storage.store import Project

_MOST_CHARACTERS = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Known:
    """A project, and its model version."""

    project: Project
    version: str


class KnownProjects:
    """Projects by id. Safe between threads.

    Args:
        most: most projects.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[str, tuple[Known, int]] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def get(self, project: str) -> Known | None:
        """A project, which counts as used by that."""
        with self._lock:
            if project not in self._found:
                return None
            self._found.move_to_end(project)
            return self._found[project][0]

    def put(self, known: Known) -> list[str]:
        """Remember a project; the ids of those that are forgotten for it."""
        project = known.project
        size = len(project.label_config) + len(json.dumps(project.extra_params))
        with self._lock:
            _, before = self._found.pop(project.id, (known, 0))
            self._found[project.id] = (known, size)
            self._characters += size - before
            gone = []
            while len(self._found) > self._most or (self._characters > _MOST_CHARACTERS and len(self._found) > 1):
                oldest, (_, freed) = self._found.popitem(last=False)
                self._characters -= freed
                gone.append(oldest)
            return gone

    def newest(self, most: int | None = None) -> list[Known]:
        """The projects, the one used last first."""
        with self._lock:
            return [known for known, _ in list(reversed(self._found.values()))[:most]]
