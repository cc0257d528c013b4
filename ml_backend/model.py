"""The model class for the `label-studio-ml` package, over the same service as ``int-backend serve``.

Written for that package's GitHub master: ``LabelStudioMLBase(project_id, label_config)``, ``setup()``,
``predict(tasks, context) -> ModelResponse``, ``fit(event, data)``. Importing this module needs the package; nothing
else here does. One process only: every worker of a server would load the models again.
"""

from __future__ import annotations

import json
from typing import Any

from ml_backend.labelstudio.wire import PredictIn, SetupIn, project_key
from ml_backend.upstream import current, load_upstream

_upstream = load_upstream()
LabelStudioMLBase: Any = _upstream.base


class IntBackend(LabelStudioMLBase):  # type: ignore[misc]  # known only once the package is there
    """One request's view of the service; upstream makes an object per request, the models live beside it."""

    def setup(self) -> None:
        """Introduce the project to the service, and take over its model version. Waits for no model."""
        self._introduce()

    def set_extra_params(self, extra_params: Any) -> None:
        """Extra params in any form: upstream keeps text only, and knows them after `setup` has run."""
        text = extra_params if isinstance(extra_params, str) else json.dumps(extra_params)
        super().set_extra_params(text)
        self._introduce()

    @property
    def extra_params(self) -> Any:
        """The extra params, decoded if they are JSON; plain text, which is the prompt, as it is."""
        text = self.get("extra_params")
        try:
            return json.loads(text) if text else {}
        except ValueError:
            return text

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """A ``ModelResponse`` with one entry per task.

        A task that failed, or was not ready at the deadline, is ``[]``: nothing is saved, and it is asked for again.
        ``kwargs`` (login and password of the task data) are not used; images are fetched with our own token.
        """
        del kwargs
        known = {"project": self.project_id, "label_config": self.get("label_config") or ""}
        request = PredictIn.model_validate({**known, "tasks": list(tasks), "context": context})
        runtime = current()
        results = runtime.call(runtime.predictions.predict(request))
        predictions = [_upstream.prediction(**entry) if isinstance(entry, dict) else entry for entry in results]
        return _upstream.response(model_version=self.get("model_version"), predictions=predictions)

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> dict[str, str]:
        """Take note of an event and of the project's current labeling config. Nothing is learned from it here."""
        del kwargs
        runtime, project = current(), data.get("project")
        runtime.context.facilities.metrics.webhooks.labels(event if event in self.TRAIN_EVENTS else "unknown").inc()
        config = project.get("label_config") if isinstance(project, dict) else None
        if isinstance(config, str):
            runtime.call(runtime.context.projects.update(project_key(project), config))
        return {"event": event}

    def _introduce(self) -> None:
        request = SetupIn.model_validate(
            {
                "project": self.project_id,
                "schema": self.get("label_config") or "",
                "extra_params": self.get("extra_params") or None,
            }
        )
        runtime = current()
        self.set("model_version", runtime.call(runtime.context.projects.setup(request)))
