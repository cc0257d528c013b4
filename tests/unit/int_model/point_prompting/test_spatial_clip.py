from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.point_prompting.spatial_clip import (
    TEMPLATES,
    map_to_points,
    min_max,
    sentences,
    similarity_map,
)

RNG = np.random.default_rng(3)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


GRID = unit(RNG.normal(size=(5, 7, 16)))
FORE, BACK, EMPTY = unit(RNG.normal(size=(2, 16))), unit(RNG.normal(size=(1, 16))), unit(RNG.normal(size=16))


def reference(
    grid: np.ndarray, fore: np.ndarray, back: np.ndarray | None, empty: np.ndarray, clamp: bool
) -> np.ndarray:
    """The ancestor's arithmetic, one text and one cell at a time; the features have been scaled before."""
    tokens = grid.reshape(-1, grid.shape[-1]).astype(np.float64)

    def heat(texts: np.ndarray) -> np.ndarray:
        total = np.zeros(len(tokens))
        for text in texts:
            raw = np.array([float(token @ (text.astype(np.float64) - empty)) for token in tokens])
            total += (raw - raw.min()) / (raw.max() - raw.min())
        return total / len(texts)

    out = heat(fore)
    if back is not None:
        out = out - heat(back)
        if clamp:
            out = np.clip(out, 0, 1)
    return ((out - out.min()) / (out.max() - out.min())).reshape(grid.shape[:2])


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("strategy", ["FgBgHm", "FgBgHmClamp"])
def test_map_agrees_with_a_plain_reference(background: bool, strategy: str) -> None:
    back = BACK if background else None
    got = similarity_map(GRID, FORE, back, EMPTY, strategy=strategy)  # type: ignore[arg-type]
    assert got == pytest.approx(reference(GRID, FORE, back, EMPTY, strategy == "FgBgHmClamp"), abs=1e-5)
    assert got.dtype == np.float32


def test_what_all_texts_share_is_taken_away() -> None:
    """A part common to the name and the empty text must not show in the map."""
    plain = similarity_map(GRID, FORE[:1], None, np.zeros(16, np.float32))
    common = unit(RNG.normal(size=16))
    shifted = similarity_map(GRID, FORE[:1] + common, None, common)
    assert shifted == pytest.approx(plain, abs=1e-5)


def test_a_flat_map_has_no_points() -> None:
    points, labels = map_to_points(np.full((14, 14), 0.5, np.float32), (100, 100))
    assert points.shape == (0, 2)
    assert labels.shape == (0,)


def test_points_lie_on_the_peak_and_far_from_it() -> None:
    heat = np.zeros((14, 14), np.float32)
    heat[2:4, 10:12] = 1.0
    points, labels = map_to_points(heat, (140, 280))
    positive, negative = points[labels == 1], points[labels == 0]
    assert len(positive) == len(negative) > 0
    assert (np.abs(positive - [220, 30]) < [20, 10]).all()
    near = (np.abs(negative - [220, 30]) < [30, 15]).all(axis=1)
    assert not near.any()


@given(
    arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1, width=32)),
    st.sampled_from([1.0, 0.5, 0.25]),
    st.floats(0.05, 1),
)
def test_points_stay_in_the_image_and_in_bounds(heat: np.ndarray, down: float, threshold: float) -> None:
    points, labels = map_to_points(heat, (33, 47), down_sample=down, threshold=threshold, max_points=5)
    assert len(points) == len(labels) <= 10
    assert (labels == 1).sum() == (labels == 0).sum()
    assert ((points > 0) & (points < [47, 33])).all()
    assert len({tuple(p) for p in points}) == len(points)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.floats(0, 1, width=32)),
    st.sampled_from([1.0, 0.5, 0.25, 0.3]),
    st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    st.integers(1, 40),
)
def test_points_are_the_hottest_and_the_coldest_cells(heat: np.ndarray, down: float, least: float, most: int) -> None:
    """Cell by cell, on the map as OpenCV enlarges it: as many cold ones as hot ones, hottest and coldest first."""
    rows, columns = (max(1, round(side / down)) for side in heat.shape)
    fine = cv2.resize(heat, (columns, rows), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    low, high = fine.min(), fine.max()
    points, labels = map_to_points(heat, (90, 140), down_sample=down, threshold=least, max_points=most)
    if high - low < 1e-12:
        assert not labels.any()
        return
    scaled = ((fine - low) / (high - low)).ravel()
    hot = int((scaled >= least).sum())
    count = min(hot, scaled.size // 2, most)
    assert labels.tolist() == [1] * count + [0] * count
    cells = [int(y / 90 * rows) * columns + int(x / 140 * columns) for x, y in points]
    centres = [((cell % columns + 0.5) * 140 / columns, (cell // columns + 0.5) * 90 / rows) for cell in cells]
    np.testing.assert_allclose(points, np.reshape(centres, (-1, 2)))
    ordered = np.sort(scaled)
    np.testing.assert_allclose(scaled[cells[:count]], ordered[::-1][:count], atol=1e-6)
    np.testing.assert_allclose(scaled[cells[count:]], ordered[:count], atol=1e-6)


def test_templates() -> None:
    assert len(set(TEMPLATES["ensemble"])) == 85
    for kind in ("ensemble", "photo", "plain"):
        assert all("frog" in s and "{" not in s for s in sentences("frog", kind))  # type: ignore[arg-type]
    assert sentences("frog", "plain") == ("frog",)


def test_min_max() -> None:
    assert min_max(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert min_max(np.array([2.0, 2.0])).tolist() == [0, 0]
