"""Figures of a held-out example by hand: clicks and boxes apart, labels apart, what a click covers of other objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model.learning.examples import Example, Target
from int_model.learning.scoring import ask, score
from int_model.models.protocols import MaskPrompt


def square(left: int) -> np.ndarray:
    mask = np.zeros((40, 100), np.bool_)
    mask[10:30, left : left + 20] = True
    return mask


LEFT, RIGHT = square(10), square(60)


class Decoder:
    """A box gives its object; a click gives the upper half of it and, on a frog, the upper half of the owl too."""

    def mask(self, encoded: Any, prompt: MaskPrompt, label: str) -> np.ndarray:
        assert encoded == "encoded"
        own = LEFT if label == "frog" else RIGHT
        if prompt.box is not None:
            assert len(prompt.points) == 0
            return own
        assert prompt.labels.tolist() == [1]
        (point,) = prompt.points
        assert own[int(point[1]), int(point[0])]
        half = own.copy()
        half[20:] = False
        if label == "frog":
            half[10:20] |= RIGHT[10:20]
        return half


def example(*targets: Target) -> Example:
    return Example(np.zeros((40, 100, 3), np.uint8), targets, "patient 7")


def test_clicks_boxes_labels_and_leaks_are_told_apart() -> None:
    decoder, encoded = Decoder(), "encoded"
    both = example(Target("frog", LEFT), Target("owl", RIGHT))
    told = score(decoder, both, encoded)  # type: ignore[arg-type]
    frog, owl = 200 / 600, 1 / 2  # of 400 pixels 200 are found, and 200 of the owl's with them
    assert told.unit == "patient 7"
    assert told.click == pytest.approx((frog + owl) / 2)
    assert told.box == 1
    assert told.value == pytest.approx(((frog + owl) / 2 + 1) / 2)
    assert told.labels == {"frog": pytest.approx((3 * frog + 1) / 4), "owl": pytest.approx((3 * owl + 1) / 4)}
    assert told.leak == pytest.approx((200 / 600 + 0) / 2), "of clicks alone: a box shows where its object ends"
    alone = score(decoder, example(Target("owl", RIGHT)), encoded)  # type: ignore[arg-type]
    assert (alone.leak, alone.click, alone.box) == (None, 0.5, 1.0)


def test_each_object_is_clicked_thrice_and_boxed_once_beside_all_others() -> None:
    both = example(Target("frog", LEFT), Target("owl", RIGHT))
    asked = ask(both, "encoded")  # type: ignore[arg-type]
    assert [entry.label for entry in asked] == ["frog"] * 4 + ["owl"] * 4
    assert [entry.prompt.box is not None for entry in asked] == [False, False, False, True] * 2
    for entry in asked:
        own, other = (LEFT, RIGHT) if entry.label == "frog" else (RIGHT, LEFT)
        assert np.array_equal(entry.truth, own)
        assert len(entry.others) == 1
        assert np.array_equal(entry.others[0], other)
        assert entry.unit == "patient 7"
