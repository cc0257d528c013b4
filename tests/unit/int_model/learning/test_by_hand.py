"""The probe's fit, the rings' arithmetic and the mask loss against figures that a person can check."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from int_model.learning import where
from int_model.learning.arms.pmm import _features, resampled
from int_model.learning.ppt.losses import mask_losses
from int_model.learning.ppt.targets import PointTargets, eroded, grouped
from int_model.learning.sam import Encoded

SIDE, GRID, CELL = 64, 8, 8
SAM: Any = SimpleNamespace(side=SIDE)


def encoded(seed: int, depth: int = 2) -> Encoded:
    features = torch.randn(depth, GRID, GRID, generator=torch.Generator().manual_seed(seed))
    return Encoded(features, (SIDE, SIDE), (SIDE, SIDE))


def test_a_probe_is_the_logistic_regression_of_cells_that_are_clearly_in_or_out() -> None:
    view = encoded(1)
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    mask[:, : 3 * CELL + 3] = True  # three columns of cells, and three eighths of the next, which teach nothing
    probe = where.fit_probe(SAM, [(view, mask)])
    assert probe is not None
    cells = where.cell_features(view.features.numpy(), GRID, GRID)
    clear = np.ones((GRID, GRID), dtype=np.bool_)
    clear[:, 3] = False
    x, y = cells[clear], np.indices((GRID, GRID))[1][clear] < 3
    np.testing.assert_allclose(probe.mean, x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(probe.scale, x.std(axis=0), atol=1e-5)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    likely = 1 / (1 + np.exp(-(standard @ probe.weights + probe.bias)))
    slope = standard.T @ (likely - y) + probe.weights / where._STRENGTH  # 0 where the penalised likelihood is highest
    np.testing.assert_allclose(slope, 0, atol=0.02)
    assert (likely - y).sum() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("value", [True, False])
def test_cells_of_one_kind_make_no_probe(value: bool) -> None:
    assert where.fit_probe(SAM, [(encoded(2), np.full((SIDE, SIDE), value))]) is None


@pytest.mark.parametrize("closed", [False, True])
def test_a_square_is_resampled_from_its_first_corner_on(closed: bool) -> None:
    corners = [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]]
    ring = np.array(corners + corners[:1] * closed)
    wanted = [[0, 0], [2, 0], [4, 0], [4, 2], [4, 4], [2, 4], [0, 4], [0, 2]]
    np.testing.assert_allclose(resampled(ring, 8), wanted)


def test_features_of_a_point_are_those_of_its_place() -> None:
    """Maps that hold their own coordinates tell where they were read; the last two are the ring about its middle."""
    ring = torch.tensor([[[8.0, 4.0], [24.0, 4.0], [24.0, 20.0], [8.0, 20.0]]])

    def places(side: int) -> torch.Tensor:
        centres = (torch.arange(side) + 0.5) * 32 / side
        return torch.stack(torch.meshgrid(centres, centres, indexing="xy"))[None]

    found = _features(ring, places(8), places(32))
    torch.testing.assert_close(found[..., :2], ring)
    torch.testing.assert_close(found[..., 2:4], ring)
    torch.testing.assert_close(found[..., 4:], torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]]))


@pytest.mark.parametrize("cells", [1, 4])
def test_the_focal_loss_is_a_mean_over_the_cells_that_show_the_image(cells: int) -> None:
    """Every cell is undecided: alpha .25, (1 - 1/2)^2, log 2 each."""
    inside = torch.zeros(1, 2, 2)
    inside.view(-1)[:cells] = 1
    logits, truth, weights = torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1)
    with_focal, without = (mask_losses(logits, truth, inside, weights, focal) for focal in (20.0, 0.0))
    assert (with_focal - without).item() == pytest.approx(20 * 0.25 * 0.25 * np.log(2), rel=1e-5)


def test_erosion_takes_the_rim_on_all_sides_and_at_the_images_edge() -> None:
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[5:15, 10:20] = True
    inner = np.zeros_like(mask)
    inner[6:14, 11:19] = True
    np.testing.assert_array_equal(eroded(mask), inner)
    whole = np.ones((9, 12), dtype=np.bool_)  # beyond the image lies nothing of it
    inner = np.zeros_like(whole)
    inner[1:-1, 1:-1] = True
    np.testing.assert_array_equal(eroded(whole), inner)
    line = np.zeros((20, 30), dtype=np.bool_)
    line[7] = True
    np.testing.assert_array_equal(eroded(line), line)  # nothing would be left


def test_no_targets_make_no_groups_of_the_right_size() -> None:
    none = PointTargets(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.float32))
    groups, labels = grouped(none, 3)
    assert (groups.shape, labels.shape) == ((0, 3, 2), (0,))
