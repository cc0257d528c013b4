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
    from int_model.config import IntConfig, load_preset
    from int_model.models.suite import ModelSuite, load_suite
    from int_model.prompts import TaskPrompt
    from int_model.strategies import STRATEGIES, Strategy, make_strategy
    from int_model.trace import trace_to_dict
    from int_model.types import Box, Instance, Segmentation, Trace

__all__ = [
    "STRATEGIES",
    "Box",
    "Instance",
    "IntConfig",
    "ModelSuite",
    "Segmentation",
    "Strategy",
    "TaskPrompt",
    "Trace",
    "load_preset",
    "load_suite",
    "make_strategy",
    "trace_to_dict",
]

_HOME = {
    "STRATEGIES": "strategies",
    "Box": "types",
    "Instance": "types",
    "IntConfig": "config",
    "ModelSuite": "models.suite",
    "Segmentation": "types",
    "Strategy": "strategies",
    "TaskPrompt": "prompts",
    "Trace": "types",
    "load_preset": "config",
    "load_suite": "models.suite",
    "make_strategy": "strategies",
    "trace_to_dict": "trace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'int_model' has no attribute '{name}'")
    value = getattr(import_module(f"int_model.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
