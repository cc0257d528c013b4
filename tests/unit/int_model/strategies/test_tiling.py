"""Tiling against an oracle: a segmenter that sees the exact objects of whatever part of the image it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from int_model.core.config import IntConfig, TilingConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Image, Instance, Mask, Segmentation, Trace
from int_model.strategies.registry import default_config, make_strategy
from int_model.strategies.tiling import Piece, Tile, Tiled, make_tiles, merge
from tests.support.fakes import TASK, fake_suite, scene

PROMPT = TaskPrompt(TASK)


@dataclass
class Oracle:
    """Finds the objects of an image whose red and green channels hold each pixel's object number (0: none).

    With ``parts``, an object that falls apart in what is shown is several objects, as it is for a real segmenter.
    """

    parts: bool = True
    name: str = "oracle"
    shown: list[tuple[int, int]] = field(default_factory=list)

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        return [self._one(image, task) for image in images]

    def _one(self, image: Image, task: TaskPrompt) -> Segmentation:
        size = image.shape[:2]
        self.shown.append(size)
        numbers = image[..., 0].astype(np.int64) * 256 + image[..., 1]
        found = []
        for number in np.unique(numbers[numbers > 0]):
            mask = numbers == number
            found += [Instance.of_mask(m, str(number), 0.5) for m in (components(mask) if self.parts else [mask])]
        trace = Trace(task.text, self.name, calls={"detect": 1}, seconds={"detect": 0.25})
        soft = (numbers > 0).astype(np.float32)
        return Segmentation(size, task.text, tuple(found), 0.5, trace, soft_mask=soft, reason="" if found else "empty")


def components(mask: Mask) -> list[Mask]:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [labels == i for i in range(1, count)]


def picture(numbers: NDArray[np.int64]) -> Image:
    return np.stack([numbers // 256, numbers % 256, np.zeros_like(numbers)], axis=-1).astype(np.uint8)


def as_set(masks: Sequence[Mask]) -> set[bytes]:
    return {mask.tobytes() for mask in masks}


def tiled(oracle: Oracle, side: int, halo: int, **more: object) -> Tiled:
    config = IntConfig().merged({"tiling": {"over_pixels": 1, "side": side, "halo": halo}, "fuse": more})
    return Tiled(oracle, config)


@st.composite
def blobs(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(33, 150)), draw(st.integers(33, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), draw(st.sampled_from([0.6, 1.5, 3.0, 6.0])))
    return np.asarray(noise > np.quantile(noise, draw(st.sampled_from([0.4, 0.6, 0.8, 0.97]))), dtype=np.bool_)


@settings(max_examples=40, deadline=None)
@given(mask=blobs(), side=st.integers(32, 70), halo=st.integers(1, 30))
def test_connected_objects_are_the_same_with_and_without_tiles(mask: Mask, side: int, halo: int) -> None:
    """However winding: an object that a tile sees as several pieces is one again."""
    oracle = Oracle()
    (result,) = tiled(oracle, side, halo).segment([picture(mask.astype(np.int64))], PROMPT)
    assert as_set([found.mask for found in result.instances]) == as_set(components(mask))
    assert np.array_equal(result.mask, mask)
    assert result.soft_mask is not None
    assert np.array_equal(result.soft_mask > 0.5, mask)
    assert max(max(size) for size in oracle.shown) <= side + 2 * halo


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), side=st.integers(32, 60), halo=st.integers(1, 20))
def test_objects_that_touch_stay_apart(seed: int, count: int, side: int, halo: int) -> None:
    """A mosaic: every pixel belongs to the nearest of some points, so that all objects touch, across seams too."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 120, (count, 2))
    yy, xx = np.mgrid[:110, :120]
    nearest = np.argmin([(yy - y) ** 2 + (xx - x) ** 2 for y, x in centres], axis=0) + 1
    (result,) = tiled(Oracle(parts=False), side, halo).segment([picture(nearest)], PROMPT)
    assert as_set([found.mask for found in result.instances]) == {
        (nearest == number).tobytes() for number in np.unique(nearest)
    }
    assert all(found.label == str(nearest[found.mask][0]) for found in result.instances)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.integers(32, 900), halo=st.integers(1, 200))
def test_cores_cover_every_pixel_once_and_views_reach_around(height: int, width: int, side: int, halo: int) -> None:
    tiles = make_tiles(height, width, TilingConfig(side=side, halo=halo))
    assert sum(tile.core.area for tile in tiles) == height * width
    assert len({(tile.core.x1, tile.core.y1) for tile in tiles}) == len(tiles)
    for tile in tiles:
        assert max(tile.core.width, tile.core.height) <= side
        assert tile.view.x1 == max(0, tile.core.x1 - halo)
        assert tile.view.y2 == min(height, tile.core.y2 + halo)


def test_small_images_go_to_the_strategy_untouched_and_in_order() -> None:
    oracle = Oracle()
    config = IntConfig().merged({"tiling": {"over_pixels": 64 * 64, "side": 64, "halo": 8}})
    marks = [(64, 64), (100, 90), (20, 30)]
    images = [picture(np.full(size, 5, dtype=np.int64)) for size in marks]
    results = Tiled(oracle, config).segment(images, PROMPT)
    assert [result.size for result in results] == marks
    assert [result.mask.all() for result in results] == [True] * 3
    assert oracle.shown[:2] == [(64, 64), (20, 30)]
    assert not results[0].trace.notes
    assert "in 4 tiles" in results[1].trace.notes[0]
    assert results[1].trace.calls == {"detect": 4}
    assert results[1].trace.seconds == {"detect": 0.25}
    assert Tiled(oracle, config).segment([], PROMPT) == []


def test_nothing_found_says_why() -> None:
    (result,) = tiled(Oracle(), 32, 4).segment([picture(np.zeros((80, 80), dtype=np.int64))], PROMPT)
    assert result.instances == ()
    assert result.reason == "nothing in any of 9 tiles; most often: empty"


def test_strangers_that_overlap_a_little_are_not_joined() -> None:
    tiles = [Tile(Box(0, 0, 50, 100), Box(0, 0, 60, 100)), Tile(Box(50, 0, 100, 100), Box(40, 0, 100, 100))]
    left, right = np.zeros((100, 60), dtype=np.bool_), np.zeros((100, 60), dtype=np.bool_)
    left[10:40, 20:60], right[36:80, 0:30] = True, True
    pieces = [Piece(0, left, "frog", 0.8), Piece(1, right, "owl", 0.4)]
    assert [found.label for found in merge(pieces, tiles, (100, 100), 0.5)] == ["frog", "owl"]
    assert len(merge(pieces, tiles, (100, 100), 0.05)) == 1


def test_the_tile_in_whose_core_a_pixel_lies_decides_it() -> None:
    tiles = [Tile(Box(0, 0, 50, 100), Box(0, 0, 60, 100)), Tile(Box(50, 0, 100, 100), Box(40, 0, 100, 100))]
    left, right = np.zeros((100, 60), dtype=np.bool_), np.zeros((100, 60), dtype=np.bool_)
    left[10:40, 20:60], right[12:40, 0:30] = True, True
    pieces = [Piece(0, left, "frog", 0.8), Piece(1, right, "toad", 0.4)]
    (whole,) = merge(pieces, tiles, (100, 100), 0.5)
    expected = np.zeros((100, 100), dtype=np.bool_)
    expected[10:40, 20:50] = True
    expected[12:40, 50:70] = True
    assert np.array_equal(whole.mask, expected)
    assert whole.label == "frog"  # the larger piece
    assert whole.score == pytest.approx((0.8 * 1200 + 0.4 * 840) / 2040)


def test_the_option_wraps_any_strategy() -> None:
    image, (truth,) = scene(200, 300, objects=[("frog", 150, 100, 25)])
    suite = fake_suite()
    config = default_config("grounded_sam", {"tiling": {"over_pixels": 10_000, "side": 150, "halo": 30}})
    strategy = make_strategy("grounded_sam", suite, config)
    (result,) = strategy.segment([image], PROMPT)
    assert strategy.name == "grounded_sam"
    assert result.mask[truth].mean() > 0.9
    assert "tiles" in result.trace.notes[0]
    assert not isinstance(make_strategy("grounded_sam", suite), Tiled)
