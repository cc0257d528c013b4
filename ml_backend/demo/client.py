"""What a person would click in Label Studio, over its HTTP API."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from ml_backend.demo.processes import DemoError
from ml_backend.labelstudio.client import LabelStudioClient

TIMEOUT = 150.0
"""Seconds: "Retrieve predictions" answers when the backend has; Label Studio itself waits at most 100 s for it."""


def sign_in(url: str, email: str, password: str) -> str:
    """Log in with a password and make a personal access token, of which a user has one. Raises `DemoError`."""
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False, follow_redirects=True) as http:
        try:
            http.get("/user/login/").raise_for_status()
            form = {"email": email, "password": password, "csrfmiddlewaretoken": http.cookies["csrftoken"]}
            http.post("/user/login/", data=form, headers={"Referer": url})
            headers = {"X-CSRFToken": http.cookies["csrftoken"], "Referer": url}
            return str(http.post("/api/token/", json={}, headers=headers).raise_for_status().json()["token"])
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise DemoError(f"Label Studio at {url} refused the login of {email}: {error!r}") from error


class DemoClient(LabelStudioClient):
    """The product's client, and what only the demo does. Raises ``LabelStudioError`` where Label Studio refuses."""

    def create_project(self, title: str, label_config: str, description: str = "") -> int:
        """A project; returns its id."""
        body = {"title": title, "label_config": label_config, "description": description}
        return int(self.json("POST", "/api/projects/", body=body)["id"])

    def upload(self, project: int, files: Sequence[Path]) -> dict[str, int]:
        """Upload image files as tasks, in order; returns the task id of each file name."""
        names = [path.name for path in files]
        if len(set(names)) != len(names):
            raise DemoError("two of the files to upload have the same name")
        before = {task["id"] for task in self.tasks(project)}
        for path in files:
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            part = {path.name: (path.name, path.read_bytes(), kind)}
            self.request("POST", f"/api/projects/{project}/import", files=part)
        tasks = [task["id"] for task in self.tasks(project) if task["id"] not in before]
        if len(tasks) != len(names):
            raise DemoError(f"Label Studio made {len(tasks)} tasks of {len(names)} files")
        return dict(zip(names, sorted(tasks), strict=True))

    def connect(self, project: int, backend: str, *, extra_params: str | None = None) -> dict[str, Any]:
        """Connect an ML backend, clicks included; returns its row in Label Studio: ``state`` is ``CO`` if connected."""
        body: dict[str, Any] = {"project": project, "url": backend, "title": "INT", "is_interactive": True}
        if extra_params is not None:
            body["extra_params"] = extra_params
        row: dict[str, Any] = self.json("POST", "/api/ml", body=body)
        return row

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks of a project with their predictions, by id."""
        found: dict[int, dict[str, Any]] = {}
        page = 1
        while rows := self.tasks_page(project, page, 100, whole=True):
            found |= {int(row["id"]): row for row in rows}
            page += 1
        return [found[number] for number in sorted(found)]

    def retrieve_predictions(self, project: int) -> None:
        """The Data Manager's "Retrieve predictions" for all tasks that lack them."""
        query = {"id": "retrieve_tasks_predictions", "project": project}
        body = {"selectedItems": {"all": True, "excluded": []}}
        self.request("POST", "/api/dm/actions", params=query, body=body)

    def show_by_doubt(self, project: int, version: str) -> int:
        """Add a view of the Data Manager that lists the lowest prediction scores first; returns the view's id.

        ``version`` is chosen in place of the connection's title: Label Studio fills the column of scores only for
        predictions of the version that the project has chosen.
        """
        if version:
            self.json("PATCH", f"/api/projects/{project}", body={"model_version": version})
        columns = self.json("GET", "/api/dm/columns", params={"project": project})["columns"]
        shown = ("id", "image", "predictions_score", "total_annotations", "total_predictions")
        hidden = [_column(one) for one in columns if one["id"] not in shown and not one.get("children")]
        data = {
            "title": "By doubt",
            "type": "list",
            "target": "tasks",
            "ordering": ["tasks:predictions_score"],
            "hiddenColumns": {"explore": hidden, "labeling": hidden},
        }
        return int(self.json("POST", "/api/dm/views", body={"project": project, "data": data})["id"])

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The predictions of a task, as stored."""
        found: list[dict[str, Any]] = self.json("GET", "/api/predictions", params={"task": task})
        return found


def _column(one: dict[str, Any]) -> str:
    """A column of the Data Manager as its views name it."""
    return f"{one['target']}:{one['parent'] + '.' if one.get('parent') else ''}{one['id']}"
