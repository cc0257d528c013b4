from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, AutoTokenizer

from int_model.models.protocols import Detector
from int_model.models.weights import WeightsError
from tests.unit.int_model.models import tiny
from tests.unit.int_model.models.tiny import picture

IMAGES = [picture(60, 80, 1), picture(80, 50, 2), picture(64, 64, 3)]
NAMES = ["moth", "gecko", "hidden moth"]
FAMILIES = {
    "owlvit": lambda f: tiny.save_owl(f),
    "owlv2": lambda f: tiny.save_owl(f, 2),
    "gdino": tiny.save_grounding_dino,
}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return request.param, folder


@pytest.fixture(scope="module")
def detector(family: tuple[str, Path], load_detector: Any) -> Detector:
    return load_detector(family[1])


def everything(detector: Detector, images: list[np.ndarray], names: list[str]) -> list[Any]:
    return detector.detect(images, names, box_threshold=-1.0, text_threshold=0.0)


def reference(kind: str, folder: Path, image: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores, best first, by the library's own post-processing of an unbatched pass."""
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    pil = PIL.Image.fromarray(image)
    size = torch.tensor([image.shape[:2]])
    if kind == "gdino":
        processor = AutoProcessor.from_pretrained(folder)
        inputs = processor(images=pil, text=f"{name}.", return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        [found] = processor.post_process_grounded_object_detection(
            out, inputs["input_ids"], threshold=-1.0, text_threshold=0.0, target_sizes=size
        )
    else:
        import transformers as hf

        images = (hf.OwlViTImageProcessor if kind == "owlvit" else hf.Owlv2ImageProcessor).from_pretrained(folder)
        tokens = AutoTokenizer.from_pretrained(folder)(
            [name], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            out = model(**tokens, **images(images=pil, return_tensors="pt"))
        [found] = images.post_process_object_detection(out, threshold=-1.0, target_sizes=size)
    order = found["scores"].argsort(descending=True, stable=True)
    return found["boxes"][order].numpy(), found["scores"][order].numpy()


def test_it_is_a_detector(detector: Detector) -> None:
    assert isinstance(detector, Detector)


def test_boxes_equal_the_librarys_own_clipped_and_sorted(family: tuple[str, Path], detector: Detector) -> None:
    kind, folder = family
    for image, name in zip(IMAGES, NAMES, strict=True):
        boxes, scores = reference(kind, folder, image, name)
        height, width = image.shape[:2]
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        [found] = everything(detector, [image], [name])
        np.testing.assert_allclose([d.score for d in found], scores[kept], atol=1e-5)
        np.testing.assert_allclose([d.box.as_tuple() for d in found], boxes[kept], atol=2e-3)


def test_an_image_is_answered_the_same_alone_and_in_a_batch(detector: Detector) -> None:
    images, names = [*IMAGES, picture(60, 80, 4)], [*NAMES, "a gecko that is hidden"]
    together = everything(detector, images, names)
    for image, name, found in zip(images, names, together, strict=True):
        [alone] = everything(detector, [image], [name])
        assert len(alone) == len(found)
        np.testing.assert_allclose([d.score for d in found], [d.score for d in alone], atol=1e-4)


def test_the_box_threshold_cuts_the_sorted_list(detector: Detector) -> None:
    [found] = everything(detector, IMAGES[:1], NAMES[:1])
    scores = [d.score for d in found]
    assert scores == sorted(scores, reverse=True)
    cut = scores[len(scores) // 2]
    [kept] = detector.detect(IMAGES[:1], NAMES[:1], box_threshold=cut, text_threshold=0.0)
    assert [d.score for d in kept] == [score for score in scores if score > cut]
    assert detector.detect(IMAGES[:1], NAMES[:1], box_threshold=1.0, text_threshold=0.0) == [[]]


def test_a_name_is_put_as_the_family_expects_it(family: tuple[str, Path], detector: Detector) -> None:
    """GroundingDINO: lower case, one final stop, and the phrase is what fired. OWL: the name as it is."""
    plain, shouted = everything(detector, [IMAGES[0]] * 2, ["moth", "MOTH. "])
    assert plain[0].phrase == "moth"
    if family[0] == "gdino":
        assert [d.score for d in plain] == pytest.approx([d.score for d in shouted])
        assert shouted[0].phrase == "moth"
    else:
        assert shouted[0].phrase == "MOTH. "


def test_the_name_matters(detector: Detector) -> None:
    one, other = everything(detector, [IMAGES[0]] * 2, ["moth", "gecko"])
    assert [d.score for d in one] != pytest.approx([d.score for d in other], rel=1e-4)


def test_the_template_wraps_the_name(load_detector: Any, profile: Path) -> None:
    wrapped, plain = (load_detector(profile.parent / "owl", template=t) for t in ("a photo of a {}", "{}"))
    [ours], [theirs] = everything(wrapped, IMAGES[:1], ["moth"]), everything(plain, IMAGES[:1], ["a photo of a moth"])
    assert [(d.box, d.score) for d in ours] == [(d.box, d.score) for d in theirs]
    assert ours[0].phrase == "moth"


def test_blank_names_and_unequal_lists_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="not for a blank"):
        everything(detector, IMAGES[:1], [" . "])
    with pytest.raises(ValueError, match="one length"):
        everything(detector, IMAGES, ["moth"])
    assert everything(detector, [], []) == []


def test_another_model_class_is_refused(load_detector: Any, profile: Path) -> None:
    with pytest.raises(WeightsError, match=r"detector\.id"):
        load_detector(profile.parent / "sam")
