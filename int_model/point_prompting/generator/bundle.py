"""A trained generator as a file: safetensors with a manifest in the header, checked against the models it meets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from int_model.core.types import Image
from int_model.models.protocols import ImageFeatures, Segmenter, TextImage
from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator

SCHEMA = 1
_MANIFEST = "manifest"
_PROBE_TEXT = "a photo of a fish"
_SIMILAR = 0.98  # cosine of the same model's features in another precision is above .999, another model's far below


class GeneratorError(ValueError):
    """The file is no generator, or one for other models; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedGenerator:
    """A generator that can be used.

    Attributes:
        network: in evaluation mode.
        most: points of a sign that it was trained to give the segmenter.
        negatives: whether it was trained with negative points.
        training: where it comes from: plan, steps, numbers of images, versions; for people.
        probes: features of the models that it was trained on, to tell others from them.
    """

    network: PointGenerator
    most: int
    negatives: bool
    training: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The file's bytes, weights in half precision; the same generator always gives the same bytes."""
        tensors = {f"network.{name}": value.half().contiguous() for name, value in self.network.state_dict().items()}
        tensors |= {f"probe.{name}": value.float().contiguous() for name, value in self.probes.items()}
        manifest = {
            "schema": SCHEMA,
            "method": "ppt",
            "settings": asdict(self.network.settings),
            "most": self.most,
            "negatives": self.negatives,
            "training": dict(self.training),
        }
        return bytes(save_tensors(dict(sorted(tensors.items())), {_MANIFEST: json.dumps(manifest, sort_keys=True)}))

    def check(self, clip: TextImage, segmenter: Segmenter) -> None:
        """Raise ``GeneratorError`` unless these are the models that it was trained on."""
        for name, value in probes_of(clip, segmenter if "segmenter" in self.probes else None).items():
            known = self.probes.get(name)
            if known is None:
                continue
            if known.shape != value.shape or torch.cosine_similarity(known, value, dim=0) < _SIMILAR:
                model = "CLIP" if name == "text" else "segmenter"
                raise GeneratorError(
                    f"this point generator was trained on another {model}: choose the profile that it was trained "
                    "with, or train one for this profile"
                )


def probes_of(clip: TextImage, segmenter: Segmenter | None) -> dict[str, torch.Tensor]:
    """Features by which the models are known again: of a fixed text and, with a segmenter, of a fixed picture."""
    found = {"text": torch.from_numpy(clip.embed_texts([_PROBE_TEXT])[0].astype(np.float32))}
    if isinstance(segmenter, ImageFeatures) and isinstance(segmenter, Segmenter):
        embedding = segmenter.encode([_picture()])[0]
        found["segmenter"] = torch.from_numpy(segmenter.features(embedding).mean(axis=(1, 2)).astype(np.float32))
    return found


def _picture() -> Image:
    """A fixed picture: two slopes of grey and a red square."""
    ys, xs = np.mgrid[:64, :64]
    picture = np.stack([xs * 4, ys * 4, (xs + ys) * 2], axis=-1).astype(np.uint8)
    picture[20:44, 20:44] = (200, 30, 30)
    return picture


def unpack(data: bytes) -> TrainedGenerator:
    """A generator from its file's bytes. Raises ``GeneratorError``."""
    try:
        manifest = _manifest(data)
        network = PointGenerator(GeneratorSettings(**manifest["settings"]))
        tensors = load_tensors(data)
        network.load_state_dict(_below(tensors, "network."))
    except GeneratorError:
        raise
    except Exception as error:
        raise GeneratorError(
            f"this file is no point generator, or a damaged one ({type(error).__name__}); give one that `ppt` trained"
        ) from error
    return TrainedGenerator(
        network.float().eval().requires_grad_(False),
        int(manifest["most"]),
        bool(manifest["negatives"]),
        manifest["training"],
        _below(tensors, "probe."),
    )


def _manifest(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest: dict[str, Any] = json.loads(header["__metadata__"][_MANIFEST])
    if manifest.get("method") != "ppt":
        raise GeneratorError("this file holds something else than a point generator; give one that `ppt` trained")
    if manifest["schema"] != SCHEMA:
        raise GeneratorError(
            f"the generator has schema {manifest['schema']}, this program reads {SCHEMA}: upgrade the program, or "
            "train again"
        )
    return manifest


def read(path: Path) -> TrainedGenerator:
    """A generator's file. Raises ``GeneratorError``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GeneratorError(
            f"the point generator {path} cannot be read ({error.strerror}): train one, or mend the path"
        ) from error
    return unpack(data)


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}
