from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.learning.examples import Clicks, Example, Target
from int_model.learning.prompts import click_prompt, depth_of, distance_to, loose_box, negative_point, positive_point
from int_model.learning.views import Augmentation, views_of
from tests.unit.int_model.learning.conftest import disc, drawn

SIZE = (60, 80)


@given(st.integers(0, 10_000), st.floats(10, 70), st.floats(10, 50), st.floats(1.2, 20))
def test_a_positive_click_lies_on_the_object(seed: int, x: float, y: float, radius: float) -> None:
    mask = disc(SIZE, x, y, radius)
    px, py = positive_point(mask, np.random.default_rng(seed))
    assert mask[int(py), int(px)]


@given(st.integers(0, 10_000), st.floats(10, 70), st.floats(10, 50), st.floats(2, 20))
def test_a_negative_click_never_lies_on_the_object(seed: int, x: float, y: float, radius: float) -> None:
    mask, others = disc(SIZE, x, y, radius), disc(SIZE, 70, 50, 6)
    point = negative_point(mask, others, np.random.default_rng(seed))
    assert point is not None
    assert not mask[int(point[1]), int(point[0])]


def test_there_is_no_room_beside_an_object_that_fills_the_image() -> None:
    assert negative_point(np.ones((9, 9), np.bool_), np.zeros((9, 9), np.bool_), np.random.default_rng(0)) is None


@given(st.integers(0, 10_000), st.floats(5, 75), st.floats(5, 55), st.floats(1, 20))
def test_a_loose_box_stays_in_the_image_and_about_the_object(seed: int, x: float, y: float, radius: float) -> None:
    mask = disc(SIZE, x, y, radius)
    box = loose_box(mask, np.random.default_rng(seed))
    assert box.clip(*SIZE) == box
    covered = mask[max(0, int(box.y1)) : int(np.ceil(box.y2)), max(0, int(box.x1)) : int(np.ceil(box.x2))].sum()
    assert covered > 0


def test_recorded_clicks_are_used_about_half_of_the_time() -> None:
    mask = disc(SIZE, 40, 30, 15)
    recorded = Clicks(np.array([[41.25, 29.75], [3.0, 3.0]]), np.array([1, 0]))
    target = Target("a", mask, 1.0, (recorded,))
    rng = np.random.default_rng(0)
    used = [bool((click_prompt(target, ~mask, rng).points == recorded.points[:1]).all()) for _ in range(400)]
    assert 150 < sum(used) < 250


def ring_of(mask: np.ndarray, others: np.ndarray, count: int = 600) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = [negative_point(mask, others, rng) for _ in range(count)]
    return np.array(found, dtype=np.float64)


def test_negative_clicks_lie_in_a_ring_as_wide_as_a_quarter_of_the_object() -> None:
    """And two pixels off it at least: a click on the outline says nothing."""
    for radius, reach in ((22.0, 11.0), (6.0, 5.0)):
        mask = disc((120, 160), 80, 60, radius)
        found = ring_of(mask, mask & False)
        away = distance_to(mask)[found[:, 1].astype(int), found[:, 0].astype(int)]
        assert away.min() == 2
        assert 0.8 * reach < away.max() <= reach + 0.2
        assert (found % 1 == 0.5).all(), "a pixel's centre"
        middle = found.mean(axis=0)
        assert abs(middle - (80, 60)).max() < 0.2 * radius, "on all sides"


def test_half_of_the_negative_clicks_lie_on_other_objects_where_there_are_any() -> None:
    mask, other = disc((120, 160), 40, 60, 10), disc((120, 160), 130, 60, 10)
    found = ring_of(mask, mask | other)
    on_other = sum(bool(other[int(y), int(x)]) for x, y in found)
    assert 240 < on_other < 360
    assert not any(mask[int(y), int(x)] for x, y in found)


def test_positive_clicks_lie_anywhere_often_in_the_middle_and_sometimes_at_the_border() -> None:
    mask, rng = disc((120, 160), 80, 60, 40), np.random.default_rng(0)
    found = np.array([positive_point(mask, rng) for _ in range(1500)])
    assert (found % 1 == 0.5).all()
    depth = depth_of(mask)[found[:, 1].astype(int), found[:, 0].astype(int)]
    inner, outer = 0.6 * depth_of(mask).max(), 0.05 * 80
    shares = mask.sum(), (depth_of(mask) >= inner).sum(), (mask & (depth_of(mask) <= outer)).sum()
    assert (depth >= inner).mean() == pytest.approx(0.3 + 0.5 * shares[1] / shares[0], abs=0.05)
    assert (depth <= outer).mean() == pytest.approx(0.2 + 0.5 * shares[2] / shares[0], abs=0.05)


def test_a_loose_box_is_off_by_a_tenth_of_its_sides() -> None:
    mask = np.zeros((400, 400), np.bool_)
    mask[100:200, 100:150] = True
    rng = np.random.default_rng(0)
    off = np.array([np.array(loose_box(mask, rng).as_tuple()) - (100, 100, 150, 200) for _ in range(800)])
    assert abs(off.mean(axis=0)).max() < 1
    assert off.std(axis=0).tolist() == pytest.approx([5, 9.4, 5, 9.4], abs=0.6)  # at most 20 pixels
    assert abs(off).max() == 20
    pixel = np.zeros((9, 9), np.bool_)
    pixel[4, 4] = True
    assert loose_box(pixel, rng).as_tuple() == (4, 4, 5, 5), "where nothing would be left it is tight"


def test_depth_is_the_distance_to_the_outside() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[2:7, 2:7] = True
    depth = depth_of(mask)
    assert depth[4, 4] == 3
    assert depth[2, 4] == 1
    assert depth[0, 0] == 0


def test_the_first_view_is_the_example_itself_and_the_others_move_masks_with_the_image() -> None:
    example = drawn(3, count=2)
    views = views_of(example, Augmentation(views=8), np.random.default_rng(1))
    assert views[0] is example
    assert len(views) == 8
    for view in views[1:]:
        assert view.image.shape == example.image.shape
        assert view.unit == example.unit
        for target in view.targets:  # the discs are bright: masks that moved with them cover bright pixels only
            assert view.image[target.mask][:, 0].mean() > 165
            assert view.image[~view.mask_of("disc")][:, 0].mean() < 110


def test_brightness_and_contrast_change_within_their_share() -> None:
    grey = Example(np.full((20, 24, 3), 128, np.uint8), (Target("a", disc((20, 24), 12, 10, 6)),))
    views = views_of(grey, Augmentation(views=400, colour=0.12), np.random.default_rng(0))
    levels = [int(view.image[10, 12, 0]) for view in views[1:]]
    most = 0.12 * 128 + 0.12 * 255 / 2  # gain and shift together
    assert 0.9 * most < max(levels) - 128 <= most
    assert 0.9 * most < 128 - min(levels) <= most + 1
    assert len(views_of(grey, Augmentation(), np.random.default_rng(0))) == 8


def test_no_view_is_mirrored_where_that_is_switched_off_and_a_click_in_the_corner_stays() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mask = np.zeros(SIZE, np.bool_)
    mask[:20, :20] = True
    click = Clicks(np.array([[0.5, 0.5]]), np.array([1]))
    how = Augmentation(views=12, flip=False, scale=(1.0, 1.0), degrees=0.0, colour=0.0)
    for view in views_of(Example(image, (Target("a", mask, 1.0, (click,)),)), how, np.random.default_rng(0)):
        assert np.array_equal(view.image, image)
        assert view.targets[0].clicks[0].points.tolist() == [[0.5, 0.5]]


def test_the_middle_of_the_image_stays_where_it_is() -> None:
    ramp = np.repeat(10 * np.arange(25)[:, None], 21, axis=1)
    for image in (ramp, ramp.T):
        picture = np.repeat(image[..., None], 3, axis=2).astype(np.uint8)
        example = Example(picture, (Target("a", disc(image.shape, 11, 11, 6)),))
        how = Augmentation(views=6, flip=False, scale=(0.8, 0.8), degrees=0.0, colour=0.0)
        for view in views_of(example, how, np.random.default_rng(0))[1:]:
            middle = view.image[image.shape[0] // 2, image.shape[1] // 2, 0]
            assert abs(int(middle) - int(image[image.shape[0] // 2, image.shape[1] // 2])) <= 1


def test_views_are_zoomed_and_turned_as_far_as_they_may_be() -> None:
    mask = np.zeros((200, 200), np.bool_)
    mask[95:105, 60:140] = True
    example = Example(np.zeros((200, 200, 3), np.uint8), (Target("bar", mask),))
    views = views_of(example, Augmentation(views=120, colour=0.0), np.random.default_rng(1))
    areas = np.array([view.targets[0].mask.sum() for view in views[1:]]) / mask.sum()
    assert 0.8**2 - 0.02 < areas.min() < 0.7
    assert 1.45 < areas.max() < 1.25**2 + 0.02
    slopes = []
    for view in views[1:]:
        rows, columns = np.nonzero(view.targets[0].mask)
        slopes.append(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0])))
        assert abs(rows.mean() - 99.5) < 1
        assert abs(columns.mean() - 99.5) < 1, "about the middle"
    assert -15.5 < min(slopes) < -13
    assert 13 < max(slopes) < 15.5


def test_an_object_that_leaves_the_view_is_no_target() -> None:
    size = (40, 40)
    corner = np.zeros(size, np.bool_)
    corner[:6, :6] = True
    example = Example(np.zeros((*size, 3), np.uint8), (Target("a", corner),))
    how = Augmentation(views=60, scale=(1.6, 1.8), degrees=0)
    views = views_of(example, how, np.random.default_rng(0))
    assert not any(view.targets for view in views[1:])


def test_clicks_move_with_the_view() -> None:
    mask = disc(SIZE, 40, 30, 15)
    example = Example(
        np.zeros((*SIZE, 3), np.uint8), (Target("a", mask, 1.0, (Clicks(np.array([[40.0, 30.0]]), np.array([1])),)),)
    )
    for view in views_of(example, Augmentation(), np.random.default_rng(2))[1:]:
        for target in view.targets:
            for clicks in target.clicks:
                x, y = clicks.points[0]
                assert target.mask[int(y), int(x)]


def test_a_mirrored_view_is_mirrored_to_the_pixel() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mask = np.zeros(SIZE, np.bool_)
    mask[10:30, 4:20] = mask[25:30, 0:40] = True
    click = Clicks(np.array([[4.5, 10.5]]), np.array([1]))
    how = Augmentation(views=12, scale=(1.0, 1.0), degrees=0.0, colour=0.0)
    mirrored = 0
    for view in views_of(Example(image, (Target("a", mask, 1.0, (click,)),)), how, rng)[1:]:
        flipped = not np.array_equal(view.image, image)
        mirrored += flipped
        turn = (lambda part: part[:, ::-1]) if flipped else (lambda part: part)
        np.testing.assert_array_equal(view.image, turn(image))
        np.testing.assert_array_equal(view.targets[0].mask, turn(mask))
        assert view.targets[0].clicks[0].points.tolist() == [[80 - 4.5 if flipped else 4.5, 10.5]]
    assert 0 < mirrored < 11


def test_clicks_move_exactly_as_pixels_do() -> None:
    """A bright spot around the clicked pixel: its centre of mass is where the click is afterwards."""
    yy, xx = np.mgrid[:60, :80]
    spot = 255 * np.exp(-((xx - 30) ** 2 + (yy - 20) ** 2) / 18)
    image = np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)
    click = Clicks(np.array([[30.5, 20.5]]), np.array([1]))
    example = Example(image, (Target("a", disc(SIZE, 30, 20, 8), 1.0, (click,)),))
    moved = 0
    for view in views_of(example, Augmentation(views=16, colour=0.0), np.random.default_rng(3))[1:]:
        light = view.image[..., 0].astype(np.float64)
        middle = np.array([(light * (xx + 0.5)).sum(), (light * (yy + 0.5)).sum()]) / light.sum()
        for target in view.targets:
            np.testing.assert_allclose(target.clicks[0].points[0], middle, atol=0.25)
            moved += 1
    assert moved > 10
