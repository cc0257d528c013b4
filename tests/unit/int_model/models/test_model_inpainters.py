from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.models.adapters.inpainting import MeanColourInpainter, OpenCVInpainter
from int_model.models.profile import OpenCVRole
from int_model.models.protocols import Inpainter
from tests.unit.int_model.models.tiny import picture
from tests.unit.int_model.models.tiny_diffusion import save_stable_diffusion

CLASSICAL = [
    OpenCVInpainter(OpenCVRole()),
    OpenCVInpainter(OpenCVRole(method="ns", max_side=0)),
    OpenCVInpainter(OpenCVRole(max_side=24)),
    MeanColourInpainter(),
]


def hole(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def fill(inpainter: Inpainter, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    [result] = inpainter.inpaint([image], [mask], ["sand"], ["moth"])
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    return result


@pytest.mark.parametrize("inpainter", CLASSICAL)
@given(data=st.data(), height=st.integers(1, 50), width=st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_only_the_hole_changes(inpainter: Inpainter, data: Any, height: int, width: int) -> None:
    top, bottom = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    left, right = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    image, mask = picture(height, width, 5), hole(height, width, top, left, bottom, right)
    before = image.copy()
    result = fill(inpainter, image, mask)
    assert np.array_equal(image, before), "the input is not written to"
    if mask.all():
        assert not result.any(), "nothing to fill from: a black image"
    else:
        assert np.array_equal(result[~mask], image[~mask])


@pytest.mark.parametrize("inpainter", CLASSICAL)
def test_an_object_on_a_plain_ground_vanishes(inpainter: Inpainter) -> None:
    image = np.full((60, 80, 3), (40, 90, 140), np.uint8)
    image[20:35, 30:50] = (250, 10, 10)
    result = fill(inpainter, image, hole(60, 80, 18, 28, 37, 52))
    # OpenCV's Telea is a few grey levels off even on a constant ground; the object was 210 off.
    assert np.abs(result.astype(int) - (40, 90, 140)).max() <= 8


def test_a_gradient_is_continued_by_opencv() -> None:
    ramp = np.repeat(np.linspace(0, 240, 100).astype(np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    for inpainter in CLASSICAL[:2]:
        result = fill(inpainter, ramp, hole(60, 100, 20, 40, 40, 60))
        assert np.abs(result[20:40, 40:60].astype(int) - ramp[20:40, 40:60]).mean() < 25


def test_a_shrunk_hole_keeps_no_rim_of_the_object() -> None:
    """At a quarter of the size, a rim of one pixel would bleed the object's colour into the filling."""
    image = np.zeros((97, 101, 3), np.uint8)
    mask = hole(97, 101, 31, 29, 62, 63)
    image[mask] = 255
    assert fill(CLASSICAL[2], image, mask).max() <= 2


def test_mean_colour_is_the_mean_of_the_rest() -> None:
    image = picture(20, 30, 6)
    mask = hole(20, 30, 3, 4, 9, 21)
    result = fill(MeanColourInpainter(), image, mask)
    np.testing.assert_allclose(result[5, 5], image[~mask].mean(axis=0), atol=0.51)


def test_wrong_masks_are_refused() -> None:
    image = picture(8, 8)
    with pytest.raises(ValueError, match="image's size"):
        CLASSICAL[0].inpaint([image], [np.zeros((8, 9), bool)], [""], [""])
    with pytest.raises(ValueError, match="a mask is bool"):
        CLASSICAL[0].inpaint([image], [np.zeros((8, 8), np.uint8)], [""], [""])
    with pytest.raises(ValueError, match="one length"):
        CLASSICAL[0].inpaint([image], [], [""], [""])
    assert CLASSICAL[0].inpaint([], [], [], []) == []


IMAGES = [picture(40, 60, 1), picture(32, 32, 2), picture(50, 30, 3), picture(30, 30, 4)]
MASKS = [hole(40, 60, 5, 5, 30, 40), np.ones((32, 32), bool), hole(50, 30, 0, 0, 25, 30), np.zeros((30, 30), bool)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    save_stable_diffusion(folder)
    return folder


@pytest.fixture(scope="module")
def inpainter(folder: Path, load_diffusers: Any) -> Inpainter:
    return load_diffusers(folder, size=32, steps=4)


class TestStableDiffusion:
    def run(self, inpainter: Inpainter, count: int = 4, positive: str = "bark") -> list[np.ndarray]:
        return inpainter.inpaint(IMAGES[:count], MASKS[:count], [positive] * count, ["moth"] * count)

    def test_a_seeded_result_depends_on_neither_batch_nor_history(self, inpainter: Inpainter) -> None:
        first, again = self.run(inpainter), self.run(inpainter)
        for image, mask, one, two in zip(IMAGES, MASKS, first, again, strict=True):
            assert one.shape == image.shape
            assert np.array_equal(one, two)
            [alone] = inpainter.inpaint([image], [mask], ["bark"], ["moth"])
            assert np.abs(alone.astype(int) - one).max() <= 1
        assert not np.array_equal(first[0], IMAGES[0])

    def test_trivial_masks_need_no_model(self, inpainter: Inpainter) -> None:
        results = self.run(inpainter)
        assert not results[1].any()
        assert np.array_equal(results[3], IMAGES[3])

    @pytest.mark.parametrize("options", [{"seed": 33}, {"scheduler": "dpm++"}, {"guidance": 1.0}, {"steps": 3}])
    def test_options_reach_the_pipeline(
        self, inpainter: Inpainter, folder: Path, load_diffusers: Any, options: dict[str, Any]
    ) -> None:
        other = load_diffusers(folder, **{"size": 32, "steps": 4, **options})
        assert not np.array_equal(self.run(other, 1)[0], self.run(inpainter, 1)[0])

    def test_the_prompts_matter(self, inpainter: Inpainter) -> None:
        assert not np.array_equal(self.run(inpainter, 1)[0], self.run(inpainter, 1, "deep blue sea with fish")[0])
