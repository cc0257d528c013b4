"""What one request asks of each of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml_backend.labelstudio.label_config import LabelingConfig
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.task_prompt import ConnectionParams


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The project's config, connection and output options (by control name), the model version, a typed prompt."""

    config: LabelingConfig
    params: ConnectionParams
    options: Mapping[str, OutputOptions]
    version: str
    typed: str
