"""Strategies and variants of them, side by side on images with known masks: metrics, cost, intervals, one report.

In a few lines::

    from int_model.evaluation import Variant, evaluate
    from int_model.nano.examples import NanoScenes

    variants = [Variant("full"), Variant("-PNM", config={"switches.pnm": False}), Variant("detector", "grounded_sam")]
    result = evaluate(NanoScenes(60, seeds=(1, 2, 3)), variants, load_suite("nano"), cache_dir=Path("cache"))
    for row in result.summary():
        print(row.variant, row.images, row["iou"])  # Interval(value, low, high)

Nothing here imports torch.
"""

from int_model.evaluation.ablations import ABLATIONS, ablation_variants
from int_model.evaluation.datasets import CocoImages, FolderPairs, Selected
from int_model.evaluation.examples import BrokenExample, Example, Variant
from int_model.evaluation.metrics import METRICS, Metric
from int_model.evaluation.protocol import PROTOCOLS, Protocol, score
from int_model.evaluation.records import Detections, Record
from int_model.evaluation.result import Difference, Evaluation, Summary, load_evaluation, save_evaluation
from int_model.evaluation.runner import evaluate
from int_model.evaluation.statistics import Interval

__all__ = [
    "ABLATIONS",
    "METRICS",
    "PROTOCOLS",
    "BrokenExample",
    "CocoImages",
    "Detections",
    "Difference",
    "Evaluation",
    "Example",
    "FolderPairs",
    "Interval",
    "Metric",
    "Protocol",
    "Record",
    "Selected",
    "Summary",
    "Variant",
    "ablation_variants",
    "evaluate",
    "load_evaluation",
    "save_evaluation",
    "score",
]
