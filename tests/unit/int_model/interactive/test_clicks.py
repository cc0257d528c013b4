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


def test_features_are_those_of_the_segmenter() -> None:
    class Seeing(FakeSegmenter):
        def features(self, embedding: Any) -> np.ndarray:
            return np.full((4, 2, 2), embedding.nbytes, np.float32)

    assert SharedSegmenter(Seeing()).urgent.features(Sized(3))[0, 0, 0] == 3
    with pytest.raises(TypeError, match="FakeSegmenter does not show"):
        SharedSegmenter(FakeSegmenter()).features(Sized(3))
