"""A batch that is interrupted between its stages comes to the same as one that is not."""

from __future__ import annotations

import pytest

from int_model import load_suite
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Segmentation
from int_model.nano.examples import NanoScenes
from int_model.strategies.model_options import ModelOptions
from ml_backend.serving.model_loading import Models


def content(found: Segmentation) -> tuple[object, ...]:
    """All that is drawn of it."""
    objects = [(one.label, one.score, one.box.as_tuple(), one.mask.tobytes()) for one in found.instances]
    return found.name, found.score, objects, found.reason


@pytest.mark.parametrize(("strategy", "other"), [("int", "int"), ("grounded_sam", "int"), ("promac", "grounded_sam")])
def test_an_interrupted_image_is_segmented_as_any_other(strategy: str, other: str) -> None:
    models = Models.of(load_suite("nano"), ModelOptions(), 1 << 24)
    first, second = [scene.image for scene in NanoScenes(2, seeds=(77,))]
    mine, urgent = models.of_strategy(strategy), models.of_strategy(other)
    task, typed = TaskPrompt("camouflaged animal"), TaskPrompt("animal")
    alone = content(mine.segment([first], task)[0])
    urgent_alone = content(urgent.segment([second], typed)[0])
    at, nested, inside = 0, [], False

    def interrupt() -> None:
        nonlocal at, inside
        if inside:
            return
        at += 1
        if at % 8 == 1:
            inside = True
            nested.append(content(urgent.segment([second], typed)[0]))
            inside = False

    models.on_break(interrupt)
    assert content(mine.segment([first], task)[0]) == alone
    assert nested
    assert set(map(str, nested)) == {str(urgent_alone)}
