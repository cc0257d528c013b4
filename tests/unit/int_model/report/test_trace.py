from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Mask, Trace
from int_model.report.trace import mask_to_rle, rle_to_mask, trace_to_dict
from int_model.strategies.negative_mining.pipeline import IntPipeline
from tests.support.fakes import TASK, fake_suite, scene

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8)))


def runs_down_the_columns(mask: Mask) -> list[int]:
    """COCO's definition, one pixel at a time."""
    counts, value, run = [], False, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(run)
                value, run = not value, 0
            run += 1
    return [*counts, run]


@given(MASKS)
def test_run_lengths_are_cocos(mask: Mask) -> None:
    rle = mask_to_rle(mask)
    assert rle == {"size": list(mask.shape), "counts": runs_down_the_columns(mask)}
    assert np.array_equal(rle_to_mask(json.loads(json.dumps(rle))), mask)


def test_runs_that_do_not_fill_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="5 pixels, not 2 x 3"):
        rle_to_mask({"size": [2, 3], "counts": [2, 3]})


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
    assert np.array_equal(rle_to_mask(last["mask"]), result.mask)
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
