"""A version of what was learned, as bytes: safetensors with a manifest in their header, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from int_model.learning.adaptation import Adaptation, Calibration, Outline, Probe, Weights

SCHEMA = 1
_MANIFEST = "manifest"


class BundleError(ValueError):
    """The bytes are no bundle, or one that does not fit; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a bundle comes from.

    Attributes:
        base: fingerprint of the segmenter that it was trained on; another one refuses it.
        data: digest of the examples.
        arm: the arm that won.
        parent: id of the version that served before, "" for the base.
        images: number of annotated images.
        settings: seed, steps, rates and the like.
        libraries: versions of the libraries that trained it.
        figures: candidate and parent, as the gate saw them.
        adaptation: everything but the tensors.
    """

    base: str
    data: str
    arm: str
    parent: str = ""
    images: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    adaptation: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def pack(adaptation: Adaptation, manifest: Manifest) -> bytes:
    """A bundle; the same adaptation and manifest always give the same bytes."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    described: dict[str, Any] = {
        "outlines": {label: asdict(outline) for label, outline in sorted(adaptation.outlines.items())},
        "boxed": {label: asdict(outline) for label, outline in sorted(adaptation.boxed.items())},
        "calibrations": {
            label: {"scores": entry.scores.tolist(), "expected": entry.expected.tolist()}
            for label, entry in sorted(adaptation.calibrations.items())
        },
        "probes": {},
        "weights": None,
    }
    for index, (label, probe) in enumerate(sorted(adaptation.probes.items())):
        described["probes"][label] = {"index": index, "bias": probe.bias, "threshold": probe.threshold}
        for name in ("weights", "mean", "scale"):
            tensors[f"probe.{index}.{name}"] = np.ascontiguousarray(getattr(probe, name), dtype=np.float32)
    if adaptation.weights is not None:
        described["weights"] = {"kind": adaptation.weights.kind, "labels": list(adaptation.weights.labels)}
        for name, value in sorted(adaptation.weights.tensors.items()):
            tensors[f"weights.{name}"] = np.ascontiguousarray(value, dtype=np.float32)
    if adaptation.refiner is not None:
        for name, value in sorted(adaptation.refiner.items()):
            tensors[f"refiner.{name}"] = np.ascontiguousarray(value, dtype=np.float32)
    text = json.dumps({**asdict(manifest), "adaptation": described}, sort_keys=True)
    return bytes(save_tensors(tensors or {"none": np.zeros(1, dtype=np.float32)}, metadata={_MANIFEST: text}))


def bundle_id(data: bytes) -> str:
    """Twelve hexadecimal digits that name a bundle by its content."""
    return hashlib.sha256(data).hexdigest()[:12]


def read_manifest(data: bytes) -> Manifest:
    """The manifest alone. Raises ``BundleError``."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        values = json.loads(header["__metadata__"][_MANIFEST])
        manifest = Manifest(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"this is no bundle of learned weights ({error}); choose another version") from error
    if manifest.schema != SCHEMA:
        raise BundleError(
            f"the bundle has schema {manifest.schema}, this program reads {SCHEMA}: upgrade int-backend, or train again"
        )
    return manifest


def unpack(data: bytes, *, base: str) -> tuple[Adaptation, Manifest]:
    """What was learned, for a segmenter with the fingerprint ``base``.

    Raises:
        BundleError: the bytes are damaged, or were trained on another segmenter.
    """
    manifest = read_manifest(data)
    if manifest.base != base:
        raise BundleError(
            f"this version was trained on another segmenter ({manifest.base}, serving is {base}): choose the profile "
            "that it was trained with, or train again"
        )
    try:
        tensors = load_tensors(data)
        return _adaptation(manifest.adaptation, tensors), manifest
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"the bundle is damaged ({type(error).__name__}); choose another version") from error


def _adaptation(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> Adaptation:
    probes = {
        label: Probe(
            bias=float(entry["bias"]),
            threshold=float(entry["threshold"]),
            **{name: tensors[f"probe.{entry['index']}.{name}"] for name in ("weights", "mean", "scale")},
        )
        for label, entry in described["probes"].items()
    }
    calibrations = {
        label: Calibration(np.asarray(entry["scores"]), np.asarray(entry["expected"]))
        for label, entry in described["calibrations"].items()
    }
    weights = described["weights"]
    return Adaptation(
        outlines={label: Outline(**entry) for label, entry in described["outlines"].items()},
        boxed={label: Outline(**entry) for label, entry in described.get("boxed", {}).items()},
        probes=probes,
        calibrations=calibrations,
        weights=None
        if weights is None
        else Weights(weights["kind"], _below(tensors, "weights."), tuple(weights["labels"])),
        refiner=_below(tensors, "refiner.") or None,
    )


def _below(tensors: Mapping[str, np.ndarray[Any, Any]], prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
