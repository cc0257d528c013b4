"""The stand-in for Label Studio answers what this program asks as the real one was recorded to answer."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.support.conversation import RECORDED, converse, differences, recorded
from tests.support.label_studio import PAT, LabelStudio, label_studio


def test_the_stand_in_answers_as_the_real_one() -> None:
    made = LabelStudio(refresh=PAT, valid={"nothing yet"}, tasks={5: {"data": {"image": "/data/upload/1/a.png"}}})
    made.connections, made.webhooks = recorded("connections"), recorded("webhooks")
    with label_studio(made):
        said = converse(made.url, PAT, 1, 5)
    real = {path.stem: json.loads(path.read_text()) for path in RECORDED.glob("*.json")}
    assert said.keys() == real.keys()
    assert {name: found for name, answer in said.items() if (found := differences(real[name], answer))} == {}
    assert [
        len(said[name]["body"]["tasks"]) for name in said if name.startswith("tasks_") and said[name]["status"] < 400
    ] == [len(real[name]["body"]["tasks"]) for name in said if name.startswith("tasks_") and real[name]["status"] < 400]


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        (("body", "tasks", 0, "id"), "5", ".body.tasks[].id is str, really number"),
        (("body", "tasks", 0, "new"), 1, ".body.tasks[].new is not in the real answer"),
        (("status",), None, None),
        (("body", "tasks"), [], None),
        (("body", "tasks", 0, "data"), {"else": 1}, None),
    ],
)
def test_differences_are_found(path: tuple[Any, ...], change: Any, said: str | None) -> None:
    real = {"status": 200, "body": recorded("tasks_listed")}
    found = copy.deepcopy(real)
    *way, last = path
    place: Any = found
    for key in way:
        place = place[key]
    place[last] = change
    assert differences(real, found) == ([said] if said else [])
    assert differences(real, {"status": 200}) == [".body is lacking"]
