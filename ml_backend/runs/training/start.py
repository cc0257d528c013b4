"""When a project learns: by counts of corrected tasks, or because somebody asks for it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.learning.bundles import Bundles
from ml_backend.learning.versions import Versions
from ml_backend.runs.errors import RunExistsError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import RunsError, Started
from ml_backend.runs.queues.base import RunQueue
from ml_backend.runs.types import Run, RunKind, RunRequest, RunSpec, RunState, TrainingRequest, config_hash
from ml_backend.serving.projects import Projects
from ml_backend.settings import Settings
from ml_backend.storage.annotations import Annotations, Corrected
from ml_backend.storage.store import Project, Store

_log = logging.getLogger(__name__)
GROWTH = 1.5
"""A project learns again when it has so many times the corrected tasks of the last training."""

_UNDER_WAY = (RunState.PREPARING, RunState.ACTIVE)
_LOOKED_AT = 200


class Trainings:
    """Starts runs that train. Blocking, and safe between threads; every method may raise ``StoreError``.

    Args:
        ledger: where runs are kept.
        queue: is told where work is.
        projects: plans how the tasks of a project are annotated.
        store: knows projects as ``/setup`` introduced them, and which version serves.
        bundles: tells the segmenter that is learned on.
        versions: what was learned before.
        annotations: what people corrected.
        settings: how trainings are begun.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: RunQueue,
        projects: Projects,
        store: Store,
        bundles: Bundles,
        versions: Versions,
        annotations: Annotations,
        settings: Settings,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._projects = projects
        self._store = store
        self._bundles = bundles
        self._versions = versions
        self._annotations = annotations
        self._settings = settings

    def consider(self, project: int) -> Run | None:
        """Begin a training if enough was corrected since the last one, and trainings begin by themselves.

        Returns the run, or None. What is wrong with the project is logged: nobody waits for an answer.
        """
        if self._settings.learn != "auto":
            return None
        corrected = self._annotations.corrected(project)
        if corrected.tasks < self._settings.learn_from:
            return None
        last = self._last(project)
        known = self._versions.of_project(project)
        seen = known[0].manifest.images if known else 0  # of a training that found more than was known before
        if last is not None and last.spec.training is not None:
            seen = max(seen, last.spec.training.images)
        if (last is not None and last.state in _UNDER_WAY) or corrected.tasks < math.ceil(GROWTH * seen):
            return None
        try:
            return self.start(project, f"{corrected.tasks} corrected tasks").run
        except (RunsError, ConfigError) as error:
            _log.warning("project %d: no training was begun: %s", project, error)
            return None

    def start(
        self, project: int, why: str, *, facts: Mapping[str, Any] | None = None, extra_params: Any = None
    ) -> Started:
        """Begin a training, or join the one that is under way. What was learned from already is not learned again.

        Args:
            project: Label Studio's id.
            why: what began it, for people.
            facts: the project as Label Studio describes it; None: as ``/setup`` introduced it.
            extra_params: of the connection, with ``facts``.

        Raises:
            RunsError: the project is not known, or there is nothing new to learn from.
            ConfigError: the labeling config has no use for predictions of ours.
        """
        known = self._known(project) if facts is None else None
        text = known.label_config if known is not None else str((facts or {}).get("label_config") or "")
        params = known.extra_params if known is not None else extra_params
        adapter = self._store.adapter_of(str(project))
        plan = self._projects.plan(text, params, adapter)
        last = self._last(project)
        if last is not None and last.state in _UNDER_WAY:
            self._queue.wake(last.id)
            return Started(last, True, 1, (), last.spec)
        corrected = self._annotations.corrected(project)
        training = TrainingRequest(
            base=self._bundles.base,
            parent=adapter,
            corrections=corrected.digest,
            images=corrected.tasks,
            steps=self._settings.learn_steps,
            group=self._settings.learn_group,
            why=why,
        )
        if known is not None:
            self._refuse_old(project, corrected, training)
        spec = RunSpec(
            request=RunRequest(project=project),
            label_config=text,
            extra_params=params,
            model_version=f"train-{_digest(training)}",
            prompt=f"the next version of project {project} ({why})",
            strategy=self._settings.strategy,
            config_hash=config_hash(text),
            adapter=plan.adapter,
            kind=RunKind.TRAIN,
            training=training,
        )
        try:
            run, joined = self._ledger.create(spec, [1]), False
        except RunExistsError as error:  # two asked at the same moment
            run, joined = error.run, True
        _log.info("project %d: run %s trains (%s)", project, run.id, why)
        self._queue.wake(run.id)
        return Started(run, joined, 1, (), spec)

    def _refuse_old(self, project: int, corrected: Corrected, training: TrainingRequest) -> None:
        if not corrected.tasks:
            raise RunsError(
                f"nothing is known that was corrected in project {project}: annotate tasks, or, where the backend was "
                f"connected later, read the project once with int-backend learn --project {project}"
            )
        same = [v for v in self._versions.of_project(project) if v.corrections == corrected.digest]
        if any(v.manifest.base == training.base and v.parent == training.parent for v in same) or any(
            v.id == training.parent for v in same
        ):
            raise RunsError(
                f"project {project} has learned from exactly these {corrected.tasks} corrected tasks already "
                f"({same[0].name}); correct more tasks first"
            )

    def _known(self, project: int) -> Project:
        found = next((one for one in self._store.projects() if one.id == str(project)), None)
        if found is None or not found.label_config:
            raise RunsError(
                f"project {project} is not known here; open its Machine Learning settings once, so that Label Studio "
                "introduces it"
            )
        return found

    def _last(self, project: int) -> Run | None:
        runs = self._ledger.runs(project, _LOOKED_AT)
        return next((run for run in runs if run.spec.kind is RunKind.TRAIN), None)


def _digest(training: TrainingRequest) -> str:
    parts = (training.base, training.parent, training.corrections, training.seed, training.steps, training.group)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
