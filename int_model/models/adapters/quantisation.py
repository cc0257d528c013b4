"""Vision-language models with 4 or 8 bits per weight, through bitsandbytes (CUDA only).

Only the language model is quantised: the image side is small and suffers most.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from int_model.models.weights import Source, WeightsError


def quantisation(kind: Literal["int8", "int4"], source: Source) -> BitsAndBytesConfig:
    """How to load the checkpoint of ``source``. Raises ``WeightsError`` without CUDA or bitsandbytes."""
    if find_spec("bitsandbytes") is None or source.device.type != "cuda":
        raise WeightsError(
            f"{source.role}.quantize = '{kind}' needs CUDA and the package bitsandbytes: install it or set "
            f"{source.role}.quantize to none"
        )
    config = source.read(AutoConfig.from_pretrained, "configuration")
    with torch.device("meta"):  # the modules' names, without their weights
        skeleton = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    keep = beside_language_model(skeleton)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=source.dtype,
        llm_int8_skip_modules=keep,
    )


def beside_language_model(model: Any) -> list[str]:
    """Full names of the largest modules without a part of the language model, e.g. ``model.vision_tower``, ``lm_head``.

    transformers compares a module to be skipped with the beginning of full names, so a bare ``vision_tower`` would not
    be enough.
    """
    decoder = model.get_decoder()

    def names(parent: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in parent.named_children():
            if not any(module is decoder for module in child.modules()):
                yield prefix + name
            elif child is not decoder:
                yield from names(child, f"{prefix}{name}.")

    return list(names(model, ""))


def check_quantised(model: Any, role: str) -> None:
    """Raise ``WeightsError`` unless layers of the language model, and no others, are quantised."""
    inside = {id(module) for module in model.get_decoder().modules()}
    packed = {n: m for n, m in model.named_modules() if type(m).__module__.startswith("bitsandbytes")}
    outside = [name for name, module in packed.items() if id(module) not in inside]
    if outside or not packed:
        what = f"also quantised {outside[0]}" if outside else "quantised no layer"
        raise WeightsError(f"bitsandbytes {what} of the role '{role}': set {role}.quantize to none")
