from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_model.learning.arms.pmm import (
    POINTS,
    Conditioned,
    PointMatching,
    crosses_itself,
    draw,
    keeps_shape,
    matching_loss,
    refine,
    resampled,
    rings_of,
    signed_area,
)
from int_model.learning.sam import Encoded
from tests.unit.int_model.learning.conftest import disc

CELLS = 96
WHOLE = Encoded(torch.zeros(8, 24, 24), (192, 192), (192, 192))


def ring(radius: float = 20, wobble: float = 0.0, count: int = 200) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    reach = radius * (1 + wobble * np.cos(5 * angle))
    return np.stack([48 + reach * np.cos(angle), 48 + reach * np.sin(angle)], axis=1)


def upsampled(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), (192, 192), interpolation=cv2.INTER_NEAREST) > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_outlines_of_a_mask_with_a_hole_and_two_parts_draw_it_again() -> None:
    mask = disc((CELLS, CELLS), 30, 40, 20) & ~disc((CELLS, CELLS), 30, 40, 8) | disc((CELLS, CELLS), 75, 60, 12)
    rings = rings_of(mask.astype(np.float32), 0.5)
    assert len(rings) == 3
    again = draw(rings, WHOLE, 192)
    assert iou(again, upsampled(mask)) > 0.96
    assert not again[80, 60]  # the hole
    assert again[120, 150]  # the second part


@given(st.floats(6, 40), st.floats(0, 0.3))
def test_resampling_keeps_area_and_direction(radius: float, wobble: float) -> None:
    before = ring(radius, wobble)
    after = resampled(before, POINTS)
    assert after.shape == (POINTS, 2)
    assert signed_area(after) == pytest.approx(signed_area(before), rel=0.06)
    backwards = resampled(before[::-1], POINTS)
    assert signed_area(backwards) == pytest.approx(-signed_area(before), rel=0.06)


def test_crossing_sides_are_noticed() -> None:
    assert not crosses_itself(ring())
    assert crosses_itself(np.array([[0.0, 0], [10, 10], [10, 0], [0, 10]]))


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda r: r, True),
        (lambda r: 48 + 1.1 * (r - 48), True),
        (lambda r: 48 + 1.3 * (r - 48), False),  # grows by more than 30 %
        (lambda r: r[::-1], False),  # turned inside out
        (lambda r: np.where(np.arange(len(r))[:, None] % 2 == 0, r, 48 + 0.2 * (r - 48)), False),
        (lambda r: r * np.nan, False),
    ],
)
def test_a_ring_that_would_break_is_not_used(change: object, kept: bool) -> None:
    before = resampled(ring(), POINTS)
    assert keeps_shape(before, change(before)) == kept  # type: ignore[operator]


def given_for(mask: np.ndarray, width: int = 16) -> Conditioned:
    logits = torch.from_numpy(np.where(mask, 4.0, -4.0).astype(np.float32))[None]
    generator = torch.Generator().manual_seed(0)
    return Conditioned(
        torch.randn(1, width, 24, 24, generator=generator),
        torch.randn(1, width // 8, CELLS, CELLS, generator=generator),
        logits,
    )


def test_an_untrained_module_moves_nothing() -> None:
    mask = disc((CELLS, CELLS), 40, 50, 18) & ~disc((CELLS, CELLS), 40, 50, 6)
    given_ = given_for(mask)
    before = rings_of(given_.logits[0].numpy(), 0.0)
    after = refine(PointMatching(16).eval(), given_, 0)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_small_rings_stay_whatever_the_module_says() -> None:
    module = PointMatching(16).eval()
    with torch.no_grad():
        module.steps[-1].out.bias += 0.5  # type: ignore[union-attr, operator]
    mask = disc((CELLS, CELLS), 30, 30, 20) | disc((CELLS, CELLS), 75, 75, 3)
    given_ = given_for(mask)
    before, after = rings_of(given_.logits[0].numpy(), 0.0), refine(module, given_, 0)
    moved = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert sorted(moved) == [False, True]


def test_matching_pulls_a_ring_onto_the_truth_from_both_sides() -> None:
    truth = torch.from_numpy(resampled(ring(20, 0.15), 4 * POINTS)).float()[None]
    points = torch.from_numpy(resampled(ring(16), POINTS)).float()[None].requires_grad_()
    optimiser = torch.optim.Adam([points], lr=0.3)
    for _ in range(120):
        loss = matching_loss([points], truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    nearest = torch.cdist(points.detach(), truth).min(dim=2).values
    back = torch.cdist(truth, points.detach()).min(dim=2).values
    assert float(nearest.max()) < 0.6
    assert float(back.max()) < 2.5


def test_it_learns_to_move_outlines_to_where_the_features_say() -> None:
    """A toy of its own: discs drawn too small; the fine map shows the true disc."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = PointMatching(16, hidden=32)
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3)

    def scene() -> tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]:
        x, y, radius = rng.uniform(36, 60), rng.uniform(36, 60), rng.uniform(16, 24)
        true = disc((CELLS, CELLS), x, y, radius)
        fine = torch.from_numpy(np.stack([true, ~true]).astype(np.float32))[None] + 0.1 * torch.randn(
            1, 2, CELLS, CELLS
        )
        angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
        start = np.stack([x + (radius - 3) * np.cos(angle), y + (radius - 3) * np.sin(angle)], axis=1)
        dense = resampled(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1), 4 * POINTS)
        return true, torch.from_numpy(start).float()[None], torch.from_numpy(dense).float()[None], fine

    tokens = torch.zeros(1, 16, 24, 24)
    for _ in range(120):
        _, start, dense, fine = scene()
        loss = matching_loss(module(start, tokens, fine), dense)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    before, after = [], []
    for _ in range(10):
        true, start, _, fine = scene()
        with torch.no_grad():
            moved = module(start, tokens, fine)[-1]
        before.append(iou(draw([start[0].numpy()], WHOLE, 192), upsampled(true)))
        after.append(iou(draw([moved[0].numpy().astype(np.float64)], WHOLE, 192), upsampled(true)))
    assert np.mean(after) > np.mean(before) + 0.1
