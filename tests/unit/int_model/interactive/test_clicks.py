"""Clicks to masks without models: prompts, encoded images, one segmenter for two threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.core.types import Box
from int_model.interactive.clicks import ClickSegmenter, NotEncodedError
from int_model.interactive.prompts import ClickPrompt, mask_prompts, stroke_points
from int_model.interactive.shared_segmenter import SharedSegmenter
from int_model.models.protocols import MaskPrompt, MaskProposal, Segmenter
from tests.support.fakes import FakeSegmenter, NoAdapter, scene

WAIT = 20


@dataclass(frozen=True)
class Sized:
    nbytes: int


def points(*xy: tuple[float, float]) -> np.ndarray:
    return np.array(xy, dtype=np.float64).reshape(-1, 2)


def signs(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def painted(height: int, width: int, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_points_are_one_object() -> None:
    (asked,) = mask_prompts(ClickPrompt(points((3, 4), (5, 6)), signs(1, 0)))
    assert asked.box is None
    assert asked.points.tolist() == [[3, 4], [5, 6]]
    assert asked.labels.tolist() == [1, 0]


def test_boxes_are_an_object_each_with_the_points_inside() -> None:
    left, right = Box(0, 0, 10, 10), Box(20, 0, 30, 10)
    first, second, third = mask_prompts(
        ClickPrompt(points((5, 5), (25, 5), (26, 6), (50, 50)), signs(1, 1, 0, 1), (left, right))
    )
    assert (first.box, first.points.tolist()) == (left, [[5, 5]])
    assert (second.box, second.labels.tolist()) == (right, [1, 0])
    assert (third.box, third.points.tolist()) == (None, [[50, 50]])


def test_a_single_box_takes_all_points() -> None:
    (asked,) = mask_prompts(ClickPrompt(points((50, 50)), signs(0), (Box(0, 0, 10, 10),)))
    assert asked.box == Box(0, 0, 10, 10)
    assert asked.labels.tolist() == [0]


def test_a_stroke_is_points_inside_it_and_its_box() -> None:
    stroke, avoid = painted(60, 80, 10, 20, 50, 26), painted(60, 80, 60, 40, 70, 50)
    (asked,) = mask_prompts(ClickPrompt(stroke=stroke, avoid=avoid))
    assert asked.box is not None
    assert Box(10, 20, 50, 26).intersect(asked.box) == Box(10, 20, 50, 26)
    assert set(asked.labels) == {0, 1}
    for (x, y), sign in zip(asked.points, asked.labels, strict=True):
        assert (stroke if sign else avoid)[int(y), int(x)]


@pytest.mark.parametrize(
    "prompt",
    [{}, {"points": points((1, 1)), "labels": signs(0)}, {"stroke": np.zeros((4, 4), np.bool_)},
     {"avoid": np.ones((4, 4), np.bool_)}],
)  # fmt: skip
def test_a_prompt_shows_the_object(prompt: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing shows the object"):
        ClickPrompt(**prompt)


def test_labels_belong_to_points() -> None:
    with pytest.raises(ValueError, match=r"2 labels need points of shape \[2, 2\]"):
        ClickPrompt(points((1, 1)), signs(1, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), st.floats(0.005, 0.9), st.integers(1, 8))
def test_stroke_points_lie_in_the_stroke_and_differ(seed: int, share: float, count: int) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < share
    found = stroke_points(mask, count)
    assert len(found) == 0 if not mask.any() else 1 <= len(found) <= count
    assert all(mask[int(y), int(x)] for x, y in found)
    assert len({tuple(point) for point in found.tolist()}) == len(found)


def test_stroke_points_reach_both_ends_of_a_line() -> None:
    found = stroke_points(painted(100, 100, 10, 50, 90, 53))
    assert found[:, 0].min() < 15
    assert found[:, 0].max() > 85


def test_points_of_a_thick_stroke_keep_away_from_its_rim() -> None:
    """A brush runs over the object's outline; what lies half as deep as the deepest pixel is on it more likely."""
    found = stroke_points(painted(100, 100, 10, 40, 90, 60), 12)
    assert found[:, 1].min() >= 44
    assert found[:, 1].max() <= 56
    assert found[:, 0].min() >= 14
    assert found[:, 0].max() <= 86


def test_points_of_a_stroke_are_pixels_centres_as_many_as_asked_and_of_its_eight_largest_parts() -> None:
    assert stroke_points(painted(9, 9, 7, 3, 8, 4)).tolist() == [[7.5, 3.5]]
    assert len(stroke_points(painted(100, 100, 10, 50, 90, 53))) == 6
    many = np.zeros((40, 130), np.bool_)
    for i in range(9):
        many[4:9, 4 + 13 * i : 9 + 13 * i] = True
    many[30:33, 60:63] = True  # a speck
    many[4:9, 4 + 13 * 8] = False  # the ninth is a little smaller
    found = stroke_points(many, 30)
    assert {int(x - 4) // 13 for x, y in found if y < 20} == set(range(8))
    assert (found[:, 1] < 20).all()


def test_a_stroke_beside_boxes_is_an_object_of_its_own() -> None:
    stroke = painted(60, 80, 10, 20, 50, 26)
    boxes = (Box(0, 30, 10, 40), Box(60, 0, 70, 10))
    for count in (1, 2):
        asked = mask_prompts(ClickPrompt(points((65, 5)), signs(1), boxes[2 - count :], stroke))
        assert len(asked) == count + 1
        (own,) = [one for one in asked if one.box not in boxes]
        assert own.box is not None
        assert own.box.intersect(Box(10, 20, 50, 26)) == Box(10, 20, 50, 26)
        assert set(own.labels) == {1}
        assert all(stroke[int(y), int(x)] for x, y in own.points), "the click belongs to its box"


# --- clicks -----------------------------------------------------------------------------------------------------------


def test_an_image_is_encoded_once_and_asked_for_again_when_dropped() -> None:
    fake, (image, (mask,)) = FakeSegmenter(), scene(objects=[("frog", 40, 50, 20)])
    clicks = ClickSegmenter(fake, identity="s", cache_bytes=image.nbytes)
    prompt = ClickPrompt(points((40, 50)), signs(1))
    with pytest.raises(NotEncodedError):
        clicks.answer("a", None, prompt)
    clicks.prewarm("a", image)
    for given_image in (image, None):
        (found,) = clicks.answer("a", given_image, prompt, "Frog")
        assert found.label == "Frog"
        assert found.score == pytest.approx(0.9)
        assert (found.mask & mask).sum() > 0.9 * mask.sum()
    assert fake.encoded == 1
    clicks.prewarm("b", image)  # there is room for one
    with pytest.raises(NotEncodedError):
        clicks.answer("a", None, prompt)
    clicks.release("b")
    assert clicks.cache.currsize == 0


class Alternatives:
    """Three alternatives: nothing, the left half, the right half."""

    def __init__(self, iou: Sequence[float]) -> None:
        self.iou = np.array(iou)

    def encode(self, images: Any) -> list[Any]:
        return [Sized(1) for _ in images]

    def decode(self, embedding: Any, prompts: Sequence[MaskPrompt], **_: Any) -> list[MaskProposal]:
        logits = np.full((3, 4, 8), -1.0, np.float32)
        logits[1, :, :4], logits[2, :, 4:] = 1.0, 1.0
        return [MaskProposal(logits, logits, self.iou) for _ in prompts]


@pytest.mark.parametrize(
    ("iou", "at", "left", "score"),
    [
        ((0.9, 0.8, 0.7), (6, 1), False, 0.7),  # the one with the click in it
        ((0.9, 0.8, 0.7), (1, 1), True, 0.8),
        ((0.1, float("nan"), 7.0), (6, 1), False, 1.0),
    ],
)
def test_the_alternative_that_agrees_with_the_click(
    iou: tuple[float, ...], at: tuple[float, float], left: bool, score: float
) -> None:
    clicks = ClickSegmenter(Alternatives(iou))
    (found,) = clicks.answer("k", np.zeros((4, 8, 3), np.uint8), ClickPrompt(points(at), signs(1)))
    assert bool(found.mask[0, 0]) is left
    assert found.score == pytest.approx(score)


def test_an_alternative_whose_quality_is_not_a_number_is_the_last_choice() -> None:
    clicks = ClickSegmenter(Alternatives((0.9, float("nan"), 0.5)))
    (found,) = clicks.answer("k", np.zeros((4, 8, 3), np.uint8), ClickPrompt(boxes=(Box(0, 0, 8, 4),)))
    assert not found.mask[0, 0]
    assert found.score == pytest.approx(0.5)


@pytest.mark.parametrize("at", [(0.5, 2.5), (3.5, 0.5), (-2.0, 2.5), (3.5, -7.0)])
def test_a_click_at_the_upper_left_edges_or_beyond_is_held_against_the_pixels_there(at: tuple[float, float]) -> None:
    class Edges(Alternatives):
        def decode(self, embedding: Any, prompts: Sequence[MaskPrompt], **_: Any) -> list[MaskProposal]:
            logits = np.full((2, 4, 8), -1.0, np.float32)
            logits[0, 1:, 1:], logits[1, 0], logits[1, :, 0] = 1.0, 1.0, 1.0
            return [MaskProposal(logits, logits, np.array([0.9, 0.1])) for _ in prompts]

    (found,) = ClickSegmenter(Edges([])).answer("k", np.zeros((4, 8, 3), np.uint8), ClickPrompt(points(at), signs(1)))
    assert found.mask[0, 0]


def test_a_version_of_what_was_learned_answers_over_the_same_embedding() -> None:
    base, learned = Alternatives((0.1, 0.9, 0.1)), Alternatives((0.1, 0.1, 0.8))
    image, box = np.zeros((4, 8, 3), np.uint8), ClickPrompt(boxes=(Box(0, 0, 8, 4),))
    asked: list[str] = []

    def version(name: str) -> Any:
        asked.append(name)
        return learned

    clicks = ClickSegmenter(base, learned=version)
    assert clicks.answer("k", image, box)[0].score == pytest.approx(0.9)
    assert clicks.answer("k", None, box, version="v2")[0].score == pytest.approx(0.8)
    assert asked == ["v2"]
    assert ClickSegmenter(base).answer("k", image, box, version="v2")[0].score == pytest.approx(0.9), "there are none"


def test_embeddings_take_half_a_gigabyte_unless_said_otherwise() -> None:
    assert ClickSegmenter(FakeSegmenter()).cache.maxsize == 2**29
    assert ClickSegmenter(FakeSegmenter(), cache_bytes=7).cache.maxsize == 7


def test_no_pixel_is_no_instance() -> None:
    class Nothing(Alternatives):
        def decode(self, embedding: Any, prompts: Sequence[MaskPrompt], **_: Any) -> Any:
            logits = np.full((1, 4, 8), -1.0, np.float32)
            return [MaskProposal(logits, logits, np.array([0.5])) for _ in prompts]

    clicks = ClickSegmenter(Nothing([0.5]))
    assert clicks.answer("k", np.zeros((4, 8, 3), np.uint8), ClickPrompt(boxes=(Box(0, 0, 2, 2),))) == ()


def test_an_adapter_goes_through_to_the_segmenter() -> None:
    fake, (image, _) = FakeSegmenter(), scene(objects=[("frog", 40, 50, 20)])
    clicks = ClickSegmenter(SharedSegmenter(fake).urgent)
    clicks.answer("a", image, ClickPrompt(points((40, 50)), signs(1)), "Frog", NoAdapter())
    assert fake.adapted == [(NoAdapter(), "Frog")]


# --- one segmenter, two threads ---------------------------------------------------------------------------------------


class Slow:
    """Notes who is inside, one call at a time; ``gate`` holds calls up."""

    def __init__(self) -> None:
        self.gate, self.inside = threading.Event(), threading.Event()
        self.order: list[int] = []
        self.together = 0

    def encode(self, images: Any) -> list[Any]:
        self.together += 1
        assert self.together == 1
        self.inside.set()
        assert self.gate.wait(WAIT)
        self.order.append(int(images[0][0, 0, 0]))
        self.together -= 1
        return [Sized(1)]

    def decode(self, embedding: Any, prompts: Sequence[MaskPrompt], **_: Any) -> list[MaskProposal]:
        raise AssertionError


def test_urgent_calls_go_first_and_one_at_a_time() -> None:
    slow = Slow()
    shared = SharedSegmenter(slow)
    assert isinstance(shared, Segmenter)

    def call(value: int, user: Segmenter) -> threading.Thread:
        thread = threading.Thread(target=user.encode, args=([np.full((1, 1, 3), value, np.uint8)],))
        thread.start()
        return thread

    threads = [call(0, shared)]
    assert slow.inside.wait(WAIT)
    threads += [call(1, shared), call(2, shared), call(9, shared.urgent)]
    while shared._turns.urgent_waiting == 0:
        threading.Event().wait(0.005)
    slow.gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert slow.order[:2] == [0, 9]
    assert sorted(slow.order) == [0, 1, 2, 9]


def test_a_shared_segmenter_gives_the_alternatives_that_the_segmenter_itself_gives() -> None:
    fake, (image, _) = FakeSegmenter(), scene(objects=[("frog", 40, 50, 20)])
    shared = SharedSegmenter(fake)
    (embedding,) = shared.encode([image])
    prompts = [MaskPrompt(box=Box(20, 30, 60, 70))]
    assert len(shared.decode(embedding, prompts)[0].iou) == 3
    assert len(shared.decode(embedding, prompts, multimask=False)[0].iou) == 1
    alternatives: list[bool] = []

    class Best(FakeSegmenter):
        def decode_best(self, embedding: Any, prompts: Sequence[MaskPrompt], *, multimask: bool, **_: Any) -> list[Any]:
            alternatives.append(multimask)
            return []

    for user in (SharedSegmenter(Best()), SharedSegmenter(Best()).urgent):
        user.decode_best(embedding, prompts)
        user.decode_best(embedding, prompts, multimask=False)
    assert alternatives == [True, False] * 2
    assert shared.wrapped is shared.urgent.wrapped is fake


def test_features_are_those_of_the_segmenter() -> None:
    class Seeing(FakeSegmenter):
        def features(self, embedding: Any) -> np.ndarray:
            return np.full((4, 2, 2), embedding.nbytes, np.float32)

    assert SharedSegmenter(Seeing()).urgent.features(Sized(3))[0, 0, 0] == 3
    with pytest.raises(TypeError, match="FakeSegmenter does not show"):
        SharedSegmenter(FakeSegmenter()).features(Sized(3))
