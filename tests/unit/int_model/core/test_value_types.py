"""What holds for every dataclass of the library: values stay as they were made, and arrays are not compared."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

import int_model

RECORDS = {
    "evaluation.memory", "evaluation.runner", "nano.referring.scenes", "nano.drawing", "nano.scenes", "datasets.coco",
    "datasets.card", "learning.training", "learning.ppt.gallery", "learning.ppt.curriculum",
    "strategies.negative_mining.state",
}  # fmt: skip
"""Modules with records that are filled as work goes on. All others hold values only."""
WITH_A_CACHE = {"evaluation.datasets", "nano.examples"}
"""Their values compute something once, which needs a ``__dict__``."""
ARRAYS = re.compile(r"\b(?:NDArray|ndarray|Image|Mask|SoftMask|Floats|Tensor)\b")


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(int_model.__path__, "int_model.")]
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_values_are_frozen_slotted_and_never_compare_arrays(name: str) -> None:
    """An array's ``==`` is an array: a generated ``__eq__`` raises, a generated ``__hash__`` too."""
    module, short = importlib.import_module(name), name.removeprefix("int_model.")
    found = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == name]
    for one in found:
        if not dataclasses.is_dataclass(one):
            continue
        if short not in RECORDS:
            assert one.__dataclass_params__.frozen, f"{one} can be changed after its checks"
            if short not in WITH_A_CACHE:
                assert "__slots__" in vars(one), f"{one} takes attributes that it does not have"
        arrays = [field.name for field in dataclasses.fields(one) if ARRAYS.search(str(field.type))]
        if arrays and one.__dataclass_params__.frozen:
            assert one.__eq__ is object.__eq__, f"{one} would compare the arrays {arrays}"
        elif not one.__dataclass_params__.eq:
            assert one.__hash__ is object.__hash__
