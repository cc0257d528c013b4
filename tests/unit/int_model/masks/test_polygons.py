from __future__ import annotations

import time
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.core.types import Box
from int_model.masks.components import components
from int_model.masks.polygons import PolygonOptions, mask_to_parts
from int_model.masks.rings import edge_middles, join_rings, outlines, rasterise, signed_area
from tests.unit.int_model.masks.shapes import blobs, holes_of, iou, noise, ring_mask


@settings(max_examples=80, deadline=None)
@given(noise | blobs())
def test_without_a_budget_polygons_hold_exactly_the_pixels(mask: np.ndarray) -> None:
    parts = mask_to_parts(mask, PolygonOptions(epsilon=0.0, min_area=0))
    covered = np.zeros(mask.shape, int)
    for part in parts:
        got = rasterise([part.ring], *mask.shape)
        np.testing.assert_array_equal(got, part.mask)
        covered += got
    np.testing.assert_array_equal(covered, mask.astype(int))


@settings(max_examples=60, deadline=None)
@given(noise | blobs(), st.floats(0.5, 6.0), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_simplified_polygons_keep_the_stated_iou(mask: np.ndarray, epsilon: float, bound: float) -> None:
    parts = mask_to_parts(mask, PolygonOptions(epsilon=epsilon, min_iou=bound, min_area=0))
    for part in parts:
        assert iou(rasterise([part.ring], *mask.shape), part.mask) >= bound
        assert len(part.ring) >= 3
        assert (part.ring[0] != part.ring[-1]).any()
    assert [part.mask.sum() for part in parts] == sorted((p.mask.sum() for p in parts), reverse=True)
    assert bool(parts) == bool(mask.any())


@settings(max_examples=60, deadline=None)
@given(blobs(), st.floats(0.5, 20.0), st.integers(1, 40))
def test_holes_that_are_large_enough_survive_simplification(mask: np.ndarray, epsilon: float, min_area: int) -> None:
    """Whatever the overlap would allow: a ring keeps half of the area that it has through the middles of its edges."""
    for part in mask_to_parts(mask, PolygonOptions(epsilon=epsilon, min_iou=0.0, min_area=min_area)):
        outer, holes = float(part.component.area), holes_of(part.mask)
        least = 0.5 * (outer - 0.5) - sum(int(hole.sum()) for hole in holes)
        assert signed_area(part.ring) >= least - 1e-6
        for hole in holes:
            assert hole.sum() >= min_area
            box = Box.of_mask(hole)
            assert box is not None
            inside = (part.ring >= (box.x1, box.y1)).all(axis=1) & (part.ring <= (box.x2, box.y2)).all(axis=1)
            assert inside.sum() >= 3, "the hole's own corners are in the ring"


@settings(max_examples=100, deadline=None)
@given(blobs() | noise, st.integers(3, 30))
def test_the_limit_of_points_is_kept_and_the_overlap_has_a_floor(mask: np.ndarray, limit: int) -> None:
    for part in mask_to_parts(mask, PolygonOptions(max_points=limit)):
        assert 3 <= len(part.ring) <= limit
        assert abs(signed_area(part.ring)) > 0
        overlap = iou(rasterise([part.ring], *mask.shape), part.mask)
        box = Box.of_mask(part.mask)
        assert box is not None
        fill = part.mask.sum() / box.area
        assert overlap >= (min(fill, 0.95) - 1e-9 if limit >= 4 else 0.0), "at least the bounding box's"


@settings(max_examples=60, deadline=None)
@given(blobs(), st.integers(0, 60))
def test_small_parts_and_holes_go_but_never_the_largest(mask: np.ndarray, min_area: int) -> None:
    parts = mask_to_parts(mask, PolygonOptions(min_area=min_area))
    assert bool(parts) == bool(mask.any())
    assert all(part.mask.sum() >= min_area for part in parts[1:])
    for part in parts:
        sizes = [int(hole.sum()) for hole in holes_of(part.mask)]
        assert all(size >= min_area for size in sizes)
        assert part.has_holes == bool(sizes)


@pytest.mark.parametrize(("holes", "kept"), [("bridge", True), ("brush", True), ("drop", False)])
def test_holes_follow_the_policy(holes: str, kept: bool) -> None:
    mask = ring_mask()
    (part,) = mask_to_parts(mask, PolygonOptions(holes=holes))  # type: ignore[arg-type]
    assert part.has_holes == kept
    got = rasterise([part.ring], *mask.shape)
    assert got[60, 80] != kept
    if kept:
        assert iou(got, mask) > 0.97


def test_a_hole_gives_way_to_the_limit_of_points_before_the_outline_does() -> None:
    mask = np.zeros((60, 60), bool)
    mask[4:56, 4:24] = mask[36:56, 4:56] = True
    corners = [(4, 4), (4, 56), (24, 4), (24, 36), (56, 36), (56, 56)]
    mask[8:20, 8:20] = False
    (part,) = mask_to_parts(mask, PolygonOptions(max_points=6))
    assert sorted(map(tuple, part.ring.tolist())) == corners, "exactly so many points are allowed"
    (five,) = mask_to_parts(mask, PolygonOptions(max_points=5))
    assert len(five.ring) <= 5
    (whole,) = mask_to_parts(mask, PolygonOptions(max_points=12))
    assert iou(rasterise([whole.ring], 60, 60), mask) == 1.0


def test_a_large_hole_does_not_cost_the_outline_its_notch() -> None:
    """Coarse enough to lose the hole, an outline loses smaller things too: it is tried without the hole, and exact."""
    mask = np.zeros((64, 64), bool)
    mask[2:62, 2:62] = True
    mask[2:10, 2:10] = False  # a notch at the corner
    mask[20:50, 20:50] = False
    (part,) = mask_to_parts(mask, PolygonOptions(max_points=6))
    assert sorted(map(tuple, part.ring.tolist())) == [(2, 10), (2, 62), (10, 2), (10, 10), (62, 2), (62, 62)]


def test_the_tolerance_is_halved_until_the_overlap_suffices() -> None:
    """A bound that 4 pixels do not reach: neither the exact ring nor the coarse one."""
    yy, xx = np.mgrid[:120, :120]
    mask = (yy - 60) ** 2 + (xx - 60) ** 2 < 50**2

    def drawn(epsilon: float, bound: float) -> tuple[int, float]:
        (part,) = mask_to_parts(mask, PolygonOptions(epsilon=epsilon, min_iou=bound))
        return len(part.ring), iou(rasterise([part.ring], 120, 120), mask)

    coarse, exact = drawn(4.0, 0.0), drawn(0.0, 1.0)
    assert exact[1] == 1.0
    for bound in (0.97, 0.98, 0.99):
        points, overlap = drawn(4.0, bound)
        assert coarse[1] < bound <= overlap
        assert coarse[0] < points < exact[0] / 2
    assert drawn(4.0, 1.0)[1] == 1.0


def test_bridged_holes_are_holes_for_the_non_zero_rule_too() -> None:
    """Browsers fill by winding: holes run against the outer ring. OpenCV's fill stands in for the browser."""
    (part,) = mask_to_parts(ring_mask(), PolygonOptions())
    assert signed_area(part.ring) == pytest.approx(ring_mask().sum(), rel=0.03)
    fill = np.zeros((120, 160), np.uint8)
    cv2.fillPoly(fill, [np.round(part.ring * 256).astype(np.int32)], 1, shift=8)
    assert iou(fill > 0, ring_mask()) > 0.9


@pytest.mark.parametrize("slope", [(1, 1), (1, 2), (2, 1), (3, 4)])
def test_a_slanted_edge_is_drawn_without_steps(slope: tuple[int, int]) -> None:
    yy, xx = np.mgrid[:80, :80]
    mask = (yy * slope[0] > xx * slope[1] - 20) & (xx > 10) & (xx < 60) & (yy < 70)
    (part,) = mask_to_parts(mask)
    assert len(part.ring) <= 6
    assert iou(rasterise([part.ring], 80, 80), mask) >= 0.97


def test_what_is_straight_keeps_its_corners() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:30, 8:20] = mask[20:30, 8:35] = True
    (part,) = mask_to_parts(mask)
    assert sorted(map(tuple, part.ring.tolist())) == [(8, 5), (8, 30), (20, 5), (20, 20), (35, 20), (35, 30)]


@settings(max_examples=40, deadline=None)
@given(blobs())
def test_edge_middles_enclose_the_same_pixels(mask: np.ndarray) -> None:
    for part in components(mask):
        rings = [edge_middles(ring) for ring in outlines(part.shape)]
        np.testing.assert_array_equal(rasterise(rings, *part.shape.shape), part.shape)
        edges = [np.diff(np.pad(part.shape, 1), axis=axis).sum() for axis in (0, 1)]
        assert sum(map(len, rings)) == sum(edges)


def test_bridges_have_no_width() -> None:
    """Every point of a bridge is passed twice, there and back, so that it takes no area."""
    (part,) = mask_to_parts(ring_mask(), PolygonOptions())
    (exact,) = mask_to_parts(ring_mask(), PolygonOptions(epsilon=0.0))
    assert signed_area(exact.ring) == ring_mask().sum()
    points, counts = np.unique(part.ring, axis=0, return_counts=True)
    assert sorted(counts)[-2:] == [2, 2]
    assert len(points) == len(part.ring) - 2


def test_bridges_are_short() -> None:
    """A hole is reached from the side that it is near to, not across the whole object."""
    mask = np.ones((60, 200), bool)
    mask[20:40, 185:195] = False
    mask[20:40, 170:180] = False
    (part,) = mask_to_parts(mask, PolygonOptions(epsilon=0.0))
    steps = np.hypot(*(part.ring - np.roll(part.ring, 1, axis=0)).T)
    around = 2 * (60 + 200) + 2 * 2 * (20 + 10)
    assert steps.sum() == pytest.approx(around + 2 * (5 + np.hypot(5, 20)))


def test_a_thin_diagonal_line_stays_one_part() -> None:
    (part,) = mask_to_parts(np.eye(30, dtype=bool), PolygonOptions(epsilon=0.0))
    np.testing.assert_array_equal(rasterise([part.ring], 30, 30), np.eye(30, dtype=bool))


@pytest.mark.parametrize(
    "options",
    [{"epsilon": -1}, {"epsilon": float("nan")}, {"min_iou": 1.5}, {"min_area": -1}, {"max_points": 2}],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PolygonOptions(**options)


# --- one ring for all -------------------------------------------------------------------------------------------------


def rings(mask: np.ndarray, epsilon: float) -> list[np.ndarray]:
    return [part.ring for part in mask_to_parts(mask, PolygonOptions(epsilon=epsilon, min_iou=0.97, min_area=0))]


@given(blobs())
@settings(deadline=None)
def test_one_ring_holds_all_parts_and_holes(mask: np.ndarray) -> None:
    if mask.any():
        assert iou(rasterise([join_rings(rings(mask, 1.0))], *mask.shape), mask) >= 0.95
        np.testing.assert_array_equal(rasterise([join_rings(rings(mask, 0.0))], *mask.shape), mask)
    else:
        with pytest.raises(ValueError, match="no ring"):
            join_rings(rings(mask, 1.0))


def test_hundreds_of_parts_are_joined_too() -> None:
    mask = np.random.default_rng(0).random((60, 60)) > 0.93
    np.testing.assert_array_equal(rasterise([join_rings(rings(mask, 0.0))], 60, 60), mask)


# --- rasterising ------------------------------------------------------------------------------------------------------


def reference(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """Even-odd by pixel centres, one edge at a time; an edge within 1e-7 of a centre counts as left of and above it."""
    inside = np.zeros((height, width), bool)
    for here, there in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        (x1, y1), (x2, y2) = (here, there) if here[1] <= there[1] else (there, here)
        for row in range(height):
            if y1 - 1e-7 <= row + 0.5 < y2 - 1e-7:
                x = x1 + (row + 0.5 - y1) * ((x2 - x1) / (y2 - y1))
                inside[row, np.arange(width) + 0.5 >= x - 1e-7] ^= True
    return inside


coordinates = st.floats(-5, 35) | st.integers(-2, 32).map(float) | st.integers(-4, 64).map(lambda value: value / 2)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9), st.sampled_from([1, 7, 1 << 20]))
def test_the_rasteriser_equals_the_definition_in_blocks_of_any_size(
    ring: list[tuple[float, float]], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("int_model.masks.rings._CROSSINGS_AT_ONCE", block)
        got = rasterise([np.array(ring)], 30, 26)
    np.testing.assert_array_equal(got, reference(np.array(ring), 30, 26))


def test_a_polygon_of_very_many_points_takes_little_memory_and_time() -> None:
    ring = np.random.default_rng(0).random((50_000, 2)) * (800, 600)
    begun = time.perf_counter()
    tracemalloc.start()
    mask = rasterise([ring], 600, 800)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.shape == (600, 800)
    assert peak < 250e6, "edges with rows all at once would take 1.4 GB"
    assert time.perf_counter() - begun < 30


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e10])
def test_coordinates_that_make_no_sense_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="polygon's coordinates"):
        rasterise([np.array([[0.0, 0.0], [4.0, bad], [4.0, 4.0]])], 5, 5)


def test_outlines_of_a_part_are_its_outer_ring_and_its_holes() -> None:
    outer, hole = outlines(np.pad(ring_mask(), 0))
    assert signed_area(outer) > 0 > signed_area(hole)
    assert signed_area(outer) + signed_area(hole) == ring_mask().sum()
