"""bitsandbytes needs CUDA; which layers it would replace is decided by names, and the names are here."""

from __future__ import annotations

import importlib.machinery
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.quantizers.quantizers_utils import should_convert_module

from int_model.models.adapters import quantisation as quantising
from int_model.models.profile import VisionLanguageRole
from int_model.models.weights import Source, WeightsError


@pytest.fixture
def llava(profile: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(profile.parent / "vlm")


@pytest.fixture
def source(profile: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """As on a machine with CUDA and bitsandbytes."""
    monkeypatch.setattr(quantising, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    settings = VisionLanguageRole(id=str(profile.parent / "vlm"))
    return replace(Source.of("vlm", settings, device=torch.device("cpu"), offline=True), device=torch.device("cuda"))


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_all_of_the_language_model_and_nothing_else_is_quantised(source: Source, llava: Any, kind: Any) -> None:
    skip = quantising.quantisation(kind, source).llm_int8_skip_modules
    layers = [name for name, module in llava.named_modules() if isinstance(module, nn.Linear)]
    chosen = {name for name in layers if should_convert_module(name, skip)}
    assert chosen == {name for name in layers if name.startswith("model.language_model.")}
    assert len(chosen) < len(layers)


def test_other_families_are_told_apart_too(idefics: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(idefics)
    assert quantising.beside_language_model(model) == ["model.vision_model", "model.connector", "lm_head"]


class Packed(nn.Linear):
    """Stands for a quantised layer."""


LANGUAGE = "model.language_model.layers.0.mlp.up_proj"
Packed.__module__ = "bitsandbytes.nn.modules"


@pytest.mark.parametrize(
    ("layers", "fault"),
    [
        (["model.language_model.layers.0.mlp.up_proj"], None),
        (
            ["model.language_model.layers.0.mlp.up_proj", "model.multi_modal_projector.linear_1"],
            "multi_modal_projector",
        ),
        ([], "no layer"),
    ],
)
def test_what_was_quantised_is_checked_after_loading(llava: Any, layers: list[str], fault: str | None) -> None:
    for name in layers:
        llava.set_submodule(name, Packed(2, 2))
    if fault is None:
        quantising.check_quantised(llava, "vlm")
    else:
        with pytest.raises(WeightsError, match=rf"{fault}.*vlm\.quantize"):
            quantising.check_quantised(llava, "vlm")
