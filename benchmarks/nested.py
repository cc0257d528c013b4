"""What joining or dropping nested masks does to the regions that annotators get, on held-out nano scenes.

Each scene is segmented once; its regions are drawn with every value of ``model_nested``, and held against the true
masks. Intervals are 95 % bootstrap intervals over the scenes, those of differences paired:

    python -m benchmarks.nested [--count 60] [--strategy int] [--world home]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Mask, union
from int_model.evaluation.examples import Example
from int_model.evaluation.instances import match
from int_model.evaluation.statistics import mean_interval
from int_model.nano.examples import NanoScenes
from int_model.runner.results import StoredResult
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.output_options import Nested, OutputOptions
from ml_backend.labelstudio.predictions import image_regions
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.task_prompt import PromptGroup
from ml_backend.serving.model_loading import load_strategy
from ml_backend.settings import Settings

ROUNDS = 2000
CONFIG = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="mask" toName="image"><Label value="Thing"/>'
    "</PolygonLabels></View>"
)


@dataclass(frozen=True)
class Figures:
    """Of one scene: overlap of all regions, F1 of regions as objects at an IoU of .5, and the number of regions."""

    iou: float
    f1: float
    regions: int


def regions_of(example: Example, result: StoredResult, nested: Nested) -> list[Mask]:
    """What Label Studio would show, as masks."""
    config = parse_label_config(CONFIG)
    group = PromptGroup(TaskPrompt(example.task), tuple(config.targets("image")), "environment")
    drawn = image_regions(config, [(group, result)], {"mask": OutputOptions(nested=nested)}, 300)
    return [decode_region(region.model_dump(mode="json", exclude_none=True)) for region in drawn.regions]


def judged(example: Example, masks: Sequence[Mask]) -> Figures:
    """Regions against the true masks; two empty answers agree."""
    size = (example.mask.shape[0], example.mask.shape[1])
    found, truth = union(size, masks), example.mask
    either = np.count_nonzero(found | truth)
    hits = match(masks, [1.0] * len(masks), example.instances or ())
    total = len(masks) + hits.truths
    f1 = 2 * sum(hits.matched[0]) / total if total else 1.0
    return Figures(np.count_nonzero(found & truth) / either if either else 1.0, f1, len(masks))


def told(values: Sequence[float], sign: str = "") -> str:
    """The mean and its interval."""
    found = mean_interval(values, ROUNDS)
    return f"{found.value:{sign}.3f} ({found.low:.3f} to {found.high:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--strategy", default="int")
    parser.add_argument("--world", default="home")
    options = parser.parse_args()
    models = load_strategy(Settings(profile="nano", strategy=options.strategy, device="cpu"))
    figures: dict[str, list[Figures]] = {name: [] for name in ("keep", *get_args(Nested))}
    for example in NanoScenes(options.count, world=options.world):
        (segmentation,) = models.segment([example.image], TaskPrompt(example.task))
        result = StoredResult.of(segmentation)
        for name in figures:
            figures[name].append(judged(example, regions_of(example, result, name)))  # type: ignore[arg-type]
    title = f"{options.count} scenes of the world {options.world}, strategy {options.strategy}"
    table = Table("nested", "mean IoU", "against keep", "mean F1 of regions", "against keep", "regions", title=title)
    for name, rows in figures.items():
        first = figures["keep"]
        iou, f1 = [row.iou for row in rows], [row.f1 for row in rows]
        apart = [told([a - b.iou for a, b in zip(iou, first, strict=True)], "+"),
                 told([a - b.f1 for a, b in zip(f1, first, strict=True)], "+")]  # fmt: skip
        table.add_row(name, told(iou), apart[0], told(f1), apart[1], str(sum(row.regions for row in rows)))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
