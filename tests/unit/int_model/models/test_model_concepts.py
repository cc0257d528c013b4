from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer
from transformers.models.sam3.modeling_sam3 import Sam3Model

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image
from int_model.models.profile import ConceptsRole, ProfileError, read_profile
from int_model.models.protocols import Concepts
from int_model.models.suite import load_suite, profile_fingerprint
from int_model.models.weights import Source, WeightsError
from int_model.strategies.registry import default_config, make_strategy
from tests.unit.int_model.models import tiny
from tests.unit.int_model.models.tiny import picture

IMAGES = [picture(60, 80, 1), picture(80, 50, 2), picture(64, 64, 3)]
NAMES = ["moth", "gecko", "hidden moth"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sam3")
    tiny.save_sam3(place)
    return place


def loaded(identifier: str, **options: Any) -> Any:
    from int_model.models.adapters.concepts import load

    settings = ConceptsRole(id=identifier, **options)
    return load(settings, Source.of("concepts", settings, device=torch.device("cpu"), offline=True))


def reference(folder: Path, image: Image, name: str) -> list[tuple[float, list[float], np.ndarray]]:
    """One unbatched pass over inputs made with Pillow and numpy; score, box and mask of every query, best first."""
    model = Sam3Model.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        [name], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    square = PIL.Image.fromarray(image).resize((112, 112), PIL.Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.asarray(square) / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        out = model(pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    height, width = image.shape[:2]
    found = []
    for query in range(out.pred_logits.shape[1]):
        score = float(torch.sigmoid(out.pred_logits[0, query]) * torch.sigmoid(out.presence_logits[0, 0]))
        x1, y1, x2, y2 = out.pred_boxes[0, query].tolist()
        box = [max(0, x1 * width), max(0, y1 * height), min(width, x2 * width), min(height, y2 * height)]
        mask = PIL.Image.fromarray(torch.sigmoid(out.pred_masks[0, query]).numpy(), mode="F")
        found.append((score, box, np.asarray(mask.resize((width, height), PIL.Image.Resampling.BILINEAR))))
    return sorted(found, key=lambda entry: -entry[0])


def test_scores_boxes_and_masks_equal_an_unbatched_pass(folder: Path) -> None:
    model = loaded(str(folder), max_batch=2)
    assert isinstance(model, Concepts)
    for image, name, found in zip(IMAGES, NAMES, model.find(IMAGES, NAMES, threshold=0.0), strict=True):
        expected = [e for e in reference(folder, image, name) if e[1][0] < e[1][2] and e[1][1] < e[1][3]]
        assert len(found) == len(expected) > 2
        for instance, (score, box, soft) in zip(found, expected, strict=True):
            assert instance.score == pytest.approx(score, abs=1e-5)
            np.testing.assert_allclose(instance.box.as_tuple(), box, atol=1e-2)
            assert instance.soft.shape == image.shape[:2]
            assert instance.soft.dtype == np.float32
            np.testing.assert_allclose(instance.soft[4:-4, 4:-4], soft[4:-4, 4:-4], atol=2e-2)


def test_the_threshold_cuts_and_the_name_and_image_count(folder: Path) -> None:
    model = loaded(str(folder))
    (everything,) = model.find(IMAGES[:1], ["moth"], threshold=0.0)
    middle = everything[2].score
    (some,) = model.find(IMAGES[:1], ["moth"], threshold=middle)
    assert [i.score for i in some] == [i.score for i in everything if i.score > middle]
    (other,) = model.find(IMAGES[:1], ["gecko"], threshold=0.0)
    assert other[0].score != everything[0].score
    with pytest.raises(ValueError, match="not for a blank"):
        model.find(IMAGES[:1], [" . "], threshold=0.0)
    with pytest.raises(ValueError, match="lists of one length"):
        model.find(IMAGES, ["moth"], threshold=0.0)
    assert model.find([], [], threshold=0.0) == []


def test_the_strategy_runs_on_a_profile_that_names_the_model(profile: Path, folder: Path) -> None:
    suite = load_suite(profile, device="cpu", offline=True, overrides={"concepts.id": str(folder)})
    config = default_config("sam3", {"sam3": {"threshold": 0.0}})
    results = make_strategy("sam3", suite, config).segment(IMAGES, TaskPrompt("camouflaged animal"))
    for image, result in zip(IMAGES, results, strict=True):
        assert result.trace.calls == {"concepts": 1}
        assert result.size == image.shape[:2]
        assert result.trace.iterations[0].box_source == "sam3"
        assert result.instances or result.reason


def test_the_model_belongs_to_the_fingerprint_only_where_it_is_named(profile: Path, folder: Path) -> None:
    plain, with_model = read_profile(profile), read_profile(profile, {"concepts.id": str(folder)})
    assert plain.concepts is None
    assert profile_fingerprint(plain) != profile_fingerprint(with_model)
    assert plain.roles == ("vlm", "inpainter", "detector", "segmenter", "text_image")
    assert with_model.roles[-1] == "concepts"
    with pytest.raises(ProfileError, match="overrides nothing"):
        read_profile(profile, {"concept.id": "x"})


def test_the_shipped_profile_says_whose_licence_it_needs() -> None:
    profile = read_profile("sam3")
    assert profile.concepts is not None
    assert profile.concepts.id == "facebook/sam3"
    assert "gated" in profile.meta.licences["concepts"]
    beside = read_profile("llava-16gb")
    assert all(getattr(profile, role) == getattr(beside, role) for role in beside.roles)


def test_absent_gated_weights_say_how_they_are_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"accept the SAM License on https://huggingface.co/facebook/sam3 .*hf auth login"
    ):
        loaded("facebook/sam3")
    with pytest.raises(WeightsError) as absent:
        loaded(str(tmp_path / "nowhere"))
    assert "License" not in str(absent.value)


def test_other_models_are_refused(profile: Path) -> None:
    with pytest.raises(WeightsError, match="cannot use a model of the type 'sam'"):
        loaded(str(profile.parent / "sam"))
