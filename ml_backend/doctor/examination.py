"""The examination, in the order in which things depend on one another; what rests on something broken is left out."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from int_model.models.profile import Profile
from ml_backend.connect.plan import look, plan_rest
from ml_backend.context import label_studio_client
from ml_backend.doctor import local
from ml_backend.doctor.connection import CONNECTION, Connected, LookUp, examine_connection
from ml_backend.doctor.diagnosis import Diagnosis, has_problem, of_error, ok, problem, warning
from ml_backend.doctor.elsewhere import examine_remote
from ml_backend.doctor.project import FIX, examine_clicks, examine_config, examine_predictions, mended
from ml_backend.doctor.redis import examine_redis
from ml_backend.doctor.sample import examine_sample
from ml_backend.doctor.server import examine_server, examine_token, not_configured
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.serving.model_loading import identify
from ml_backend.settings import Settings
from ml_backend.storage.audit import note_by_command
from ml_backend.storage.database import StoreError

PROJECT, PROFILE = "project", "profile"
_QUICK = 10.0
_TIMEOUT = 30.0  # Label Studio asks every connected backend before it lists them


@dataclass(frozen=True, slots=True)
class Environment:
    """What the doctor looks at besides Label Studio; tests put their own in."""

    probe: local.Probe
    look_up: LookUp


def look_up(host: str) -> Sequence[str]:
    """All addresses of a host by the system's resolver, [] if it is not known."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def examine(
    settings: Settings, *, project_id: int | None = None, fix: bool = False, environment: Environment | None = None
) -> Iterator[Diagnosis]:
    """Look at everything, and yield each diagnosis as soon as it is known.

    Args:
        settings: those that the service would run with.
        project_id: the project to look at; None takes the only one there is.
        fix: whether the project's webhook and toggles may be changed.
        environment: this machine, if None.
    """
    place = environment or Environment(local.probe_in_subprocess, look_up)
    yield from local.examine_settings(settings)
    yield from local.examine_database(settings)
    service, running = local.examine_service(settings)
    yield service
    yield from examine_redis(settings)
    yield from _models(settings, place.probe)
    bare = label_studio_client(settings, retries=0, timeout=_QUICK, with_token=False)
    client = label_studio_client(settings, retries=0, timeout=_TIMEOUT)
    if bare is None or client is None:
        yield not_configured()
        return
    with bare, client:
        server = examine_server(bare)
        yield from server.diagnoses
        if not server.answers:
            return
        token = examine_token(client, settings)
        yield from token
        if has_problem(token):
            return
        project, diagnosis = _choose(client, project_id)
        yield diagnosis
        if project is not None:
            judge = functools.partial(
                examine_connection,
                settings=settings,
                running=running,
                guarded=server.guards_addresses,
                look_up=place.look_up,
            )
            yield from _project(client, settings, project, judge, fix=fix)


def examine_project(client: LabelStudioClient, settings: Settings, project: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Look at one project only, as a backend that is running: connection, labeling config, visibility, an image.

    Args:
        client: of Label Studio; its token is known to work.
        settings: of the service.
        project: as Label Studio describes it.
    """
    guarded = examine_server(client).guards_addresses
    judge = functools.partial(examine_connection, settings=settings, running=True, guarded=guarded, look_up=look_up)
    yield from _project(client, settings, project, judge, fix=False)


def _models(settings: Settings, probe: local.Probe) -> Iterator[Diagnosis]:
    try:
        profile: Profile = settings.models.read_profile()
        identify(settings)
    except ValueError as error:
        remedy = "correct INT_PROFILE, INT_PROFILE_OVERRIDES, INT_STRATEGY, INT_PRESET or INT_CONFIG"
        yield of_error(PROFILE, error, remedy, before="The models cannot be chosen: ")
        return
    yield from local.examine_weights(profile)
    yield from examine_remote(profile)
    yield local.examine_memory(profile, settings.device, probe)


def _choose(client: LabelStudioClient, project_id: int | None) -> tuple[Mapping[str, Any] | None, Diagnosis]:
    """The project to look at, and what is said about it."""
    try:
        if project_id is not None:
            found = client.project(project_id)
            if not _is_project(found):
                text = f"Label Studio does not describe project {project_id} as it should."
                return None, problem(PROJECT, text, "use Label Studio 1.23 or newer")
            return found, ok(PROJECT, f"Project {project_id} is '{found.get('title', '')}'.")
        listed = client.json("GET", "/api/projects", params={"page_size": 10})
    except LabelStudioError as error:
        return None, of_error(PROJECT, error, "check the project's id")
    results = listed.get("results") if isinstance(listed, Mapping) else None
    rows = [row for row in results if _is_project(row)] if isinstance(results, list) else []
    if len(rows) == 1:
        return rows[0], ok(PROJECT, f"Project {rows[0].get('id')}, '{rows[0].get('title', '')}', is the only one.")
    if not rows:
        return None, warning(PROJECT, "The token's user sees no project.", "make a project, or give the user access")
    names = ", ".join(f"{row.get('id')} '{row.get('title', '')}'" for row in rows)
    return None, warning(PROJECT, f"No project was looked at; there are {names}.", "name one with --project ID")


def _is_project(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("id"), int)


def _project(
    client: LabelStudioClient,
    settings: Settings,
    project: Mapping[str, Any],
    judge: Callable[[Any, Any], Connected],
    *,
    fix: bool,
) -> Iterator[Diagnosis]:
    number = int(project["id"])
    if fix:
        yield from _mended(client, number, settings)
        project = client.project(number)
    connected = _connection(client, number, judge)
    yield from connected.diagnoses
    diagnoses, config = examine_config(str(project.get("label_config") or ""), connected.extra_params, settings)
    yield from diagnoses
    yield from examine_predictions(project, connected.title, connected.version)
    if config is not None:
        clicks = examine_clicks(str(project.get("label_config")), interactive=connected.interactive)
        if clicks is not None and connected.title:
            yield clicks
        yield examine_sample(client, number, config, settings)


def _mended(client: LabelStudioClient, project: int, settings: Settings) -> Iterator[Diagnosis]:
    try:
        changes = plan_rest(look(client, project), settings).changes
    except LabelStudioError as error:
        yield of_error(PROJECT, error, "check that the token's user may see the project's settings")
        return
    if not changes:
        return
    try:
        note_by_command(settings, "fix", f"project {project}: {'; '.join(change.text for change in changes)}")
    except StoreError as error:
        yield of_error(FIX, error, "correct INT_DATA_DIR or DATABASE_URL", before="Not changed, as nobody would know: ")
        return
    yield from (mended(client, change) for change in changes)


def _connection(client: LabelStudioClient, project: int, judge: Callable[[Any, Any], Connected]) -> Connected:
    try:
        rows = client.json("GET", "/api/ml", params={"project": project})
    except LabelStudioError as error:
        return Connected((of_error(CONNECTION, error, "check that the token's user may see the project's settings"),))
    try:
        webhooks = client.json("GET", "/api/webhooks/", params={"project": project})
    except LabelStudioError:
        webhooks = None  # some roles may not see them; nothing to say then
    return judge(rows, webhooks)
