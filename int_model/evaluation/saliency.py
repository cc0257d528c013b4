"""The figures of the camouflage literature for one map, through ``py_sod_metrics`` (PySODMetrics)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import py_sod_metrics
from numpy.typing import NDArray

from int_model.core.types import Floats, Mask

BETAS = {"b03": 0.3, "b1": 1.0}
"""The two conventions of beta squared: 0.3 (Achanta 2009, and ProMaC's released code), 1 (Margolin 2014)."""


@dataclass(frozen=True, slots=True, eq=False)
class Saliency:
    """``values`` by metric name, and the ``float64 [256]`` threshold curves behind ``f_max_*`` and ``e_max``."""

    values: dict[str, float]
    curves: dict[str, Floats]


class _Structure(py_sod_metrics.Smeasure):  # type: ignore[misc]
    """The S measure, also where the truth's centre lies in the last row or column.

    Of the four parts around the centre some then have no pixel; the library's answer is NaN, here they count nothing.
    """

    def ssim(self, pred: Floats, gt: Mask) -> float:
        return float(super().ssim(pred, gt)) if pred.size else 0.0


def saliency(levels: NDArray[np.uint8], truth: Mask) -> Saliency:
    """MAE, S, E and F figures of a grey map ``uint8 [H, W]`` against a mask ``bool [H, W]``.

    As the library (and the literature) does, the map is first stretched to ``[0, 1]`` unless it is constant. An empty
    map has the adaptive threshold 0, hence counts as all foreground in ``*_adaptive``; wF credits it where the truth
    touches the image's edge (its filter pads with zeros); an empty truth has F and wF 0.
    ``f_max_*`` and ``e_max`` are this map's own maxima. Raises ``ValueError`` if shapes differ or there is no pixel.
    """
    if levels.shape != truth.shape or levels.size == 0:
        raise ValueError(f"a map {list(levels.shape)} cannot be held against a truth {list(truth.shape)}")
    handlers = {name: py_sod_metrics.FmeasureHandler(True, True, beta=beta) for name, beta in BETAS.items()}
    f = py_sod_metrics.FmeasureV2(handlers)
    mae, s, e = py_sod_metrics.MAE(), _Structure(), py_sod_metrics.Emeasure()
    weighted = py_sod_metrics.WeightedFmeasure(beta=np.array(list(BETAS.values())))  # both at once: it is the slowest
    grey = truth.astype(np.uint8) * 255
    with np.errstate(invalid="ignore", divide="ignore"):
        for metric in (f, mae, s, e, weighted):
            metric.step(levels, grey)
    e_curve = np.asarray(e.changeable_ems[0], dtype=np.float64)
    values = {
        "mae": mae.maes[0],
        "s": s.sms[0],
        "e_adaptive": e.adaptive_ems[0],
        "e_mean": e_curve.mean(),
        "e_max": e_curve.max(),
    }
    curves = {"e_max": e_curve}
    by_beta = dict(zip(BETAS, np.broadcast_to(weighted.weighted_fms[0], len(BETAS)), strict=True))
    for name, handler in handlers.items():
        # From the threshold 255 down to 0; the order does not matter to the mean and the maximum.
        curve = np.asarray(handler.dynamic_results[0], dtype=np.float64)
        values |= {
            f"wf_{name}": by_beta[name],
            f"f_adaptive_{name}": handler.adaptive_results[0],
            f"f_mean_{name}": curve.mean(),
            f"f_max_{name}": curve.max(),
        }
        curves[f"f_max_{name}"] = curve
    return Saliency({name: float(value) for name, value in values.items()}, curves)


def correction_efforts(mask: Mask, truth: Mask) -> float:
    """Human correction efforts (HCE, Qin et al. 2022): clicks and polygon points that turn ``mask`` into ``truth``.

    With the paper's tolerances (``relax`` 5 pixels, ``epsilon`` 2 pixels); 0 is nothing to do. It grows with the
    image's size, so compare it between masks of the same images only. Equal to the paper's released code, except that
    a whole image to clear or to fill counts 1 (0 there).
    """
    measure = py_sod_metrics.HumanCorrectionEffortMeasure()
    measure.step(mask.astype(np.uint8) * 255, truth.astype(np.uint8) * 255)
    return float(measure.hces[0])
