"""Which things the points may mean: a segmenter of discs, so that each mask is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model.models.calls import ModelCalls
from int_model.models.protocols import MaskPrompt
from int_model.point_prompting.generator.bundle import TrainedGenerator
from int_model.point_prompting.generator.filters import PointFilter, SignedPoints
from int_model.point_prompting.generator.grounding import PointGrounder
from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator
from tests.support.fakes import FakeTextImage, fake_suite

SIZE = (60, 100)
DISCS = {"left": (20.0, 30.0, 10.0), "right": (75.0, 30.0, 10.0)}
DISCS |= {"left again": (22.0, 30.0, 10.0), "overlap": (27.0, 30.0, 10.0)}
yy, xx = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
MASKS = {name: (xx - x) ** 2 + (yy - y) ** 2 <= r * r for name, (x, y, r) in DISCS.items()}
MASKS["corner"] = (xx >= 99) & (yy >= 59)


class Discs:
    """``ModelCalls`` of a segmenter whose mask for the first positive point is the disc around it."""

    def __init__(self, quality: dict[str, float] | None = None, empty: tuple[str, ...] = ()) -> None:
        self.quality = quality or {}
        self.empty = empty
        self.asked: list[tuple[list[list[float]], list[int], bool]] = []

    def decode_best(
        self,
        owner: int,
        embedding: Any,
        prompts: list[MaskPrompt],
        size: tuple[int, int],
        *,
        multimask: bool,
        label: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        assert (owner, embedding, size, label) == (3, "embedding", SIZE, "the disc")
        (prompt,) = prompts
        self.asked.append((prompt.points.tolist(), prompt.labels.tolist(), multimask))
        x, y = prompt.points[prompt.labels == 1][0]
        row, column = min(int(y), SIZE[0] - 1), min(int(x), SIZE[1] - 1)
        name = next(name for name, mask in MASKS.items() if mask[row, column])
        mask = MASKS[name] if name not in self.empty else MASKS[name] & False
        return np.where(mask, 0.5, -0.5)[None].astype(np.float32), np.array([self.quality.get(name, 0.8)])


@pytest.fixture(scope="module")
def grounder() -> PointGrounder:
    clip = FakeTextImage()
    width = clip.embed_texts([""]).shape[1]
    network = PointGenerator(GeneratorSettings(width, width, width=8, heads=2, layers=1, feed=8, queries=2)).eval()
    return PointGrounder(
        fake_suite(text_image=clip), TrainedGenerator(network, 3, negatives=True, probes={}), PointFilter()
    )


def signed(*points: tuple[float, float, float]) -> SignedPoints:
    """(x, y, confidence); positive from 0.5 on."""
    table = np.array(points, dtype=np.float64).reshape(-1, 3)
    return SignedPoints(table[:, :2], (table[:, 2] >= 0.5).astype(np.int64), table[:, 2], {}, float(table[:, 2].max()))


def found(grounder: PointGrounder, calls: Discs, points: SignedPoints, most: int) -> list[Any]:
    fake: ModelCalls = calls  # type: ignore[assignment]
    return grounder.hypotheses(fake, 3, "embedding", points, SIZE, most=most, label="the disc")  # type: ignore[arg-type]


LEFT, RIGHT, BESIDE = (20.0, 30.0, 0.9), (75.0, 30.0, 0.7), (50.0, 5.0, 0.1)


def test_the_first_is_of_all_points_and_one_beside_it_is_tried_alone_against_the_negatives(
    grounder: PointGrounder,
) -> None:
    calls = Discs()
    first, second = found(grounder, calls, signed(LEFT, RIGHT, BESIDE), 3)
    assert calls.asked == [
        ([[20, 30], [75, 30], [50, 5]], [1, 1, 0], False),
        ([[75, 30], [50, 5]], [1, 0], False),
    ]
    assert np.array_equal(first.logits > 0, MASKS["left"])
    assert np.array_equal(second.logits > 0, MASKS["right"])
    assert first.score == pytest.approx((0.9 + 0.7) / 2 * 0.8)
    assert second.score == pytest.approx(0.7 * 0.8)
    assert (first.iou, second.iou) == (0.8, 0.8)
    assert second.points.points.tolist() == [[75, 30], [50, 5]]


def test_no_more_are_tried_than_are_wanted(grounder: PointGrounder) -> None:
    calls = Discs()
    assert len(found(grounder, calls, signed(LEFT, RIGHT, BESIDE), 1)) == 1
    assert len(calls.asked) == 1
    by_default = grounder.hypotheses(Discs(), 3, "embedding", signed(LEFT, RIGHT), SIZE, label="the disc")  # type: ignore[arg-type]
    assert len(by_default) == 1
    corner = (99.5, 59.5, 0.6)
    assert len(found(grounder, Discs(), signed(LEFT, RIGHT, corner), 2)) == 2
    assert len(found(grounder, Discs(), signed(LEFT, RIGHT, corner), 3)) == 3


def test_the_others_are_ordered_by_score_behind_the_mask_of_all_points(grounder: PointGrounder) -> None:
    calls = Discs({"left": 0.1, "right": 0.3, "corner": 0.9})
    told = found(grounder, calls, signed(LEFT, RIGHT, (99.5, 59.5, 0.6)), 3)
    assert [int((one.logits > 0).sum()) for one in told] == [int(MASKS[n].sum()) for n in ("left", "corner", "right")]


def test_a_single_point_leaves_the_choice_of_three_masks_and_a_quality_beyond_one_is_one(
    grounder: PointGrounder,
) -> None:
    calls = Discs({"left": 1.02})
    (only,) = found(grounder, calls, signed(LEFT), 3)
    assert calls.asked == [([[20, 30]], [1], True)]
    assert (only.iou, only.score) == (1.0, 0.9)


def test_an_empty_mask_is_no_further_thing_nor_a_point_on_a_known_one(grounder: PointGrounder) -> None:
    assert len(found(grounder, Discs(empty=("right",)), signed(LEFT, RIGHT), 3)) == 1
    calls = Discs()
    assert len(found(grounder, calls, signed(LEFT, RIGHT, (75.0, 22.0, 0.6)), 4)) == 2
    assert len(calls.asked) == 2, "a point on a mask that is kept already is not tried"


@pytest.mark.parametrize(("point", "count"), [((31.5, 30.0, 0.6), 1), ((36.5, 30.0, 0.6), 2)])
def test_a_mask_that_half_agrees_with_a_known_one_is_the_same_thing(
    grounder: PointGrounder, point: tuple[float, float, float], count: int
) -> None:
    near, far = (
        (MASKS["left"] & MASKS[name]).sum() / (MASKS["left"] | MASKS[name]).sum() for name in ("left again", "overlap")
    )
    assert near > 0.5 > far > 0.2
    assert len(found(grounder, Discs(), signed(LEFT, point), 3)) == count


def test_where_nothing_is_present_nothing_is_asked(grounder: PointGrounder) -> None:
    calls = Discs()
    assert found(grounder, calls, signed(BESIDE), 3) == []
    assert calls.asked == []
