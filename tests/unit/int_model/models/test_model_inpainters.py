from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.models.adapters.inpainting import DiffusersInpainter, MeanColourInpainter, OpenCVInpainter
from int_model.models.profile import DiffusersRole, OpenCVRole
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


def ramp(height: int, width: int) -> np.ndarray:
    """A picture without symmetry, smooth enough to be shrunk."""
    yy, xx = np.mgrid[:height, :width]
    return np.stack([xx * 255 // max(1, width - 1), yy * 255 // max(1, height - 1), (xx + 2 * yy) % 256], -1).astype(
        np.uint8
    )


@pytest.mark.parametrize("method", ["telea", "ns"])
@pytest.mark.parametrize(
    ("size", "region", "max_side", "radius", "small"),
    [
        ((60, 80), (10, 50, 30, 75), 0, 0.01, (60, 80)),
        ((60, 80), (10, 50, 30, 75), 0, 0.05, (60, 80)),
        ((60, 80), (10, 50, 30, 75), 40, 0.05, (30, 40)),
        ((80, 60), (50, 10, 75, 30), 40, 0.05, (40, 30)),
        ((60, 80), (10, 50, 30, 75), 81, 0.05, (60, 80)),  # never enlarged
        ((4, 400), (1, 200, 3, 260), 40, 0.05, (1, 40)),  # a side never vanishes
    ],
)
def test_opencv_fills_as_asked(
    method: str, size: tuple[int, int], region: tuple[int, ...], max_side: int, radius: float, small: tuple[int, int]
) -> None:
    """Against OpenCV itself, asked step by step: shrink, fill, enlarge, paste."""
    image, mask = ramp(*size), hole(*size, *region)
    got = fill(OpenCVInpainter(OpenCVRole(method=method, max_side=max_side, radius=radius)), image, mask)  # type: ignore[arg-type]
    share = cv2.resize(mask.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
    source = np.asarray(PIL.Image.fromarray(image).resize(small[::-1], PIL.Image.Resampling.BOX))
    flag = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[method]
    reach = max(1.0, radius * float(np.hypot(*small)))
    filled = cv2.inpaint(source, (share > 0).astype(np.uint8), reach, flag)
    whole = np.asarray(PIL.Image.fromarray(filled).resize(size[::-1], PIL.Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(got, np.where(mask[..., None], whole, image))


def test_where_the_shrunk_hole_is_all_the_mean_colour_of_the_rest_is_left() -> None:
    image, mask = ramp(40, 40), np.ones((40, 40), bool)
    mask[0, 0] = mask[39, 39] = False
    result = fill(OpenCVInpainter(OpenCVRole(max_side=4)), image, mask)
    mean = np.stack([image[0, 0], image[39, 39]]).mean(axis=0)
    assert np.abs(result[mask].astype(float) - mean).max() <= 0.51


class Pipeline:
    """Stands in for diffusers': keeps what it is asked, answers each image with its number and first random byte."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.shown = 0

    def set_progress_bar_config(self, *, disable: bool) -> None:
        assert disable

    def __call__(self, **asked: Any) -> Any:
        self.asked.append(asked)
        pictures = []
        for generator in asked["generator"]:
            noise = int(torch.randint(0, 256, (1,), generator=generator))
            self.shown += 1
            size = (asked["width"], asked["height"])
            pictures.append(PIL.Image.new("RGB", size, (noise, 10 * self.shown, 0)))
        return SimpleNamespace(images=pictures)


def test_stable_diffusion_is_asked_for_squares_in_batches_with_one_seed_each() -> None:
    pipeline = Pipeline()
    settings = DiffusersRole(id="x", max_batch=2, size=16, steps=3, guidance=4.5, seed=5)
    images = [ramp(20, 30), ramp(16, 16), ramp(31, 9), ramp(12, 12), ramp(8, 24)]
    masks = [hole(20, 30, 5, 10, 11, 20), np.ones((16, 16), bool), hole(31, 9, 0, 0, 31, 4), hole(12, 12, 0, 0, 1, 1),
             np.zeros((8, 24), bool)]  # fmt: skip
    inpainter = DiffusersInpainter(pipeline, settings).with_seed(6)
    results = inpainter.inpaint(images, masks, list("abcde"), list("vwxyz"))
    assert [(one["prompt"], one["negative_prompt"]) for one in pipeline.asked] == [
        (["a", "c"], ["v", "x"]),
        (["d"], ["y"]),
    ]
    for one in pipeline.asked:
        assert (one["num_inference_steps"], one["guidance_scale"], one["width"], one["height"]) == (3, 4.5, 16, 16)
    shown = [pair for one in pipeline.asked for pair in zip(one["image"], one["mask_image"], strict=True)]
    noise = int(torch.randint(0, 256, (1,), generator=torch.Generator("cpu").manual_seed(6)))
    for number, (index, (picture_, mask)) in enumerate(zip((0, 2, 3), shown, strict=True), 1):
        expected = PIL.Image.fromarray(images[index]).resize((16, 16), PIL.Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(picture_), np.asarray(expected))
        share = cv2.resize(masks[index].astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(np.asarray(mask), np.where(share > 0, 255, 0))
        assert results[index].shape == images[index].shape
        assert np.unique(results[index].reshape(-1, 3), axis=0).tolist() == [[noise, 10 * number, 0]]
    assert not results[1].any(), "everything is removed: black, without the model"
    np.testing.assert_array_equal(results[4], images[4])
    assert results[4] is not images[4]


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
