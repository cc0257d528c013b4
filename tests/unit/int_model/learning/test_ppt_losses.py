"""Matching, targets and losses of the point generator, through the bundled SAM that stays frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from int_model.learning.ppt.gallery import Gallery
from int_model.learning.ppt.losses import LossWeights, contrast_loss, mask_losses, match, point_losses, sampled
from int_model.learning.ppt.soft_points import decode_points, soft_tokens, strongest
from int_model.learning.ppt.targets import PointTargets, grouped, point_targets, spread
from int_model.learning.sam import TrainableSam
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.protocols import MaskPrompt
from int_model.models.suite import ModelSuite
from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator, Points
from tests.unit.int_model.learning.conftest import disc, drawn


@pytest.fixture(scope="module")
def gallery(nano: ModelSuite, segmenter: HFSamSegmenter) -> Gallery:
    made = Gallery(nano.text_image, TrainableSam(segmenter))
    made.add([drawn(1).image, drawn(2).image[:80]])
    return made


def network(gallery: Gallery, *, points: int = 1, seed: int = 0) -> PointGenerator:
    torch.manual_seed(seed)
    seen = gallery.seen([0], ["the fish"])
    assert seen.segmenter is not None
    widths = {"patch_width": seen.patches.shape[-1], "text_width": seen.text.shape[-1]}
    return PointGenerator(
        GeneratorSettings(
            **widths, segmenter_width=seen.segmenter.shape[-1], width=32, heads=4, layers=1, feed=32, queries=6,
            points=points,
        )
    )  # fmt: skip


def test_soft_labels_of_one_and_zero_are_the_segmenters_own_tokens(gallery: Gallery) -> None:
    points = np.array([[30.0, 40.0], [70.0, 20.0], [100.0, 60.0]])
    labels = np.array([1, 0, 1])
    image = 0
    scale = np.array([gallery.sizes[image][1], gallery.sizes[image][0]])
    encoded = gallery.sam.encode([drawn(1).image])
    own, _ = gallery.sam.prompt_tokens(encoded, [MaskPrompt(points=points, labels=labels)])
    xy = torch.from_numpy(points / scale).float()[None]
    square = xy * gallery.to_square([image])[:, None]
    soft = soft_tokens(gallery.sam, square, torch.from_numpy(labels).float()[None])
    assert torch.allclose(soft, own, atol=1e-5)


def test_a_mask_loss_reaches_both_heads_through_the_frozen_segmenter(gallery: Gallery) -> None:
    generator = network(gallery)
    seen = gallery.seen([0, 1], ["the fish", "the red bee"])
    xy, share = generator(seen).flat()
    logits, _ = decode_points(gallery, [0, 1], xy, share)
    truth = (torch.rand(2, gallery.cells, gallery.cells, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    mask_losses(logits[:, 0], truth, gallery.inside([0, 1]), torch.ones(2)).backward()
    for head in (generator.pointer, generator.shift, generator.confidence, generator.key):
        assert head.weight.grad is not None
        assert float(head.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in gallery.sam.parameters())


def test_the_segmenter_and_clip_stay_as_they_are(gallery: Gallery) -> None:
    assert not any(parameter.requires_grad for parameter in gallery.sam.parameters())


@pytest.mark.parametrize("points", [1, 3])
def test_matching_does_not_depend_on_the_order_of_the_targets(points: int) -> None:
    rng = np.random.default_rng(points)
    xy, share = rng.random((7, points, 2), dtype=np.float32), rng.random(7, dtype=np.float32)
    groups = rng.random((4, points, 2), dtype=np.float32)
    labels = np.array([1, 1, 0, 0], dtype=np.float32)
    order = rng.permutation(4)
    one, other = match(xy, share, groups, labels), match(xy, share, groups[order], labels[order])
    assert dict(zip(one.queries, one.groups, strict=True)) == dict(zip(other.queries, order[other.groups], strict=True))


def test_the_loss_does_not_depend_on_the_order_of_targets_or_pairs() -> None:
    rng = np.random.default_rng(0)
    said = Points(torch.rand(2, 6, 1, 2), torch.randn(2, 6))
    targets = [(rng.random((4, 1, 2), dtype=np.float32), np.array([1, 1, 0, 0], dtype=np.float32)) for _ in range(2)]
    mixed = [(points[[2, 0, 3, 1]], labels[[2, 0, 3, 1]]) for points, labels in targets]
    inside, weights = torch.zeros(2, 6, 1), torch.tensor([1.0, 0.5])
    one = point_losses(said, targets, inside, weights, LossWeights())
    assert torch.allclose(one, point_losses(said, mixed, inside, weights, LossWeights()), atol=1e-6)
    turned = Points(said.xy.flip(0), said.confidence.flip(0))
    assert torch.allclose(
        one, point_losses(turned, targets[::-1], inside.flip(0), weights.flip(0), LossWeights()), atol=1e-6
    )


def test_unmatched_queries_learn_whether_they_lie_on_the_object() -> None:
    xy = torch.tensor([[[[0.5, 0.5]], [[0.9, 0.9]]]])
    targets = [(np.array([[[0.5, 0.5]]], dtype=np.float32), np.ones(1, dtype=np.float32))]
    for on_object, sign in ((1.0, -1), (0.0, 1)):
        confidence = torch.zeros(1, 2, requires_grad=True)
        inside = torch.tensor([[[1.0], [on_object]]])
        point_losses(Points(xy, confidence), targets, inside, torch.ones(1), LossWeights()).backward()
        assert confidence.grad is not None
        assert float(confidence.grad[0, 1]) * sign > 0


def test_crowded_positives_cost_more_than_spread_ones() -> None:
    labels = np.ones(2, dtype=np.float32)
    weights = LossWeights(place=0, confidence=0, spread=1)
    costs = []
    for gap in (0.0, 0.2):
        xy = np.array([[[0.4, 0.5]], [[0.4 + gap, 0.5]]], dtype=np.float32)
        said = Points(torch.from_numpy(xy)[None], torch.zeros(1, 2))
        costs.append(float(point_losses(said, [(xy, labels)], torch.zeros(1, 2, 1), torch.ones(1), weights)))
    assert costs[0] > 0.9
    assert costs[1] == 0


def test_targets_are_on_the_object_and_beside_it() -> None:
    mask, other = disc((96, 96), 30, 40, 16), disc((96, 96), 75, 60, 10)
    found = point_targets(mask, [other], (96, 96), np.random.default_rng(0), positives=6, negatives=6)
    cells = (found.points * 96).astype(int)
    hit = mask[cells[:, 1], cells[:, 0]]
    assert list(found.labels) == [1.0] * 6 + [0.0] * 6
    assert hit[:6].all()
    assert not hit[6:].any()
    assert other[cells[6:, 1], cells[6:, 0]].sum() == 3  # half on other objects, half in the ring


def test_negatives_are_asked_for_in_full_where_one_source_has_none() -> None:
    mask = disc((96, 96), 48, 48, 20)
    for others in ([], [mask], [np.zeros_like(mask)]):
        found = point_targets(mask, others, (96, 96), np.random.default_rng(0), positives=4, negatives=6)
        assert (found.labels == 0).sum() == 6


def test_an_expression_that_means_nothing_has_negative_targets_only() -> None:
    for others in ([], [disc((96, 96), 30, 40, 16)]):
        found = point_targets(None, others, (96, 96), np.random.default_rng(0), positives=4, negatives=4)
        assert len(found.labels) == 8
        assert not found.labels.any()


def test_spread_points_cover_a_long_mask() -> None:
    mask = np.zeros((96, 96), dtype=np.bool_)
    mask[40:50, 5:90] = True
    for seed in range(5):
        xs = spread(mask, 4, np.random.default_rng(seed))[:, 0]
        assert xs.max() - xs.min() > 70


def test_groups_hold_points_of_one_label_and_repeat_where_they_are_short() -> None:
    targets = PointTargets(np.random.default_rng(0).random((7, 2), dtype=np.float32), np.array([1, 1, 1, 1, 0, 0, 0.0]))
    groups, labels = grouped(targets, 3)
    assert groups.shape == (3, 3, 2)
    assert list(labels) == [1, 1, 0]
    assert {tuple(point) for point in groups[1]} == {tuple(targets.points[3])}


def test_a_query_of_several_points_is_an_object(gallery: Gallery) -> None:
    said = network(gallery, points=4)(gallery.seen([0], ["the fish"]))
    assert said.xy.shape == (1, 6, 4, 2)
    xy, share = said.flat()
    assert xy.shape == (1, 24, 2)
    assert share[0, :4].unique().numel() == 1  # the points of a query share its confidence


def test_the_strongest_points_of_both_signs_are_shown() -> None:
    share = torch.tensor([[0.9, 0.1, 0.5, 0.8, 0.2]])
    xy = torch.arange(10.0).view(1, 5, 2)
    kept, shares = strongest(xy, share, 2)
    assert sorted(shares[0].tolist()) == pytest.approx([0.1, 0.2, 0.8, 0.9])
    assert kept.shape == (1, 4, 2)


def test_maps_are_read_where_the_image_is() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 0, 3] = 1  # the image fills the left half and the upper quarter
    at = sampled(maps, torch.tensor([[[3.5 / 4, 0.25]]]), torch.tensor([[0.5, 0.25]]))
    assert float(at) == pytest.approx(1.0)


def test_the_same_words_are_no_negatives_of_each_other() -> None:
    patches = torch.nn.functional.normalize(torch.randn(2, 3, 3, 8), dim=-1)
    words = torch.nn.functional.normalize(torch.randn(1, 8), dim=-1).expand(2, -1)
    same = torch.ones(2, 2, dtype=torch.bool)
    assert float(contrast_loss(torch.ones(2, 3, 3), patches, words, same)) == pytest.approx(0.0, abs=1e-6)
