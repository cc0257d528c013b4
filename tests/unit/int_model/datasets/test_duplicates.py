"""Perceptual hashes, groups of near-duplicates against all pairs, and splits that never part a group."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from int_model.datasets.duplicates import distance, near_duplicate_groups, perceptual_hash
from int_model.datasets.splits import assign_splits


def photo(seed: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(rough, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PilImage.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(PilImage.open(buffer))


CHANGES = {
    "half the size": lambda image: cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA),
    "another shape": lambda image: cv2.resize(image, (400, 250), interpolation=cv2.INTER_AREA),
    "strong JPEG": lambda image: as_jpeg(image, 15),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=0.8, beta=30),
    "noise": lambda image: (image + np.random.default_rng(1).normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8),
    "blur": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_survives_what_copies_suffer(change: str) -> None:
    distances = [distance(perceptual_hash(photo(i)), perceptual_hash(CHANGES[change](photo(i)))) for i in range(30)]
    assert np.percentile(distances, 90) <= 6, distances


def test_the_hash_tells_pictures_apart() -> None:
    hashes = [perceptual_hash(photo(seed)) for seed in range(60)]
    apart = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 8
    assert 27 < np.mean(apart) < 37, "unrelated hashes differ in half of their bits"


def test_the_hash_is_the_sign_of_low_frequencies() -> None:
    image = photo(3, (32, 32))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    expected = "".join("1" if bit else "0" for bit in [False, *bits[1:]])
    assert f"{perceptual_hash(image):064b}" == expected


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_flat_picture_has_hash_0(value: int) -> None:
    assert perceptual_hash(np.full((13, 50, 3), value, np.uint8)) == 0


@st.composite
def clustered(draw: st.DrawFn) -> list[int]:
    """Hashes near a few centres, so that groups chain and touch the limit."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    out = []
    for _ in range(draw(st.integers(0, 30))):
        value = draw(st.sampled_from(centres))
        for bit in draw(st.lists(st.integers(0, 63), max_size=9, unique=True)):
            value ^= 1 << bit
        out.append(value)
    return out


@given(clustered(), st.integers(0, 16))
def test_groups_are_those_of_all_pairs(hashes: list[int], limit: int) -> None:
    close = [[distance(a, b) <= limit for b in hashes] for a in hashes]
    count, expected = connected_components(
        coo_matrix(np.array(close).reshape(len(hashes), len(hashes))), directed=False
    )
    groups = near_duplicate_groups(hashes, limit)
    assert len(set(groups)) == (count if hashes else 0)
    assert len({*zip(groups, expected.tolist(), strict=True)}) == len(set(groups))
    assert sorted(set(groups)) == list(range(len(set(groups)))), "numbered from 0 by their first images"


@given(clustered(), st.data())
def test_equal_keys_share_a_group(hashes: list[int], data: st.DataObject) -> None:
    keys = [data.draw(st.sampled_from("abc")) for _ in hashes]
    groups = near_duplicate_groups(hashes, 4, together=[keys])
    for key in set(keys):
        assert len({group for group, own in zip(groups, keys, strict=True) if own == key}) == 1


@pytest.mark.parametrize("limit", [-1, 17])
def test_a_distance_that_makes_no_sense(limit: int) -> None:
    with pytest.raises(ValueError, match="0 to 16 bits"):
        near_duplicate_groups([1], limit)


groups_of_images = st.lists(st.integers(0, 12), max_size=60)
shares = st.sampled_from([{}, {"val": 0.2}, {"val": 0.1, "test": 0.3}, {"val": 0.5, "test": 0.49}, {"val": 0.01}])


@given(groups_of_images, shares, st.integers(0, 5))
def test_groups_never_straddle_splits(groups: list[int], wanted: dict[str, float], seed: int) -> None:
    names = [f"image {i}" for i in range(len(groups))]
    splits = assign_splits(groups, names, wanted, seed)
    assert set(splits) <= {"train", *wanted}
    for group in set(groups):
        assert len({split for split, own in zip(splits, groups, strict=True) if own == group}) == 1
    if groups:
        assert "train" in splits, "training keeps at least a group"
    sizes = [groups.count(group) for group in set(groups)]
    for name, share in wanted.items():
        room = round(share * len(groups))
        assert splits.count(name) <= max(room, *sizes, 0)
        if splits.count(name) > room:
            assert len({own for split, own in zip(splits, groups, strict=True) if split == name}) == 1


@given(groups_of_images, shares, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(
    groups: list[int], wanted: dict[str, float], seed: int, random: object
) -> None:
    names = [f"image {i}" for i in range(len(groups))]
    splits = dict(zip(names, assign_splits(groups, names, wanted, seed), strict=True))
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = assign_splits([groups[i] for i in order], [names[i] for i in order], wanted, seed)
    assert {names[i]: split for i, split in zip(order, shuffled, strict=True)} == splits


def test_single_images_are_split_exactly_and_by_the_seed() -> None:
    names = [str(i) for i in range(1000)]
    first = assign_splits(list(range(1000)), names, {"val": 0.2, "test": 0.1}, 0)
    assert (first.count("train"), first.count("val"), first.count("test")) == (700, 200, 100)
    assert first == assign_splits(list(range(1000)), names, {"val": 0.2, "test": 0.1}, 0)
    other = assign_splits(list(range(1000)), names, {"val": 0.2, "test": 0.1}, 1)
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 300


def test_two_images_give_one_to_validation() -> None:
    assert sorted(assign_splits([0, 1], ["a", "b"], {"val": 0.1}, 0)) == ["train", "val"]


@pytest.mark.parametrize("wanted", [{"val": 1.0}, {"val": -0.1}, {"val": 0.6, "test": 0.4}])
def test_shares_that_make_no_sense(wanted: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="together stay below 1"):
        assign_splits([0], ["a"], wanted, 0)
