"""What is missing between a project and this backend, as changes that can be shown before they are made."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from int_model.strategies.registry import STRATEGIES
from ml_backend.connect.labeling import ControlKind, amended
from ml_backend.connect.prompt import overruled, overruled_options, with_params
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import our_connection, prelabel_obstacles
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.settings import Settings

TITLE = "INT"
_HEADER = "X-Webhook-Secret"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".dcm")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a project is to have.

    Attributes:
        prompt: the task prompt for the connection's extra params, or "" to leave them.
        control: the kind of mask control where the labeling config has none; None for polygons.
        label: the label of an added control, or "" for the prompt's last word.
        smart: clicks and boxes.
        backend: the backend's address as Label Studio reaches it; "" keeps the connection's, else localhost.
        strategy: for the connection's extra params, or "" to leave it.
        threshold: the score below which nothing is shown, in the same way; None to leave it.

    Raises:
        ValueError: there is no such strategy, or the threshold is not from 0 to 1.
    """

    prompt: str = ""
    control: ControlKind | None = None
    label: str = ""
    smart: bool = False
    backend: str = ""
    strategy: str = ""
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.strategy:
            STRATEGIES.named(self.strategy)
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"the score threshold needs to be from 0 to 1, not {self.threshold:g}")

    @property
    def options(self) -> dict[str, Any]:
        """What is wanted of the options of the masks, by their names in the extra params."""
        wanted = {"strategy": self.strategy or None, "score_threshold": self.threshold}
        return {name: value for name, value in wanted.items() if value is not None}

    @property
    def label_name(self) -> str:
        """The label of an added control."""
        return self.label.strip() or (self.prompt.split() or ["Object"])[-1].capitalize()


@dataclass(frozen=True, slots=True)
class Found:
    """A project as Label Studio describes it: settings, connections, webhooks (None: not readable), a task's data."""

    project: Mapping[str, Any]
    connections: Sequence[Mapping[str, Any]]
    webhooks: Sequence[Mapping[str, Any]] | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One request that adds what is missing: a sentence about it, method, path and body."""

    text: str
    method: str
    path: str
    body: Mapping[str, Any] = field(repr=False)  # may hold a password


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in their order, remarks, and the labeling config before and after."""

    changes: tuple[Change, ...]
    remarks: tuple[str, ...] = ()
    config_before: str = ""
    config_after: str = ""

    def difference(self) -> list[str]:
        """The labeling config's change as lines of a unified diff, [] without one."""
        before, after = _lines(self.config_before), _lines(self.config_after)
        return list(
            difflib.unified_diff(before, after, "labeling config now", "labeling config then", lineterm="", n=2)
        )


def look(client: LabelStudioClient, project_id: int) -> Found:
    """Read a project. Raises ``LabelStudioError``."""
    project = client.project(project_id)
    try:
        hooks = client.json("GET", "/api/webhooks/", params={"project": int(project_id)})
    except LabelStudioError:
        hooks = None  # some roles may not see them
    first = client.tasks_page(project_id, 1, 1)
    data = first[0].get("data") if first else None
    return Found(
        project,
        client.connections(project_id),
        [hook for hook in hooks if isinstance(hook, Mapping)] if isinstance(hooks, list) else None,
        data if isinstance(data, Mapping) else {},
    )


def plan_connection(found: Found, wanted: Wanted, settings: Settings) -> Plan:
    """The labeling config and the connection. Webhook and toggles depend on it: `plan_rest`, afterwards.

    Raises:
        ValueError: the labeling config, the extra params or the prompt cannot be used; the message names the remedy.
    """
    number = int(found.project["id"])
    before = str(found.project.get("label_config") or "")
    after, additions = amended(
        before,
        control=wanted.control,
        label=wanted.label_name,
        field=_image_field(found.data),
        smart=wanted.smart,
    )
    changes = []
    if after != before:
        text = f"add to the labeling config: {'; '.join(additions)}"
        changes.append(Change(text, "PATCH", f"/api/projects/{number}", {"label_config": after}))
    row = our_connection(found.connections, settings.port)
    changes += _connection(number, row, wanted, settings)
    remarks, config = [], parse_label_config(after)
    kept = overruled(config, row.get("extra_params") if row else None) if wanted.prompt else []
    if kept:
        remarks.append(f"these labels keep a prompt of their own, which goes first: {', '.join(kept)}")
    if kept := overruled_options(config, wanted.options):
        remarks.append(f"the labeling config sets these itself, and goes first: {', '.join(kept)}")
    if row is not None and found.connections[0] is not row:
        remarks.append(
            f"Label Studio takes predictions from the first connection only, '{found.connections[0].get('title')}'; "
            "delete it under Settings > Model if this backend is to predict"
        )
    return Plan(tuple(changes), tuple(remarks), before, after)


def plan_rest(found: Found, settings: Settings) -> Plan:
    """The webhook and the toggles that show predictions, of a project that has a connection; else nothing."""
    row = our_connection(found.connections, settings.port)
    if row is None:
        return Plan(())
    number = int(found.project["id"])
    changes = _webhook(number, str(row.get("url") or ""), found.webhooks, settings)
    obstacles = prelabel_obstacles(found.project, str(row.get("model_version") or ""), str(row.get("title") or ""))
    toggles = {name: value for obstacle in obstacles for name, value in obstacle.change.items()}
    if toggles:
        said = " and ".join(f"{name} = {value!r}" for name, value in toggles.items())
        changes.append(Change(f"set in the project: {said}", "PATCH", f"/api/projects/{number}", toggles))
    return Plan(tuple(changes))


def apply(client: LabelStudioClient, change: Change) -> None:
    """Make one change. Raises ``LabelStudioError``."""
    client.request(change.method, change.path, body=dict(change.body))


def _connection(number: int, row: Mapping[str, Any] | None, wanted: Wanted, settings: Settings) -> list[Change]:
    login = _login(settings)
    if row is None:
        address = wanted.backend or f"http://localhost:{settings.port}"
        body = {"project": number, "url": address, "title": TITLE, "is_interactive": wanted.smart, **login}
        if wanted.prompt or wanted.options:
            body["extra_params"] = with_params(None, wanted.prompt, wanted.options)
        about = "".join(f", {said}" for said in _params_said(wanted))
        return [Change(f"connect the backend at {address}{about}", "POST", "/api/ml", body)]
    change: dict[str, Any] = {}
    said = []
    if wanted.backend and str(row.get("url", "")).rstrip("/") != wanted.backend.rstrip("/"):
        change["url"] = wanted.backend
        said.append(f"its address: {wanted.backend}")
    if wanted.smart and row.get("is_interactive") is not True:
        change["is_interactive"] = True
        said.append("it takes clicks")
    if login and (row.get("auth_method"), row.get("basic_auth_user")) != ("BASIC_AUTH", settings.basic_auth_user):
        change |= login
        said.append("it logs in with BASIC_AUTH_USER")
    if wanted.prompt or wanted.options:
        params = with_params(row.get("extra_params"), wanted.prompt, wanted.options)
        if params != row.get("extra_params"):
            change["extra_params"] = params
            said.append(f"its {', its '.join(_params_said(wanted))}")
    if not change:
        return []
    text = f"change the connection '{row.get('title')}': {'; '.join(said)}"
    required = {"project": number, "url": row.get("url")}
    return [Change(text, "PATCH", f"/api/ml/{row['id']}", required | change)]


def _params_said(wanted: Wanted) -> list[str]:
    """What goes into the extra params, in words."""
    said = [f"prompt {wanted.prompt!r}"] if wanted.prompt else []
    said += [f"strategy {wanted.strategy}"] if wanted.strategy else []
    return said + ([] if wanted.threshold is None else [f"score threshold {wanted.threshold:.2f}"])


def _webhook(number: int, backend: str, hooks: Sequence[Mapping[str, Any]] | None, settings: Settings) -> list[Change]:
    if hooks is None or not backend:
        return []
    url = f"{backend.rstrip('/')}/webhook"
    secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
    headers = {_HEADER: secret} if secret else {}
    hook = next((h for h in hooks if str(h.get("url", "")).rstrip("/") == url), None)
    if hook is None:
        body = {"url": url, "is_active": True, "send_payload": True, "send_for_all_actions": True, "headers": headers}
        where = f"/api/webhooks/?project={number}"
        return [Change(f"add the webhook {url}", "POST", where, body | {"project": number})]
    sent = hook.get("headers")
    have = {str(name).lower() for name in sent} if isinstance(sent, Mapping) else set()
    change: dict[str, Any] = {}
    if hook.get("is_active") is not True or hook.get("send_payload") is not True:
        change |= {"is_active": True, "send_payload": True}
    if secret and _HEADER.lower() not in have:
        change["headers"] = {**(sent if isinstance(sent, Mapping) else {}), **headers}
    if not change:
        return []
    what = "send the webhook's secret" if "headers" in change else "switch the webhook on"
    return [Change(f"{what} ({url})", "PATCH", f"/api/webhooks/{hook['id']}/", {"url": url} | change)]


def _login(settings: Settings) -> dict[str, Any]:
    if settings.basic_auth_user is None:
        return {}
    password = settings.basic_auth_pass.get_secret_value() if settings.basic_auth_pass else ""
    user = settings.basic_auth_user
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}


def _image_field(data: Mapping[str, Any]) -> str:
    """The field of a task's data that holds an image: one that looks like it, else the first text, else ``image``."""
    # Label Studio keeps uploads under "$undefined$" until a config names a field, and then answers with that name.
    texts = {n: v for n, v in data.items() if isinstance(v, str) and v.strip() and not str(n).startswith("$")}
    for name, value in texts.items():
        path = value.partition("?")[0].lower()
        if path.endswith(_IMAGES) or path.startswith(("/data/", "data:image/")):
            return str(name)
    return "image" if "image" in texts or not texts else str(next(iter(texts)))


def _lines(config: str) -> list[str]:
    """One tag per line, so that a diff shows tags."""
    return config.replace("><", ">\n<").splitlines()


def as_json(plan: Plan) -> dict[str, Any]:
    """What a plan changes, as plain data; passwords and secrets are left out."""
    changes = [{"what": change.text, "method": change.method, "path": change.path} for change in plan.changes]
    return {"changes": changes, "remarks": list(plan.remarks), "difference": plan.difference()}


def told(plan: Plan) -> list[str]:
    """A plan as lines for people."""
    lines = [f"  - {change.text}" for change in plan.changes]
    lines += [f"    {line}" for line in plan.difference()]
    return lines + [f"  note: {remark}" for remark in plan.remarks]


def plain(plans: Sequence[Plan]) -> str:
    """Several plans as one JSON text."""
    return json.dumps({"plans": [as_json(plan) for plan in plans]}, indent=2)
