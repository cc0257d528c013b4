"""What the table of figures promises: thresholds as the names say them, and figures printed to what they can tell."""

from __future__ import annotations

import re

from int_model.evaluation.instances import THRESHOLDS
from int_model.evaluation.metrics import COST, METRICS


def test_a_figure_at_a_threshold_says_which() -> None:
    with_threshold = {name: metric.threshold for name, metric in METRICS.items() if metric.threshold is not None}
    assert with_threshold == {"instance_f1_50": 0.5, "instance_f1_75": 0.75, "ap_50": 0.5, "ap_75": 0.75}
    for name, threshold in with_threshold.items():
        assert threshold in THRESHOLDS
        assert METRICS[name].label.endswith(f"@.{round(100 * threshold)}")
        assert re.search(rf"IoU {threshold}\b", METRICS[name].meaning)


def test_counts_have_fewer_digits_than_shares() -> None:
    fewer = {name: metric.digits for name, metric in METRICS.items() if metric.digits != 3}
    assert fewer == {"hce": 1, "seconds": 2, "calls": 1, "peak_rss_mb": 0, "peak_cuda_mb": 0}
    assert set(COST) < set(METRICS)
