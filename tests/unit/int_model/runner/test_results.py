"""What is kept of a segmentation comes back as it was, or is an error."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from int_model.core.types import Instance, Segmentation, Trace
from int_model.runner.results import StoredObject, StoredResult


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
def test_masks_survive_and_are_measured(mask: np.ndarray) -> None:
    found = StoredObject.of(mask, "name", 0.5)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.area == mask.sum()
    if found.area:
        rows, cols = np.nonzero(mask)
        assert found.box == (cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1)


def test_results_survive_as_bytes() -> None:
    mask = np.array([[False, True, True], [False, False, True]])
    found = StoredObject.of(mask, 'a "name"\n', 0.25)
    result = StoredResult((2, 3), (found, found), 0.5, "näme", 0.1, "", 1.5, "1")
    assert StoredResult.unpack(result.pack()) == result
    for payload in (b"", b"[]", zlib.compress(b"\0\0\0\2{}"), zlib.compress(b"\0\0\0\2[]"), result.pack()[:-4]):
        with pytest.raises(ValueError, match="the stored result cannot be read"):
            StoredResult.unpack(payload)


def test_of_a_segmentation_the_objects_names_and_scores_are_kept() -> None:
    mask = np.eye(4, dtype=np.bool_)
    segmentation = Segmentation((4, 4), "t", (Instance.of_mask(mask, "frog", 0.7),), 0.6, Trace("t", "s"), name="frog")
    result = StoredResult.of(segmentation, 1.23456, "9")
    (found,) = result.objects
    assert (found.name, found.score, result.score, result.name, result.contrast) == ("frog", 0.7, 0.6, "frog", None)
    assert (result.seconds, result.version) == (1.2346, "9")
    assert StoredObject.of(mask, "x", float("nan")).score == 0.0
