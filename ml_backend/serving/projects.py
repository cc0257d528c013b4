"""Projects as Label Studio introduced them: labeling configs, extra params, and the model versions that follow."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ml_backend.labelstudio.label_config import ConfigError, LabelingConfig, only_images, parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions, options_for
from ml_backend.labelstudio.task_prompt import ConnectionParams, parse_extra_params
from ml_backend.labelstudio.wire import PredictIn, SetupIn
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.known_projects import Known, KnownProjects
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.serving.plan import Plan
from ml_backend.serving.tasks import Threads
from ml_backend.serving.versions import model_version
from ml_backend.storage.database import StoreError
from ml_backend.storage.store import Project

_log = logging.getLogger(__name__)
_WRITE_SECONDS = 1.0
_READ_SECONDS = 0.5
_READ_AGAIN_SECONDS = 5.0
_LONGEST_KEPT = 100_000


class Projects:
    """The projects that are known; lives in one event loop.

    Args:
        facilities: of the service.
    """

    def __init__(self, facilities: Facilities) -> None:
        self._settings = facilities.settings
        self._identity = facilities.identity
        self._store = facilities.store
        self._status = facilities.status
        self._known = KnownProjects(facilities.settings.max_projects)
        self._bundles = facilities.bundles
        self._versions = facilities.versions
        self._writer = Threads(1, "store")
        self._reader = Threads(2, "adapters")
        self._read_again = 0.0  # the database was slow: until then what is known counts
        self._named: set[tuple[str, str]] = set()

    async def load(self) -> None:
        """Read what the store has, but no more than is remembered."""
        most = self._settings.max_projects
        try:
            for project in reversed(await self._writer(self._store.newest_projects, most)):
                self._known.put(await asyncio.to_thread(self._understood, project))
        except StoreError as error:
            self._status.report("the known projects", error)

    async def close(self) -> None:
        """Finish what is being written."""
        await self._writer.close()
        await self._reader.close()

    async def setup(self, request: SetupIn) -> str:
        """Remember a project; returns its model version. Waits at most a second and a half for the database."""
        adapter = await self._chosen_adapter(request.project)
        project = Project(request.project, request.extra_params, request.label_config, adapter)
        known = self._known.get(project.id)
        if known is None or known.project != project:
            known = await asyncio.to_thread(self._understood, project)  # a long one must not hold up /health
            await self._remember(known)
            for warning in await asyncio.to_thread(self._warnings, project):
                self._status.report(f"project {project.id}", warning)
        return known.version

    async def update(self, project_id: str, label_config: str) -> None:
        """Take over a changed labeling config of a project that is known."""
        known = self._known.get(project_id)
        if known is not None and label_config and label_config != known.project.label_config:
            project = replace(known.project, label_config=label_config)
            await self._remember(await asyncio.to_thread(self._understood, project))

    async def refresh(self, project_id: str) -> None:
        """Take over another version of a project that was promoted, or rolled back to, since the last request."""
        adapter = await self._chosen_adapter(project_id)
        if adapter != self._of(project_id).adapter:
            project = replace(self._of(project_id), adapter=adapter)
            self._known.put(await asyncio.to_thread(self._understood, project))

    def known(self, project_id: str) -> Project | None:
        """A project that ``/setup`` introduced, or None."""
        known = self._known.get(project_id)
        return None if known is None else known.project

    def versions(self, project_id: str = "", most: int | None = None) -> list[str]:
        """The model versions in use, of one project, or of all (``most``: of those used last)."""
        known = self._known.get(project_id) if project_id else None
        found = [known] if known is not None else self._known.newest(most)
        return list(dict.fromkeys(one.version for one in found)) or [self._version_of(Project(""))]

    def version_of_text(self, label_config: str) -> str:
        """The model version for the text of a labeling config, which need not make sense, without extra params."""
        return self._version_of(Project("", None, label_config))

    def asked(self, request: PredictIn) -> Project:
        """The project of a request, with the labeling config that the request brings, if any."""
        known = self._of(request.project)
        return replace(known, label_config=request.label_config or known.label_config)

    def plan(self, label_config: str, extra_params: Any, adapter: str = "") -> Plan:
        """How the tasks of a project with that labeling config and those extra params are annotated.

        ``adapter`` is that of the project; "" stands for the one that this process was started with, if any.

        Raises ``ConfigError`` if the config has no use for predictions of ours. Blocking, but quick.
        """
        return self._plan(self._parsed(label_config), extra_params, adapter)

    def lacks(self, plan: Plan) -> str:
        """Why this process's models cannot do a plan, and what to do; or "". Blocking, but quick."""
        return self._bundles.lacks(plan.adapter)

    def plan_of(self, request: PredictIn) -> Plan:
        """The same for a request. A click needs no more of the config than its images.

        Raises ``ConfigError`` also if this process lacks the project's adapter.
        """
        project = self.asked(request)
        try:
            config = self._parsed(project.label_config)
        except ConfigError:
            if not request.is_interactive or request.typed_prompt:
                raise
            config = only_images(project.label_config)
        plan = self._plan(config, project.extra_params, project.adapter, request.typed_prompt)
        if lacking := self.lacks(plan):
            raise ConfigError(lacking)
        self.remember_version(request.project, plan)
        return plan

    def remember_version(self, project_id: str, plan: Plan) -> None:
        """Keep which adapter stands behind the plan's version, so that its predictions can be found. Blocking."""
        if not plan.adapter or not project_id.isdecimal() or (project_id, plan.version) in self._named:
            return
        try:
            self._versions.name(int(project_id), plan.version, plan.adapter)
        except StoreError as error:
            self._status.report(f"project {project_id}", error)
        else:
            self._named.add((project_id, plan.version))

    def _plan(self, config: LabelingConfig, extra_params: Any, adapter: str, typed: str = "") -> Plan:
        params, identity = parse_extra_params(extra_params), self._identity.adapted(adapter)
        version = self._version(identity, config, params)
        return Plan(config, params, self._options(config, params)[0], version, typed, identity.adapter)

    async def _chosen_adapter(self, project_id: str) -> str:
        """The project's adapter as the store has it now; as it was known where the database is slow or away."""
        now = asyncio.get_running_loop().time()
        if now >= self._read_again:
            reading = asyncio.create_task(self._reader(self._store.adapter_of, project_id))
            done, _ = await asyncio.wait([reading], timeout=_READ_SECONDS)
            if done and reading.exception() is None:
                return reading.result()
            reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # it was looked at
            self._read_again = now + _READ_AGAIN_SECONDS
        return self._of(project_id).adapter

    def _of(self, project_id: str) -> Project:
        known = self._known.get(project_id)
        return Project(project_id) if known is None else known.project

    def _understood(self, project: Project) -> Known:
        return Known(project, self._version_of(project))

    async def _remember(self, known: Known) -> None:
        project, gone = known.project, self._known.put(known)
        writing = asyncio.create_task(self._writer(self._write, project, gone))
        try:
            await asyncio.wait_for(asyncio.shield(writing), _WRITE_SECONDS)
        except TimeoutError:
            _log.warning("the database is slow; project %s is written later", project.id)
        except StoreError as error:
            self._status.report(f"project {project.id}", error)

    def _write(self, project: Project, gone: Sequence[str]) -> None:
        self._store.save_project(project)
        self._store.forget_projects(gone)

    def _warnings(self, project: Project) -> list[str]:
        """What will not work with a project: to be reported, since Label Studio shows none of it."""
        params = parse_extra_params(project.extra_params)
        warnings = [params.warning] if params.warning else []
        try:
            config = self._parsed(project.label_config)
            warnings += config.warnings
            warnings += self._options(config, params)[1]
        except ConfigError as error:
            warnings.append(str(error))
        return warnings

    def _version_of(self, project: Project) -> str:
        config = self._parsed_or_error(project.label_config)
        text = project.label_config if isinstance(config, ConfigError) else config
        return self._version(self._identity.adapted(project.adapter), text, parse_extra_params(project.extra_params))

    def _version(self, identity: ModelIdentity, config: LabelingConfig | str, params: ConnectionParams) -> str:
        settings = self._settings
        return model_version(identity, config, params, settings.prompt, settings.output, settings.max_regions)

    def _options(
        self, config: LabelingConfig, params: ConnectionParams
    ) -> tuple[dict[str, OutputOptions], tuple[str, ...]]:
        chosen = {c.name: options_for(c, params.options, self._settings.output) for c in config.controls}
        warnings = tuple(dict.fromkeys(text for entry in chosen.values() for text in entry.warnings))
        return {name: entry.options for name, entry in chosen.items()}, warnings

    def _parsed_or_error(self, text: str) -> LabelingConfig | ConfigError:
        parse = _parse if len(text) > _LONGEST_KEPT else _parse_once
        return parse(text, self._settings.max_labels)

    def _parsed(self, text: str) -> LabelingConfig:
        found = self._parsed_or_error(text)
        if isinstance(found, ConfigError):
            raise ConfigError(str(found))
        return found


def _parse(text: str, max_labels: int) -> LabelingConfig | ConfigError:
    try:
        return parse_label_config(text, max_labels)
    except ConfigError as error:
        return error


_parse_once = functools.lru_cache(maxsize=256)(_parse)
