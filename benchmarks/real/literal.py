"""The method as a paper's reader would program it: one image, one patch, one name at a time, and nothing kept.

Equation by equation the same stages as ``IntPipeline``, but in every iteration the dialogues are held again, every
patch is inpainted and scored again, every box looked for and every image encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.real.script import TASK
from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.models.calls import ModelCalls
from int_model.models.profile import Profile, read_profile
from int_model.models.suite import ModelSuite
from int_model.point_prompting.role import make_point_prompter
from int_model.strategies.negative_mining.conclude import conclude
from int_model.strategies.negative_mining.mask_stages import combine, decode, locate, point, update
from int_model.strategies.negative_mining.prompt_stages import ask_candidates, mine, remove_candidates
from int_model.strategies.negative_mining.state import start


def literal_profile(name: str, overrides: Mapping[str, Any]) -> Profile:
    """The profile with batches of one and nothing shared."""
    roles = ("vlm", "detector", "segmenter", "text_image", "inpainter")
    profile = read_profile(name, overrides)
    one = {f"{role}.max_batch": 1 for role in roles if hasattr(getattr(profile, role), "max_batch")}
    unshared = {"vlm.share_prefix": False, "vlm.feature_cache_mb": 0, "text_image.text_cache": 0}
    return read_profile(name, {**overrides, **one, **unshared})


def segment_literally(
    suite: ModelSuite, images: Sequence[Image], config: IntConfig, task: TaskPrompt = TASK
) -> list[Segmentation]:
    """One ``Segmentation`` per image, as ``IntPipeline.segment``."""
    config = config.merged({"inpaint": {"reuse_iou": 1.0}})
    return [_one(suite, image, config, task) for image in images]


def _one(suite: ModelSuite, image: Image, config: IntConfig, task: TaskPrompt) -> Segmentation:
    calls = ModelCalls(suite, 1)
    points = make_point_prompter(suite, config)
    state = start(0, image, config)
    for _ in range(config.iterations.count):
        calls = ModelCalls(suite, 1)  # with an empty cache of texts
        state.outputs_original = state.outputs_inpainted = None
        state.boxes_by_name, state.embedding, state.decoded = {}, None, None
        ask_candidates(calls, [state], task, config)
        if not state.active:
            break
        remove_candidates(calls, [state], task, config)
        mine(calls, [state], task, config)
        locate(calls, [state], task, config)
        point(calls, [state], points)
        decode(calls, [state], task, config)
        combine(calls, [state], config)
        update([state], config)
        state.iterations.append(state.record())
    return conclude(state, task, config, calls, "int")
