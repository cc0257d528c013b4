"""Reading a published file of tensors, renaming what is in it, and filling a network of transformers with it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from int_model.models.weights import Source, WeightsError

Tensors = dict[str, Tensor]
Rules = Sequence[tuple[str, str]]
_WRAPPERS = ("model", "state_dict")
_MLP = re.compile(
    r"^(.*(?:\.mlp|output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head))\.layers\.(\d+)\.(.*)$"
)


def read_tensors(location: str, **_: Any) -> Tensors:
    """A file's tensors by their names, without the wrappers of training scripts.

    Reads ``.safetensors``, and pickles of tensors (``.pth``, ``.pt``, ``.bin``). Code in a pickle is never run: what is
    beside the tensors may be numbers, texts and containers. Raises ``OSError``, ``ValueError``.
    """
    if Path(location).suffix == ".safetensors":
        return dict(load_file(location))
    try:
        content = torch.load(location, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message advises to load code from the file
        raise ValueError("it is no file of tensors") from None
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("it does not hold tensors by name")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def renamed(tensors: Mapping[str, Tensor], rules: Rules) -> Tensors:
    """The tensors under new names: every rule (pattern, replacement) is applied, one after the other."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    found = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in compiled:
            new = pattern.sub(replacement, new)
        found[new] = tensor
    return found


def named_layers(tensors: Mapping[str, Tensor]) -> Tensors:
    """Multi-layer heads ``layers.0 .. layers.n`` as transformers names them: ``proj_in``, ``layers``, ``proj_out``."""
    last: dict[str, int] = {}
    for name in tensors:
        if head := _MLP.match(name):
            last[head[1]] = max(last.get(head[1], 0), int(head[2]))
    found = {}
    for name, tensor in tensors.items():
        if head := _MLP.match(name):
            place = int(head[2])
            inner = "proj_in" if place == 0 else "proj_out" if place == last[head[1]] else f"layers.{place - 1}"
            name = f"{head[1]}.{inner}.{head[3]}"
        found[name] = tensor
    return found


def in_three(tensors: Mapping[str, Tensor], pattern: str, names: tuple[str, str, str]) -> Tensors:
    r"""Joint matrices of queries, keys and values cut into three of their own.

    Args:
        tensors: by name.
        pattern: of the joint tensors' names; its group ``kind`` is ``weight`` or ``bias``.
        names: the templates of the three new names, with the pattern's groups (``\1``, ``\g<kind>``).
    """
    joint = re.compile(pattern)
    found = {}
    for name, tensor in tensors.items():
        match = joint.match(name)
        if match is None:
            found[name] = tensor
            continue
        for template, part in zip(names, tensor.chunk(3), strict=True):
            found[match.expand(template)] = part.contiguous()
    return found


def without(tensors: Mapping[str, Tensor], beginnings: Iterable[str]) -> Tensors:
    """The tensors whose names begin otherwise."""
    unwanted = tuple(beginnings)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(unwanted)}


def count(names: Iterable[str], pattern: str) -> int:
    """How many numbered modules there are: one more than the largest first group of the pattern in a name.

    Raises ``KeyError`` with the pattern if there is none.
    """
    numbers = [int(found[1]) for name in names if (found := re.match(pattern, name))]
    if not numbers:
        raise KeyError(pattern.replace("\\", ""))
    return max(numbers) + 1


def told_by_shapes(source: Source, package: str, tell: Callable[[], Any]) -> Any:
    """``tell()``, the configuration that the shapes tell; a tensor that is not there is a ``WeightsError``."""
    try:
        return tell()
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"{source.location} is not a checkpoint of {package} (it has no tensor {error}): set {source.role}.id to "
            f"one, or {source.role}.kind to hf for a folder written by save_pretrained"
        ) from error


def network(source: Source, model_class: Any, config: Any, tensors: Tensors, **options: Any) -> Any:
    """A frozen network of transformers with these tensors, ready to run.

    The names are those of the checkpoints on the hub, which transformers itself brings to those of its classes. Raises
    ``WeightsError`` that names tensors which are missing, unknown or of another shape.
    """
    loaded, info = model_class.from_pretrained(
        None, config=config, state_dict=tensors, output_loading_info=True, dtype=source.dtype, **options
    )
    source.refuse_mismatch(info)
    return loaded.to(source.device).eval().requires_grad_(requires_grad=False)
