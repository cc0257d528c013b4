from __future__ import annotations

import json
import math

import numpy as np

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Trace
from int_model.masks.rle import segmentation_to_mask
from int_model.report.trace import trace_to_dict
from int_model.strategies.negative_mining.pipeline import IntPipeline
from tests.support.fakes import TASK, fake_suite, scene


def test_a_whole_trace_is_strict_json() -> None:
    image, _ = scene(objects=[("frog", 32, 48, 14), ("owl", 96, 44, 12)])
    (result,) = IntPipeline(fake_suite(), IntConfig()).segment([image], TaskPrompt(TASK))
    data = json.loads(json.dumps(trace_to_dict(result.trace), allow_nan=False))
    assert (data["task"], data["strategy"], data["size"]) == (TASK, "int", [96, 128])
    assert len(data["patches"]) == len(data["candidates"]) == 9
    assert data["calls"]["vlm_generate"] == 36
    last = data["iterations"][-1]
    assert np.asarray(last["p_original"]).shape == (9, len(data["names"]))
    assert last["winner_name"] == result.name
    assert not {"inpainted", "soft_mask"} & last.keys(), "images are left out"
    assert [step["inpainted_anew"] for step in data["iterations"]] == [
        bool(s.inpainted) for s in result.trace.iterations
    ]
    assert np.array_equal(segmentation_to_mask(last["mask"], 96, 128), result.mask)
    assert [0 <= d["score"] <= 1 for d in last["boxes"]] == [True] * len(last["boxes"])
    assert all(math.isfinite(step["distance"]) for step in data["iterations"])


def test_numbers_that_are_not_finite_become_none() -> None:
    image, _ = scene(objects=[("frog", 32, 48, 14)])
    (result,) = IntPipeline(fake_suite(), IntConfig()).segment([image], TaskPrompt(TASK))
    step = result.trace.iterations[0]
    step.contrast[:] = np.nan
    data = trace_to_dict(Trace(task=TASK, strategy="int", iterations=(step,), seconds={"detect": math.inf}))
    assert data["iterations"][0]["contrast"] == [None] * 9
    assert data["seconds"] == {"detect": None}
    json.dumps(data, allow_nan=False)


def test_an_empty_trace() -> None:
    data = trace_to_dict(Trace(task=TASK, strategy="int"))
    assert (data["iterations"], data["final_iteration"], data["size"]) == ([], None, None)
