from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from int_model.masks.components import components, linked_groups, remove_small_components
from tests.unit.int_model.masks.shapes import blobs, noise

pairs = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20)


@settings(deadline=None)
@given(noise | blobs())
def test_components_are_the_8_connected_parts_largest_first(mask: np.ndarray) -> None:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    found = list(components(mask))
    assert sorted(part.area for part in found) == sorted(np.bincount(labels.ravel())[1:].tolist())
    assert [part.area for part in found] == sorted((part.area for part in found), reverse=True)
    again = np.zeros(mask.shape, int)
    for part in found:
        assert part.area == part.shape.sum()
        assert len(set(labels[part.slices][part.shape])) == 1
        again[part.slices] += part.shape
    np.testing.assert_array_equal(again, mask)
    assert len(found) == count


@settings(deadline=None)
@given(noise | blobs(), st.integers(0, 60))
def test_small_components_go_but_never_the_largest(mask: np.ndarray, min_area: int) -> None:
    got = remove_small_components(mask, min_area)
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    large = [i for i in range(1, len(areas)) if areas[i] >= min_area] or [int(areas.argmax())]
    np.testing.assert_array_equal(got, np.isin(labels, large) & mask)


@given(pairs)
def test_groups_are_numbered_by_their_first_members(links: list[tuple[int, int]]) -> None:
    groups = linked_groups(12, [a for a, _ in links], [b for _, b in links]).tolist()
    assert list(dict.fromkeys(groups)) == list(range(max(groups) + 1))
    sets = [{i} for i in range(12)]
    for a, b in links:
        merged = sets[a] | sets[b]
        for member in merged:
            sets[member] = merged
    assert all((groups[a] == groups[b]) == (b in sets[a]) for a in range(12) for b in range(12))


def test_nothing_has_no_groups() -> None:
    assert linked_groups(0, [], []).tolist() == []
