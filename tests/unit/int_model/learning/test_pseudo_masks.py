"""Pseudo-masks of stage 1 by hand: heat maps on the cells, the choice among proposals, the look in the mirror."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from int_model.learning.ppt import pseudo_masks
from int_model.learning.ppt.proposals import Clicking, Proposals
from int_model.learning.ppt.pseudo_masks import Filters, best_masks, heat_maps, label_objects, on_square

CELLS = 8
Step = Callable[[int, int], None]


class Wide:
    """A gallery of images twice as wide as high: the upper half of the segmenter's square shows them."""

    cells = CELLS
    sam = SimpleNamespace(side=64)
    sees_segmenter, device, clip = True, "cpu", "clip"

    def __init__(self, similarity: dict[str, np.ndarray] | None = None) -> None:
        self.similarity = similarity or {}
        self.asked: list[list[int]] = []

    def to_square(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor([[64.0, 32.0]] * len(numbers))

    def inside(self, numbers: Sequence[int]) -> torch.Tensor:
        inner = torch.zeros(len(numbers), CELLS, CELLS)
        inner[:, : CELLS // 2] = 1
        return inner

    def seen(self, numbers: Sequence[int], texts: Sequence[str]) -> Any:
        self.asked.append(list(numbers))
        channels = np.zeros((len(texts), 2, 4, 4), np.float32)
        for row, text in enumerate(texts):
            channels[row, ..., 1] = self.similarity[text]  # of the head noun, scaled
        return SimpleNamespace(similarity=torch.from_numpy(channels))

    def texts(self, texts: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(maps=np.array([[9.0, 9.0], [1.0, 0.0]], np.float32)) for _ in texts]

    def fine(self, mask: np.ndarray, _number: int) -> np.ndarray:
        return mask


def placed(small: np.ndarray) -> np.ndarray:
    """A map of 2 x 4 over the image, on the cells that show it, one cell at a time."""
    out = np.zeros((CELLS, CELLS))
    for row in range(CELLS // 2):
        for column in range(CELLS):
            y, x = (row + 0.5) / (CELLS / 2) * 2 - 0.5, (column + 0.5) / CELLS * 4 - 0.5
            lines = [np.interp(x, range(4), line) for line in small]
            out[row, column] = np.interp(y, range(2), lines)
    return out


def test_a_map_over_the_image_lies_where_the_image_is() -> None:
    small = np.arange(8.0).reshape(2, 4) ** 2
    gallery: Any = Wide()
    (found,) = on_square(gallery, [3], torch.from_numpy(small).float()[None]).numpy()
    np.testing.assert_allclose(found, placed(small), atol=1e-4)
    assert not found[CELLS // 2 :].any()


def test_heat_is_the_upper_half_of_the_nouns_similarity() -> None:
    one, other = np.linspace(0, 1, 8).reshape(2, 4), np.full((2, 4), 0.75)
    fake = Wide({"one": one, "other": other})
    gallery: Any = fake
    found = heat_maps(gallery, [0, 1, 2], ["one", "other", "one"], batch=2)
    assert fake.asked == [[0, 1], [2]]
    assert found.dtype == np.float32
    for heat, small in zip(found, (one, other, one), strict=True):
        np.testing.assert_allclose(heat, placed(np.maximum(0, 2 * (small - 0.5))), atol=1e-5)


def box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((CELLS, CELLS), np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


LEFT, RIGHT = box(0, 0, 4, 4), box(4, 0, 8, 4)


@pytest.mark.parametrize(
    ("cosines", "quality", "best"),
    [
        ((0.30, 0.30), (0.8, 0.8), 0),  # the heat lies on the left
        ((0.30, 0.48), (0.8, 0.8), 1),  # exp(1.8) of CLIP outweighs it
        ((0.30, 0.42), (0.8, 0.8), 0),  # exp(1.2) does not
        ((0.30, 0.42), (0.5, 0.99), 1),  # with the segmenter's own opinion it does
    ],
)
def test_the_best_mask_is_what_clip_heat_and_segmenter_agree_on(
    cosines: tuple[float, float], quality: tuple[float, float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heat = np.array([[1.0, 1.0, 0.6, 0.6]] * 2)
    soft = placed(np.maximum(0, 2 * (heat - 0.5)))
    overlaps = [np.minimum(soft, mask).sum() / np.maximum(soft, mask).sum() for mask in (LEFT, RIGHT)]
    told = [
        math.exp(cosine / 0.1) * overlap * sure
        for cosine, overlap, sure in zip(cosines, overlaps, quality, strict=True)
    ]
    assert told.index(max(told)) == best
    proposals = [
        Proposals(np.stack([LEFT, RIGHT]), np.array(quality)),
        Proposals(np.zeros((0, 8, 8), bool), np.zeros(0)),
    ]
    pictures = [np.zeros((4, 8, 3), np.uint8)] * 2

    def features(_clip: Any, _gallery: Any, shown: Iterator[Any]) -> Iterator[np.ndarray]:
        for number, picture, own in shown:
            assert picture is pictures[number]
            assert own is proposals[number]
            yield np.array([[cosine, 5.0] for cosine in cosines], np.float32)[: len(own.masks)]

    monkeypatch.setattr(pseudo_masks, "propose", lambda gallery, numbers, how: proposals)
    monkeypatch.setattr(pseudo_masks, "crop_features", features)
    gallery: Any = Wide({"fish": heat})
    first, second = best_masks(gallery, [0, 1], pictures, ["fish", "fish"], Clicking())
    assert first is not None
    assert np.array_equal(first, (LEFT, RIGHT)[best])
    assert second is None, "nothing was proposed"


def test_a_mask_counts_where_the_mirrored_image_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[np.ndarray], Clicking]] = []

    class Mirror(Wide):
        def __init__(self, clip: Any, sam: Any, sees: Any, device: Any) -> None:
            super().__init__()
            assert (clip, sam, sees, device) == (Wide.clip, Wide.sam, True, "cpu")

        def add(self, pictures: Sequence[np.ndarray], step: Step | None) -> range:
            if step is not None:
                step(len(pictures), len(pictures))
            return range(len(pictures))

    class Own(Wide):
        def add(self, pictures: Sequence[np.ndarray], step: Step | None) -> range:
            if step is not None:
                step(1, len(pictures))
            return range(10, 10 + len(pictures))

    part = box(0, 0, 4, 3)  # 3/4 of the left
    looks = [[LEFT, LEFT, LEFT, None, LEFT], [LEFT[:, ::-1], part[:, ::-1], LEFT, RIGHT, None]]

    def best(gallery: Any, numbers: Any, pictures: Any, texts: Any, how: Clicking) -> list[Any]:
        asked.append((list(pictures), how))
        assert list(texts) == list("abcde")
        return looks[len(asked) - 1]

    monkeypatch.setattr(pseudo_masks, "Gallery", Mirror)
    monkeypatch.setattr(pseudo_masks, "best_masks", best)
    pictures = [np.random.default_rng(i).integers(0, 256, (4, 8, 3), dtype=np.uint8) for i in range(5)]
    steps: list[tuple[int, int]] = []
    own: Any = Own()
    found = label_objects(own, pictures, list("abcde"), Filters(agreement=0.75), lambda *step: steps.append(step))
    assert [(one.image, one.text) for one in found] == [(10, "a"), (11, "b")]
    assert all(np.array_equal(one.mask, LEFT) for one in found)
    assert steps == [(1, 10), (10, 10)], "both looks count"
    for picture, (mine, mirrored) in zip(pictures, zip(asked[0][0], asked[1][0], strict=True), strict=True):
        assert mine is picture
        assert np.array_equal(mirrored, picture[:, ::-1])
    assert asked[0][1] == asked[1][1] == Clicking(grid=6, smallest=0.01, largest=0.7, sides=2, most=12)
    asked.clear()
    assert [one.text for one in label_objects(own, pictures, list("abcde"), Filters(agreement=0.76))] == ["a"]
