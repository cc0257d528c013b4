"""INT: instance-specific prompts mined from one task prompt, turned into semantic masks.

This package knows neither HTTP nor Label Studio. In five lines::

    from int_model import TaskPrompt, load_suite, make_strategy

    strategy = make_strategy("int", load_suite("nano"))
    for result in strategy.segment(images, TaskPrompt("camouflaged animal")):  # uint8 [H, W, 3] each
        print(result.name, [(instance.label, instance.score, instance.box) for instance in result.instances])

Nothing heavy is imported until a name below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from int_model.core.config import IntConfig
    from int_model.core.task_prompt import TaskPrompt
    from int_model.core.types import Box, Instance, Segmentation, Trace
    from int_model.models.suite import ModelSuite, load_suite
    from int_model.report.trace import trace_to_dict
    from int_model.strategies.base import Strategy
    from int_model.strategies.model_options import ModelOptions
    from int_model.strategies.registry import STRATEGIES, make_strategy

__all__ = [
    "STRATEGIES",
    "Box",
    "Instance",
    "IntConfig",
    "ModelOptions",
    "ModelSuite",
    "Segmentation",
    "Strategy",
    "TaskPrompt",
    "Trace",
    "load_suite",
    "make_strategy",
    "trace_to_dict",
]

_HOME = {
    "STRATEGIES": "strategies.registry",
    "Box": "core.types",
    "Instance": "core.types",
    "IntConfig": "core.config",
    "ModelOptions": "strategies.model_options",
    "ModelSuite": "models.suite",
    "Segmentation": "core.types",
    "Strategy": "strategies.base",
    "TaskPrompt": "core.task_prompt",
    "Trace": "core.types",
    "load_suite": "models.suite",
    "make_strategy": "strategies.registry",
    "trace_to_dict": "report.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'int_model' has no attribute '{name}'")
    value = getattr(import_module(f"int_model.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
