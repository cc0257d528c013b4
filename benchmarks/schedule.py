"""What the schedule saves, counted on the bundled miniature models: calls, prefilled tokens, seconds, equal results.

    python -m benchmarks.schedule [--images 12] [--iterations 5]

Three schedules on the same images and weights: *literal* (one image, patch and name at a time, nothing kept),
*unshared* (the stages for all patches at once, but every prompt read as a whole), *now*. K = 9 patches, I iterations.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

import int_model
from benchmarks.real.literal import literal_profile, segment_literally
from benchmarks.real.meter import Meter
from int_model.core.config import IntConfig
from int_model.core.options import fitting
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.models.profile import Profile, read_profile
from int_model.models.suite import ModelSuite, load_suite
from int_model.strategies.negative_mining.pipeline import IntPipeline

SAMPLES = Path(int_model.__file__).parent / "nano" / "samples"
Segment = Callable[[ModelSuite, Image, TaskPrompt, IntConfig], Segmentation]


def main(arguments: list[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=5)
    options = parser.parse_args(arguments)
    samples = _samples()[: options.images]
    schedules: dict[str, tuple[Profile, Segment]] = {
        "literal": (literal_profile("nano", {}), lambda s, i, t, c: segment_literally(s, [i], c, t)[0]),
        "unshared": (read_profile("nano", {"vlm.share_prefix": False}), _pipeline),
        "now": (read_profile("nano"), _pipeline),
    }
    results: dict[str, list[Segmentation]] = {}
    sys.stdout.write(f"{len(samples)} images, I = {options.iterations}; per image:\n")
    for name, (profile, segment) in schedules.items():
        row, results[name] = count(profile, segment, samples, options.iterations)
        row["same names"], row["least IoU of masks"] = compared(results[name], results["literal"])
        sys.stdout.write(f"{name:10}{json.dumps(row)}\n")
        sys.stdout.flush()
    return 0


def count(
    profile: Profile, segment: Segment, samples: Sequence[tuple[Image, TaskPrompt]], iterations: int
) -> tuple[dict[str, Any], list[Segmentation]]:
    """What a schedule costs per image, and its results."""
    suite = load_suite(profile, device="cpu", offline=True)
    config = IntConfig().merged(fitting(IntConfig, suite.int_overrides)).merged({"iterations": {"count": iterations}})
    meter = Meter(suite)
    segment(suite, *samples[0], config)
    meter.reset()
    begun = time.process_time()
    results = [segment(suite, image, task, config) for image, task in samples]
    seconds = time.process_time() - begun
    stages = meter.stages.values()
    networks = [(name, passes) for stage in stages for name, passes in stage.networks.items()]

    def mean(value: float) -> float:
        return round(value / len(samples), 2)

    return {
        "prefilled tokens": mean(sum(stage.prefill_tokens for stage in stages)),
        "decoding steps": mean(sum(stage.steps for stage in stages)),
        "language model passes": mean(sum(p.calls for name, p in networks if name == "language model")),
        "images encoded by the VLM": mean(sum(p.items for name, p in networks if name == "vision tower")),
        "images encoded by the segmenter": mean(sum(p.items for name, p in networks if name == "image encoder")),
        "images seen by the detector": mean(sum(p.items for name, p in networks if name == "detector")),
        "CPU seconds": mean(seconds),
    }, results


def compared(ours: Sequence[Segmentation], theirs: Sequence[Segmentation]) -> tuple[int, float]:
    """How many results have one name, and the least IoU of two masks of one image."""
    pairs = list(zip(ours, theirs, strict=True))
    overlaps = [_iou(a.mask, b.mask) for a, b in pairs]
    return sum(a.name == b.name for a, b in pairs), round(min(overlaps), 6)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _pipeline(suite: ModelSuite, image: Image, task: TaskPrompt, config: IntConfig) -> Segmentation:
    return IntPipeline(suite, config).segment([image], task)[0]


def _samples() -> list[tuple[Image, TaskPrompt]]:
    pictures = sorted(path for path in SAMPLES.glob("*.png") if not path.name.endswith(".mask.png"))
    return [
        (np.asarray(PIL.Image.open(path).convert("RGB")), TaskPrompt(path.stem.rpartition("-")[0].replace("-", " ")))
        for path in pictures
    ]


if __name__ == "__main__":
    sys.exit(main())
