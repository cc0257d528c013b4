"""What one request asks of each of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml_backend.labelstudio.label_config import LabelingConfig
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.task_prompt import ConnectionParams


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How the tasks of a project are annotated.

    Attributes:
        config: the labeling config.
        params: of the connection.
        options: for drawing, by the names of controls.
        version: the model version.
        typed: a prompt that the annotator typed, or "".
        adapter: what was learned on top of the models; "" for the models as they are.
    """

    config: LabelingConfig
    params: ConnectionParams
    options: Mapping[str, OutputOptions]
    version: str
    typed: str
    adapter: str = ""
