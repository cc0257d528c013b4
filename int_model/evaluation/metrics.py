"""The figures, by name: what each means, which way is better, and how images become one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["mean", "curve", "pooled_f1", "ap"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    ``kind`` says how a set of images becomes one number: ``mean`` of the images' values; ``curve``: the maximum of
    the mean of the images' threshold curves (so it is not the mean of per-image maxima); ``pooled_f1``: matched
    objects counted over all images; ``ap``: ranked over all images, COCO style.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "neither"]
    meaning: str
    kind: Kind = "mean"
    digits: int = 3
    threshold: float | None = None  # IoU of instance metrics; None: mean over .50:.05:.95


_ALL = (
    Metric("mae", "MAE", "lower", "mean absolute error of the map"),
    Metric("s", "S", "higher", "structure measure, alpha 0.5 (Fan 2017)"),
    Metric("e_adaptive", "E adaptive", "higher", "enhanced alignment (Fan 2018) at twice the map's mean"),
    Metric("e_mean", "E mean", "higher", "enhanced alignment, mean over 256 thresholds"),
    Metric("e_max", "E max", "higher", "enhanced alignment, best threshold for the whole set", "curve"),
    Metric("wf_b03", "wF β²=0.3", "higher", "weighted F (Margolin 2014) with beta squared 0.3, as in ProMaC's code"),
    Metric("wf_b1", "wF β²=1", "higher", "weighted F with beta squared 1, the original definition"),
    Metric("f_adaptive_b03", "F adaptive β²=0.3", "higher", "F at twice the map's mean, beta squared 0.3 (Achanta)"),
    Metric("f_mean_b03", "F mean β²=0.3", "higher", "F, mean over 256 thresholds, beta squared 0.3"),
    Metric("f_max_b03", "F max β²=0.3", "higher", "F, best threshold for the whole set, beta squared 0.3", "curve"),
    Metric("f_adaptive_b1", "F adaptive β²=1", "higher", "F at twice the map's mean, beta squared 1"),
    Metric("f_mean_b1", "F mean β²=1", "higher", "F, mean over 256 thresholds, beta squared 1"),
    Metric("f_max_b1", "F max β²=1", "higher", "F, best threshold for the whole set, beta squared 1", "curve"),
    Metric("iou", "IoU", "higher", "intersection over union of the mask; 1 if both are empty"),
    Metric("dice", "Dice", "higher", "Dice coefficient of the mask; 1 if both are empty"),
    Metric("sensitivity", "Sensitivity", "higher", "part of the sought pixels that was found"),
    Metric("specificity", "Specificity", "higher", "part of the other pixels that was left alone"),
    Metric("accuracy", "Accuracy", "higher", "part of all pixels that is right"),
    Metric("boundary_f", "Boundary F", "higher", "F of outlines within a tolerance of 0.8 % of the diagonal (DAVIS)"),
    Metric("hce", "HCE", "lower", "human correction efforts: clicks that mend the mask (Qin 2022)", digits=1),
    Metric("instance_f1_50", "Inst. F1@.50", "higher", "objects matched at IoU 0.5, F1", "pooled_f1", threshold=0.5),
    Metric("instance_f1_75", "Inst. F1@.75", "higher", "objects matched at IoU 0.75, F1", "pooled_f1", threshold=0.75),
    Metric("ap", "AP", "higher", "average precision, COCO style, IoU .50:.05:.95", "ap"),
    Metric("ap_50", "AP@.50", "higher", "average precision at IoU 0.5", "ap", threshold=0.5),
    Metric("ap_75", "AP@.75", "higher", "average precision at IoU 0.75", "ap", threshold=0.75),
    Metric("named", "Named", "higher", "part of the images whose final name is the true one"),
    Metric(
        "contrast",
        "D true - wrong",
        "higher",
        "best contrast D of the true name minus that of the strongest wrong candidate, first iteration",
    ),
    Metric("confidence", "Confidence", "neither", "of auto in the detector's answer, by which it decides to ask INT"),
    Metric("empty", "Empty", "neither", "part of the images without any mask; their maps are scored as all zero"),
    Metric("seconds", "s / image", "lower", "seconds per image (a micro-batch's time over its images)", digits=2),
    Metric("calls", "calls / image", "lower", "model passes per image, all roles", digits=1),
    Metric(
        "peak_rss_mb",
        "RSS MB",
        "neither",
        "highest memory of the process meanwhile, with all it keeps; 1e6 bytes",
        digits=0,
    ),
    Metric("peak_cuda_mb", "CUDA MB", "lower", "highest memory allocated on the accelerator, MB (1e6 bytes)", digits=0),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every figure by its name, in the order of tables."""

COST = ("seconds", "calls", "peak_rss_mb", "peak_cuda_mb")
