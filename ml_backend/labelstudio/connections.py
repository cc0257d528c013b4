"""Which of a project's ML backends is this one, and which settings of a project hide predictions from annotators.

Runs, the doctor with its ``--fix`` and the demo decide by these rules. Facts of Label Studio 1.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

VERSION_PREFIX = "int-"
"""Every model version of this backend begins with it, and so tells its predictions and connections from others."""

PRELABEL_SETTING = "Settings > Annotation > Use predictions to prelabel tasks"


def our_connection(rows: Sequence[Mapping[str, Any]], port: int = 0) -> Mapping[str, Any] | None:
    """The connection to this backend among a project's ML backends, as ``/api/ml?project=`` lists them.

    It is the one whose model version is ours; of several, the one whose address has our port if just one has it, else
    the first. Without any, it is the only one that does not answer as another backend: a connection has no version, or
    an outdated one, before Label Studio has reached the backend behind it.

    Args:
        rows: the project's connections, in Label Studio's order.
        port: that this backend listens on; 0 if unknown.
    """
    ours = [row for row in rows if _text(row, "model_version").startswith(VERSION_PREFIX)]
    if ours:
        at_port = [row for row in ours if port and _port(_text(row, "url")) == port]
        return at_port[0] if len(at_port) == 1 else ours[0]
    undecided = [row for row in rows if row.get("state") != "CO" or not _text(row, "model_version")]
    return undecided[0] if len(undecided) == 1 else None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One setting of a project that keeps annotators from seeing predictions.

    Attributes:
        text: what is set, as a sentence without capital letter and full stop.
        remedy: the instruction that changes it.
        change: the same for ``PATCH /api/projects/ID``.
        hides_all: whether no prediction is shown at all, or those of another version.
    """

    text: str
    remedy: str
    change: Mapping[str, Any]
    hides_all: bool


def prelabel_obstacles(project: Mapping[str, Any], version: str, title: str = "") -> list[Obstacle]:
    """What in a project keeps annotators from seeing this backend's predictions; [] if nothing does.

    Args:
        project: as ``/api/projects/ID`` describes it.
        version: the predictions' model version; "" if unknown.
        title: of our connection. A project may show that in place of a version: predictions are then fetched when a
            task is opened, but stored ones are neither sorted by score nor sampled. "" if that is not enough.
    """
    found = []
    if project.get("show_collab_predictions") is False:
        text = "the project does not show predictions to annotators"
        found.append(Obstacle(text, f"switch on {PRELABEL_SETTING}", {"show_collab_predictions": True}, True))
    chosen, wanted = str(project.get("model_version") or ""), title or version
    if wanted and (not chosen or chosen not in (wanted, version)):
        text = "the project has no model version chosen to prelabel tasks with"
        if chosen:
            text = f"the project shows the predictions of '{chosen}', not those of '{wanted}'"
        remedy = f"choose '{wanted}' under {PRELABEL_SETTING}"
        found.append(Obstacle(text, remedy, {"model_version": wanted}, not chosen))
    return found


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _port(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
