"""``int-backend connect``: show what is missing, ask, add it, and say whether Label Studio reaches the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ml_backend.connect.plan import Plan, Wanted, apply, look, plain, plan_connection, plan_rest, told
from ml_backend.context import label_studio_client
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import our_connection
from ml_backend.settings import Settings
from ml_backend.storage.audit import note_by_command

TIMEOUT = 60.0  # Label Studio asks every connected backend before it answers
_RESERVED = (
    "Label Studio refuses private addresses since 1.23.1: start it with "
    "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false, or give a public address with --backend"
)
NO_ACCESS = "connecting needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY (Account & Settings > Personal Access Token)"


def run(
    settings: Settings,
    project_id: int,
    wanted: Wanted,
    *,
    dry_run: bool,
    as_json: bool,
    confirm: Callable[[str], bool],
    tell: Callable[[str], None],
) -> int:
    """Connect a project. Returns the exit status: 0 if the project is connected or nothing was to be done, else 1.

    Args:
        settings: ours; its address and token of Label Studio.
        project_id: in Label Studio.
        wanted: what the project is to have.
        dry_run: only show the changes.
        as_json: tell one JSON object and ask nothing.
        confirm: asks a person whether to go on.
        tell: takes lines.

    Raises:
        ValueError: the settings or the labeling config cannot be used; the message names the remedy.
        LabelStudioError: Label Studio refuses.
        StoreError: the audit log cannot be written; nothing has been changed.
    """
    client = label_studio_client(settings, retries=2, timeout=TIMEOUT)
    if client is None:
        raise ValueError(NO_ACCESS)
    with client:
        found = look(client, project_id)
        first, later = plan_connection(found, wanted, settings), plan_rest(found, settings)
        shown = [first, later]
        if not as_json:
            _show(shown, str(found.project.get("title") or ""), project_id, tell)
        changes = bool(first.changes or later.changes)
        if dry_run or (changes and not confirm("Make these changes?")):
            if as_json:
                tell(plain(shown))
            return 0
        if changes:
            prompt = f": {wanted.prompt}" if wanted.prompt else ""
            note_by_command(settings, "connect", f"project {project_id}{prompt}")
        done, row = connect(client, project_id, wanted, settings)
        if as_json:
            tell(plain(done))
        else:
            tell(_verdict(row, changed=any(plan.changes for plan in done)))
        return 0 if row is not None and row.get("state") == "CO" else 1


def connect(
    client: LabelStudioClient, project_id: int, wanted: Wanted, settings: Settings
) -> tuple[list[Plan], Mapping[str, Any] | None]:
    """Make all changes; returns them, and the connection as Label Studio has it then.

    Label Studio itself adds a webhook and chooses a version, so it is looked at again in between.

    Raises:
        ValueError: the labeling config or the extra params cannot be used.
        LabelStudioError: Label Studio refuses.
    """
    first = plan_connection(look(client, project_id), wanted, settings)
    for change in first.changes:
        try:
            apply(client, change)
        except LabelStudioError as error:
            if change.path.startswith("/api/ml") and error.status == 403:
                raise LabelStudioError(f"{error}. {_RESERVED}", error.status) from None
            raise
    rest = plan_rest(look(client, project_id), settings)
    for change in rest.changes:
        apply(client, change)
    return [first, rest], our_connection(client.connections(project_id), settings.port)


def _show(plans: list[Plan], title: str, project_id: int, tell: Callable[[str], None]) -> None:
    lines = [line for plan in plans for line in told(plan)]
    if any(plan.changes for plan in plans):
        tell(f"Project {project_id}, '{title}', needs:")
    else:
        tell(f"Project {project_id}, '{title}', has all that it needs.")
    for line in lines:
        tell(line)


def _verdict(row: Mapping[str, object] | None, *, changed: bool) -> str:
    if row is None:
        return "not connected: Label Studio lists no connection to this backend; int-backend doctor says why"
    if row.get("state") == "CO":
        version = f", version {row['model_version']}" if row.get("model_version") else ""
        return f"{'done: ' if changed else ''}Label Studio reaches {row.get('url')}{version}"
    reason = " ".join(str(row.get("error_message") or "").split())[:300]
    return (
        f"connected, but Label Studio does not reach {row.get('url')}{f': {reason}' if reason else ''}; start the "
        "backend (int-backend serve), then run int-backend doctor"
    )
