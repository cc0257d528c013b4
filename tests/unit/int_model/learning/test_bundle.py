from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.learning.adaptation import Adaptation, Calibration, Outline, Probe, Weights
from int_model.learning.bundle import BundleError, Manifest, bundle_id, pack, read_manifest, unpack

MANIFEST = Manifest(base="abc", data="d1", arm="plm", images=16, settings={"seed": 3}, figures={"gain": 0.1})


def everything() -> Adaptation:
    rng = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    return Adaptation(
        outlines={"polyp": Outline(2, 0.5, -0.03), "cell": Outline()},
        boxed={"cell": Outline(0)},
        probes={"cell": Probe(array(12), 0.25, array(12), array(12), 0.4)},
        calibrations={"cell": Calibration(np.array([0.1, 0.9]), np.array([0.0, 0.7]))},
        weights=Weights("plm", {"out.weight": array(4, 4), "out.bias": array(4)}, ("cell", "polyp")),
        refiner={"steps.0.place": array(3, 2)},
    )


def test_a_bundle_comes_back_as_it_was_and_its_name_is_its_content() -> None:
    data = pack(everything(), MANIFEST)
    assert pack(everything(), MANIFEST) == data
    found, manifest = unpack(data, base="abc")
    want = everything()
    assert (found.outlines, found.boxed, found.labels) == (want.outlines, want.boxed, want.labels)
    assert (manifest.arm, manifest.images, manifest.settings) == ("plm", 16, {"seed": 3})
    assert found.probes["cell"].threshold == 0.4
    assert np.array_equal(found.probes["cell"].weights, want.probes["cell"].weights)
    assert found.calibrations["cell"](0.5) == pytest.approx(0.35)
    assert found.weights is not None
    assert want.weights is not None
    assert (found.weights.kind, found.weights.labels) == ("plm", ("cell", "polyp"))
    assert all(np.array_equal(found.weights.tensors[name], value) for name, value in want.weights.tensors.items())
    assert found.refiner is not None
    assert list(found.refiner) == ["steps.0.place"]
    other = pack(everything(), Manifest(base="abc", data="d2", arm="plm"))
    assert bundle_id(other) != bundle_id(data)


def test_the_identity_is_a_bundle_too() -> None:
    found, _ = unpack(pack(Adaptation(), MANIFEST), base="abc")
    assert found.labels == ()
    assert found.decodes_as_base("x")


def test_another_segmenter_refuses_it_and_says_what_to_do() -> None:
    with pytest.raises(BundleError, match=r"another segmenter .*choose the profile.*train again"):
        unpack(pack(everything(), MANIFEST), base="xyz")


def test_a_newer_schema_is_refused() -> None:
    data = pack(Adaptation(), Manifest(base="abc", data="", arm="base", schema=2))
    with pytest.raises(BundleError, match="upgrade int-backend"):
        read_manifest(data)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_bundle_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        unpack(data, base="abc")


@given(st.integers(0, 4000), st.integers(1, 255))
def test_a_damaged_bundle_is_refused_or_equal(position: int, change: int) -> None:
    data = bytearray(pack(everything(), MANIFEST))
    data[position % len(data)] ^= change
    try:
        found, _ = unpack(bytes(data), base="abc")
    except BundleError:
        return
    assert isinstance(found, Adaptation)  # a flipped bit of a number is a number: the name of the bundle tells


def test_the_manifest_is_read_without_the_tensors() -> None:
    data = pack(everything(), MANIFEST)
    length = int.from_bytes(data[:8], "little")
    assert read_manifest(data[: 8 + length]).data == "d1"
    assert json.loads(data[8 : 8 + length])["__metadata__"]
