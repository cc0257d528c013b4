"""Targets, matching, losses and proposals of the point generator against figures worked out here, without a model."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from int_model.learning.ppt import proposals as proposing
from int_model.learning.ppt.losses import LossWeights, contrast_loss, mask_losses, match, point_losses, sampled
from int_model.learning.ppt.proposals import Clicking, Proposals, crop_features, crop_of, overlap, propose
from int_model.learning.ppt.soft_points import soft_tokens, strongest
from int_model.learning.ppt.targets import eroded, point_targets, spread
from int_model.point_prompting.generator.network import Points
from tests.unit.int_model.learning.conftest import disc

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def entropy(share: float, truth: float) -> float:
    return -(truth * math.log(share) + (1 - truth) * math.log(1 - share))


# ------------------------------------------------------------------ matching and the losses of points


def cheapest(xy: Array, share: Array, groups: Array, labels: Array) -> tuple[float, dict[int, int]]:
    """Every assignment of queries to groups, and of a query's points to a group's, tried."""
    best: tuple[float, dict[int, int]] = (math.inf, {})
    for queries in itertools.permutations(range(len(xy)), len(groups)):
        cost = 0.0
        for g, q in enumerate(queries):
            orders = itertools.permutations(range(xy.shape[1]))
            cost += 5 * min(np.abs(xy[q] - groups[g][list(order)]).sum(-1).mean() for order in orders)
            cost += 2 * (1 - share[q] if labels[g] == 1 else share[q])
        if cost < best[0]:
            best = cost, {q: g for g, q in enumerate(queries)}
    return best


@pytest.mark.parametrize("points", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_match_is_the_cheapest_of_all(points: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    xy, share = rng.random((5, points, 2), dtype=np.float32), rng.random(5, dtype=np.float32)
    groups, labels = rng.random((3, points, 2), dtype=np.float32), np.array([1, 0, 1], dtype=np.float32)
    found = match(xy, share, groups, labels)
    _, expected = cheapest(xy, share, groups, labels)
    assert dict(zip(found.queries.tolist(), found.groups.tolist(), strict=True)) == expected
    for query, group, order in zip(found.queries, found.groups, found.orders, strict=True):
        told = np.abs(xy[query] - groups[group][order]).sum()
        others = itertools.permutations(range(points))
        assert told == pytest.approx(min(np.abs(xy[query] - groups[group][list(other)]).sum() for other in others))


def test_losses_of_points_by_hand() -> None:
    """Two pairs of weights 1 and 0.5; in the first two queries are matched, in the second one."""
    xy = np.array([[[[0.1, 0.1]], [[0.5, 0.5]], [[0.9, 0.2]]], [[[0.3, 0.3]], [[0.7, 0.7]], [[0.2, 0.9]]]], np.float32)
    logits = np.array([[1.0, -0.5, 0.3], [0.8, -1.0, 0.2]], np.float32)
    targets = [
        (np.array([[[0.12, 0.1]], [[0.5, 0.46]]], np.float32), np.array([1, 1], np.float32)),
        (np.array([[[0.7, 0.72]]], np.float32), np.array([0], np.float32)),
    ]
    inside = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], np.float32)[..., None]
    how, p = LossWeights(spread=0), sigmoid(logits)
    first = 5 * (0.02 + 0.04) / 2 + 2 * (entropy(p[0, 0], 1) + entropy(p[0, 1], 1)) / 2 + 2 * 0.1 * entropy(p[0, 2], 1)
    second = 5 * 0.02 + 2 * entropy(p[1, 1], 0) + 2 * 0.1 * (entropy(p[1, 0], 0) + entropy(p[1, 2], 0)) / 2
    told = point_losses(
        Points(torch.from_numpy(xy), torch.from_numpy(logits)), targets, torch.from_numpy(inside),
        torch.tensor([1.0, 0.5]), how,
    )  # fmt: skip
    assert float(told) == pytest.approx((first + 0.5 * second) / 1.5, rel=1e-5)


@pytest.mark.parametrize("gap", [0.02, 0.05, 0.079])
def test_crowding_falls_evenly_to_nothing_at_a_twelfth_of_the_side_and_counts_positives_of_one_pair(gap: float) -> None:
    xy = np.array([[0.4, 0.5], [0.4 + gap, 0.5], [0.9, 0.5], [0.9, 0.5]], np.float32)[:, None]
    labels = np.array([1, 1, 0, 0], np.float32)
    only = LossWeights(place=0, confidence=0, spread=1)
    said = Points(torch.from_numpy(np.stack([xy, xy])), torch.tensor([[9.0, 9, -9, -9]] * 2))
    told = point_losses(said, [(xy, labels)] * 2, torch.zeros(2, 4, 1), torch.ones(2), only)
    assert float(told) == pytest.approx(1 - gap / 0.08, abs=1e-3)


def test_losses_of_masks_by_hand() -> None:
    rng = np.random.default_rng(1)
    logits, truth = rng.normal(0, 2, (2, 5, 6)), (rng.random((2, 5, 6)) > 0.5).astype(float)
    inside = np.ones((2, 5, 6))
    inside[:, 4:] = 0
    focals, dices = [], []
    for one, t, i in zip(logits, truth, inside, strict=True):
        p = sigmoid(one)
        focal = np.where(t == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
        focals.append(float((focal * i).sum() / i.sum()))
        both = (p * i * t).sum()
        dices.append(float(1 - (2 * both + 1) / ((p * i).sum() + (t * i).sum() + 1)))
    tensors = [torch.from_numpy(part) for part in (logits, truth, inside)]
    both_count = mask_losses(*tensors, torch.tensor([1.0, 0.25], dtype=torch.float64))
    each = [20 * focal + dice for focal, dice in zip(focals, dices, strict=True)]
    assert float(both_count) == pytest.approx((each[0] + 0.25 * each[1]) / 1.25, rel=1e-6)
    first_counts = mask_losses(*tensors, torch.tensor([1.0, 0.0], dtype=torch.float64), focal=2.0)
    assert float(first_counts) == pytest.approx(2 * focals[0] + dices[0], rel=1e-6)
    assert LossWeights().focal == 20, "the default of both"


def test_the_contrast_of_features_under_masks_by_hand() -> None:
    rng = np.random.default_rng(2)
    soft, patches, texts = rng.random((3, 2, 4)), rng.normal(size=(3, 2, 4, 5)), rng.normal(size=(3, 5))
    same = np.eye(3, dtype=bool)
    same[0, 2] = same[2, 0] = True
    pooled = (patches * soft[..., None]).sum((1, 2)) / soft.sum((1, 2))[:, None]
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    scores = pooled @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T / 0.07
    losses = []
    for i in range(3):
        rivals = [j for j in range(3) if j == i or not same[i, j]]
        losses.append(-scores[i, i] + np.log(np.exp(scores[i, rivals]).sum()))
    told = contrast_loss(*(torch.from_numpy(part) for part in (soft, patches, texts)), torch.from_numpy(same))
    assert float(told) == pytest.approx(np.mean(losses), rel=1e-6)


def test_maps_are_read_at_points_of_queries_as_at_single_ones() -> None:
    maps = torch.arange(32.0).reshape(2, 4, 4)
    xy = torch.tensor([[[[0.25, 0.5], [1.0, 1.0]], [[0.75, 0.25], [0.5, 0.5]]]] * 2)
    reach = torch.tensor([[1.0, 1.0], [0.5, 0.75]])
    found = sampled(maps, xy, reach)
    assert found.shape == (2, 2, 2)
    for b in range(2):
        for q in range(2):
            for p in range(2):
                x, y = (xy[b, q, p] * reach[b] * 4 - 0.5).clamp(0, 3).tolist()
                assert float(found[b, q, p]) == pytest.approx(16 * b + 4 * y + x, abs=1e-4)


# ------------------------------------------------------------------ points as prompts


class Encoder:
    """SAM's prompt encoder, with places and kinds that can be told from one another."""

    def __init__(self) -> None:
        self.point_embed = [SimpleNamespace(weight=torch.full((1, 3), value)) for value in (100.0, 200.0)]
        self.not_a_point_embed = SimpleNamespace(weight=torch.full((1, 3), -7.0))
        self.asked: list[Any] = []

    def shared_embedding(self, points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        self.asked.append((points.tolist(), size))
        return torch.cat([points, points[..., :1]], dim=-1)


def test_a_token_lies_between_that_of_a_positive_and_that_of_a_negative_point() -> None:
    """Spec B.2: PE(xy) + p e_pos + (1 - p) e_neg."""
    encoder = Encoder()
    sam: Any = SimpleNamespace(prompt_encoder=encoder, side=64)
    square = torch.tensor([[[10.0, 20.0], [30.0, 40.0]]])
    share = torch.tensor([[1.0, 0.25]])
    found = soft_tokens(sam, square, share)
    assert encoder.asked == [([[[[10.5, 20.5], [30.5, 40.5]]]], (64, 64))]
    assert found[0, 0].tolist() == [210.5, 220.5, 210.5]
    assert found[0, 1].tolist() == [30.5 + 125, 40.5 + 125, 30.5 + 125]
    assert found[0, 2].tolist() == [-7.0] * 3
    without = soft_tokens(sam, square, share, negatives=False)
    assert without[0, 1].tolist() == pytest.approx([0.25 * 230.5 - 0.75 * 7, 0.25 * 240.5 - 0.75 * 7, 52.375])


def test_the_strongest_of_each_row_are_its_own_and_few_points_are_all_taken() -> None:
    share = torch.tensor([[0.9, 0.1, 0.5, 0.8, 0.2], [0.3, 0.6, 0.7, 0.5, 0.4]])
    xy = torch.arange(20.0).view(2, 5, 2)
    kept, shares = strongest(xy, share, 1)
    assert shares.tolist() == [pytest.approx([0.9, 0.1]), pytest.approx([0.7, 0.3])]
    assert kept.tolist() == [[[0, 1], [2, 3]], [[14, 15], [10, 11]]]
    assert strongest(xy[:, :4], share[:, :4], 2)[1].tolist() == share[:, :4].tolist()


# ------------------------------------------------------------------ targets


def test_points_are_spread_each_as_far_from_all_others_as_can_be() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[5, 5] = mask[5, 50] = mask[35, 5] = mask[35, 50] = mask[20, 27] = True
    for seed in range(6):
        found = spread(mask, 4, np.random.default_rng(seed)).tolist()
        first = found[0]
        left = [[float(x), float(y)] for y, x in np.argwhere(mask) if [x, y] != first]
        taken = [first]
        while len(taken) < 4:
            farthest = max(left, key=lambda one: min(math.dist(one, other) for other in taken))
            left.remove(farthest)
            taken.append(farthest)
        assert found == taken
    assert len(spread(mask, 9, np.random.default_rng(0))) == 5, "no pixel twice"
    assert spread(mask & False, 3, np.random.default_rng(0)).shape == (0, 2)
    assert spread(mask, 0, np.random.default_rng(0)).shape == (0, 2), "none are asked for"


def test_a_rim_of_three_hundredths_of_the_size_is_left_out_and_one_pixel_at_least() -> None:
    def square(side: int) -> Array:
        mask = np.zeros((side + 20, side + 20), np.bool_)
        mask[10:-10, 10:-10] = True
        return mask

    for side, rim in ((20, 1), (100, 3), (1, 0), (2, 0)):
        assert eroded(square(side)).sum() == (side - 2 * rim) ** 2
    assert eroded(square(100), 0.055).sum() == 90**2
    edge = np.ones((30, 30), np.bool_)
    assert eroded(edge).sum() == 28**2, "beyond the image is outside"


def test_where_targets_lie() -> None:
    """Half of the negatives in a ring of 5 to 25 % of the object's size, half on the others in turn."""
    mask, small, large = disc((96, 96), 40, 40, 20), disc((96, 96), 85, 20, 5), disc((96, 96), 80, 80, 10)
    size = math.sqrt(mask.sum())
    for seed in range(8):
        found = point_targets(mask, [small, large], (96, 96), np.random.default_rng(seed), positives=5, negatives=8)
        cells = (found.points * 96).astype(int)
        assert np.allclose(found.points * 96 % 1, 0.5), "a cell's centre"
        assert found.labels.tolist() == [1.0] * 5 + [0.0] * 8
        assert eroded(mask)[cells[:5, 1], cells[:5, 0]].all()
        on = [int(other[cells[5:, 1], cells[5:, 0]].sum()) for other in (small, large)]
        assert on == [2, 2]
        beside = [cell for cell in cells[5:] if not (small | large)[cell[1], cell[0]]]
        away = [math.dist(cell + 0.5, (40, 40)) - 20 for cell in beside]
        assert len(beside) == 4
        assert min(away) > 0.05 * size - 1.2
        assert max(away) < 0.25 * size + 1.2
    shown = point_targets(mask[:60], [small[:60]], (60, 90), np.random.default_rng(0), positives=2, negatives=0)
    assert len(shown.points) == 2
    scaled = shown.points * (90, 60)
    assert all(mask[int(y), int(x)] for x, y in scaled)
    odd = point_targets(None, [small, large], (96, 96), np.random.default_rng(0), positives=2, negatives=3)
    cells = (odd.points * 96).astype(int)
    assert [int(other[cells[:, 1], cells[:, 0]].sum()) for other in (small, large)] == [3, 2]
    by_default = point_targets(mask, [], (96, 96), np.random.default_rng(0))
    assert by_default.labels.tolist() == [1.0] * 6 + [0.0] * 6


# ------------------------------------------------------------------ proposals


class Squares:
    """A gallery and the masks that clicks on it give; the image fills all cells but the lowest two rows."""

    sam = SimpleNamespace(device="cpu")

    def __init__(self, masks: list[Array], quality: list[float], per_image: int = 4) -> None:
        self.masks, self.quality, self.per_image = np.stack(masks), quality, per_image
        self.clicks: list[tuple[int, list[float]]] = []

    def shown(self, _image: int) -> tuple[int, int]:
        return 18, 20

    def fine(self, mask: Array, _number: int) -> Array:
        return mask

    def decode(
        self, _gallery: Any, images: list[int], xy: torch.Tensor, share: torch.Tensor, *, slots: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert tuple(slots) == (1, 2, 3)
        assert bool((share == 1).all())
        self.clicks += [(image, point) for image, (point,) in zip(images, xy.tolist(), strict=True)]
        count = len(images)
        logits = torch.full((count, 3, 20, 20), -1.0)
        quality = torch.zeros(count, 3)
        for row in range(count):
            for slot in range(3):
                index = (row % self.per_image) * 3 + slot
                if index < len(self.masks):
                    logits[row, slot] = torch.from_numpy(np.where(self.masks[index], 0.5, -0.5))
                    quality[row, slot] = self.quality[index]
        return logits, quality


def box(x1: int, y1: int, x2: int, y2: int) -> Array:
    mask = np.zeros((20, 20), np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


MASKS = [
    box(2, 2, 8, 8),
    box(2, 2, 8, 7),  # the first is the same thing, of which it covers 5/6
    box(2, 2, 8, 5),  # 3/5 of that: another
    box(12, 12, 18, 18),
    box(10, 2, 11, 3),  # 1 of 360 cells: too small
    box(1, 1, 19, 17),  # 288 of 360: too large
    box(12, 3, 16, 7),  # too bad
    box(0, 0, 20, 3) | box(0, 0, 3, 18),  # two sides, and the ends of two others as well
]
QUALITY = [0.9, 0.95, 0.7, 0.6, 0.99, 0.99, 0.59, 0.99]


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> Squares:
    made = Squares(MASKS, QUALITY)
    monkeypatch.setattr(proposing, "decode_points", made.decode)
    return made


def test_proposals_are_good_neither_small_nor_large_apart_and_the_best_first(squares: Squares) -> None:
    steps: list[tuple[int, int]] = []
    gallery: Any = squares
    found = propose(gallery, [4, 7, 9], Clicking(grid=2), lambda *step: steps.append(step), batch=9)
    assert squares.clicks[:4] == [(4, [x, y]) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    assert [image for image, _ in squares.clicks] == [4] * 4 + [7] * 4 + [9] * 4
    assert steps == [(2, 3), (3, 3)], "two images at once"
    for one in found:
        assert one.quality.tolist() == pytest.approx([0.95, 0.7, 0.6])
        for mask, index in zip(one.masks, (1, 2, 3), strict=True):
            assert np.array_equal(mask, MASKS[index])


def test_limits_of_proposals_are_options(squares: Squares) -> None:
    gallery: Any = squares

    def kept(**options: Any) -> list[int]:
        (one,) = propose(gallery, [0], Clicking(grid=2, **options))
        return [next(i for i, mask in enumerate(MASKS) if np.array_equal(mask, own)) for own in one.masks]

    assert kept(same=0.9) == [1, 0, 2, 3]
    assert kept(most=2) == [1, 2]
    assert kept(smallest=1 / 360) == [4, 1, 2, 3]
    assert kept(largest=0.8) == [5, 1, 2, 3]
    assert kept(sides=4) == [7, 1, 2, 3]
    assert kept(least_quality=0.5) == [1, 2, 3, 6]


def test_of_equally_good_ones_the_first_120_stay_in_the_order_of_the_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [box(x, y, x + 2, y + 1) for y in range(18) for x in range(0, 20, 2)][:147]
    made: Any = Squares(pieces, [0.8] * 147, per_image=49)
    monkeypatch.setattr(proposing, "decode_points", made.decode)
    (found,) = propose(made, [0], Clicking(grid=7, smallest=0.0, most=200))
    np.testing.assert_array_equal(found.masks, pieces[:120])


def test_a_crop_shows_the_mask_sharply_in_its_blurred_surroundings() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    mask = np.zeros((60, 80), np.bool_)
    mask[20:40, 30:50] = True
    cut = crop_of(image, mask)
    assert cut is not None
    assert cut.shape == (28, 28, 3), "a fifth of its sides around it"
    assert np.array_equal(cut[4:24, 4:24], image[20:40, 30:50])
    rim = np.ones((28, 28), np.bool_)
    rim[4:24, 4:24] = False
    assert cut[rim].std() < 0.4 * image.std()
    assert crop_of(image, mask & False) is None
    at_edge = crop_of(image, np.roll(mask, (-20, -30), axis=(0, 1)), margin=0.5)
    assert at_edge is not None
    assert at_edge.shape == (30, 30, 3)


def test_features_of_crops_come_image_by_image_from_few_calls() -> None:
    calls: list[int] = []

    class Clip:
        def embed_images(self, crops: list[Array]) -> Array:
            calls.append(len(crops))
            return np.array([[float(crop.mean())] for crop in crops], dtype=np.float32)

    clip: Any = Clip()
    gallery: Any = Squares(MASKS, QUALITY)
    images = [np.full((20, 20, 3), 10 * i, np.uint8) for i in range(5)]
    counts = [2, 0, 3, 1, 1]
    pictures = [(i, images[i], Proposals(np.stack(MASKS)[:n], np.ones(n))) for i, n in enumerate(counts)]
    found = list(crop_features(clip, gallery, iter(pictures), batch=4))
    assert [len(one) for one in found] == counts
    assert [set(one[:, 0].round().tolist()) for one in found] == [{0}, set(), {20}, {30}, {40}]
    assert calls == [5, 2]
    nothing = [(0, images[3], Proposals(np.zeros((1, 20, 20), np.bool_), np.ones(1)))]
    assert next(crop_features(clip, gallery, iter(nothing))).tolist() == [[30.0]], "the whole image stands for no mask"


def test_overlap_of_masks() -> None:
    assert overlap(MASKS[0], MASKS[1]) == pytest.approx(5 / 6)
    assert overlap(MASKS[0], MASKS[3]) == 0
    assert overlap(MASKS[0] & False, MASKS[0] & False) == 0
    assert overlap(box(4, 4, 5, 5), box(4, 4, 5, 5)) == 1
