"""What a person would click in Label Studio, over its HTTP API with a logged-in session."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from ml_backend.demo.processes import DemoError

# "Retrieve predictions" answers when the backend has; Label Studio itself waits at most 100 s for it.
_TIMEOUT = httpx.Timeout(30.0, read=150.0)


class LabelStudioSession:
    """A logged-in session. Every method raises `DemoError` with Label Studio's words where it refuses."""

    def __init__(self, url: str, email: str, password: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False, follow_redirects=True)
        self._http.get("/user/login/").raise_for_status()
        form = {"email": email, "password": password, "csrfmiddlewaretoken": self._http.cookies["csrftoken"]}
        self._http.post("/user/login/", data=form, headers={"Referer": url})
        if "sessionid" not in self._http.cookies:
            raise DemoError(f"Label Studio at {url} refused the login of {email}")

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One API call; returns the decoded JSON, or None where the answer has no body."""
        headers = {"X-CSRFToken": self._http.cookies.get("csrftoken") or "", "Referer": self.url}
        try:
            response = self._http.request(method, path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise DemoError(f"Label Studio did not answer {method} {path}: {error or type(error).__name__}") from error
        if response.is_error:
            raise DemoError(f"Label Studio answered {response.status_code} to {method} {path}: {response.text[:400]}")
        return response.json() if response.content else None

    def create_token(self) -> str:
        """A personal access token of the user (Label Studio gives one per user)."""
        return str(self.call("POST", "/api/token/", json={})["token"])

    def create_project(self, title: str, label_config: str, description: str = "") -> int:
        """A project; returns its id."""
        body = {"title": title, "label_config": label_config, "description": description}
        return int(self.call("POST", "/api/projects/", json=body)["id"])

    def upload(self, project: int, files: Sequence[Path]) -> dict[str, int]:
        """Upload image files as tasks, in order; returns the task id of each file name."""
        names = [path.name for path in files]
        if len(set(names)) != len(names):
            raise DemoError("two of the files to upload have the same name")
        before = {task["id"] for task in self.tasks(project)}
        for path in files:
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            part = {path.name: (path.name, path.read_bytes(), kind)}
            self.call("POST", f"/api/projects/{project}/import", files=part)
        tasks = [task["id"] for task in self.tasks(project) if task["id"] not in before]
        if len(tasks) != len(names):
            raise DemoError(f"Label Studio made {len(tasks)} tasks of {len(names)} files")
        return dict(zip(names, sorted(tasks), strict=True))

    def connect(self, project: int, backend: str, *, extra_params: str | None = None) -> dict[str, Any]:
        """Connect an ML backend, clicks included; returns its row in Label Studio: ``state`` is ``CO`` if connected."""
        body: dict[str, Any] = {"project": project, "url": backend, "title": "INT", "is_interactive": True}
        if extra_params is not None:
            body["extra_params"] = extra_params
        row: dict[str, Any] = self.call("POST", "/api/ml", json=body)
        return row

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks of a project with their predictions, by id."""
        found: list[dict[str, Any]] = []
        while True:
            page = len(found) // 100 + 1
            query = {"project": project, "page": page, "page_size": 100, "fields": "all"}
            answer = self.call("GET", "/api/tasks", params=query)
            found += answer["tasks"]
            if len(found) >= answer["total"] or not answer["tasks"]:
                return sorted(found, key=lambda task: int(task["id"]))

    def retrieve_predictions(self, project: int) -> None:
        """The Data Manager's "Retrieve predictions" for all tasks that lack them."""
        query = {"id": "retrieve_tasks_predictions", "project": project}
        body = {"selectedItems": {"all": True, "excluded": []}}
        self.call("POST", "/api/dm/actions", params=query, json=body)

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The predictions of a task, as stored."""
        found: list[dict[str, Any]] = self.call("GET", "/api/predictions", params={"task": task})
        return found
