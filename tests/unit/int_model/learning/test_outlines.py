"""Which slot, threshold and offset a label means, with a decoder whose masks are discs of known size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model.learning.adaptation import Outline
from int_model.learning.arms.outlines import Asked, best_column, choose_outlines, choose_slots, leak_of, overlap
from int_model.models.protocols import MaskPrompt

SIZE, RADIUS = 120, 20.0
CLICK = MaskPrompt(points=np.array([[60.0, 60.0]]), labels=np.array([1]))
yy, xx = np.mgrid[:SIZE, :SIZE] + 0.5


class Discs:
    """Slot i is a disc of its own; its logits fall by 0.35 a pixel. The base takes slot 1."""

    def slot_logits(self, encoded: Any, prompt: MaskPrompt, label: str) -> tuple[np.ndarray, int]:
        del prompt, label
        where = [(60, 60), (60, 60), (60, 84), (36, 60)]
        radii = [RADIUS / 2, RADIUS, RADIUS, RADIUS]
        reach = [np.hypot(xx - x - encoded, yy - y) for x, y in where]
        return np.stack([(r - d) * 0.35 for r, d in zip(radii, reach, strict=True)]).astype(np.float32), 1


def asked(convention: Outline, label: str = "cell", images: int = 3) -> list[Asked]:
    """Prompts whose true mask is what the convention draws."""
    found = []
    for shift in range(images):
        encoded: Any = shift
        logits, taken = Discs().slot_logits(encoded, CLICK, label)
        own = logits[taken if convention.slot is None else convention.slot]
        if convention.offset:
            grown = RADIUS * (1 + 2 * convention.offset)
            truth = np.hypot(xx - 60 - shift, yy - 60) < grown
        else:
            truth = own > convention.threshold
        found.append(Asked(encoded, CLICK, truth, label, f"image {shift}"))
    return found


def chosen(entries: list[Asked]) -> dict[str, Outline]:
    decoder: Any = Discs()
    return choose_outlines(decoder, entries)


@pytest.mark.parametrize("offset", [-0.16, -0.12, -0.08, -0.05, -0.03, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2])
def test_an_outline_that_is_drawn_wider_or_closer_is_found(offset: float) -> None:
    """In shares of the object's diameter; of its neighbours the true one fits best."""
    (found,) = chosen(asked(Outline(offset=offset))).values()
    if found.offset:
        assert found.offset == pytest.approx(offset, abs=0.021)
        assert found.threshold == 0
    else:  # a threshold that moves the outline as far: 0.35 of a logit is a pixel
        assert -found.threshold / 0.35 == pytest.approx(2 * offset * RADIUS, abs=0.6)


@pytest.mark.parametrize("threshold", [-2.0, -1.0, 1.0, 2.0])
def test_a_threshold_is_found(threshold: float) -> None:
    assert chosen(asked(Outline(threshold=threshold))) == {"cell": Outline(threshold=threshold)}


@pytest.mark.parametrize("slot", [0, 2, 3])
def test_a_slot_is_found(slot: int) -> None:
    decoder: Any = Discs()
    assert chosen(asked(Outline(slot))) == {"cell": Outline(slot)}
    assert choose_slots(decoder, asked(Outline(slot))) == {"cell": Outline(slot)}


def test_labels_are_chosen_apart_and_one_that_means_what_the_base_draws_is_left_out() -> None:
    decoder: Any = Discs()
    mixed = asked(Outline(), "plain") + asked(Outline(2), "shifted") + asked(Outline(threshold=2.0), "small")
    assert chosen(mixed) == {"shifted": Outline(2), "small": Outline(threshold=2.0)}
    assert choose_slots(decoder, asked(Outline())) == {}


def test_a_choice_that_covers_another_object_is_left_out_however_well_it_fits() -> None:
    rim = np.hypot(xx - 60, yy - 60)
    wide = asked(Outline(offset=0.2), images=1)[0]
    other = (rim < 27) & (rim >= 22)
    crowded = Asked(wide.encoded, wide.prompt, wide.truth, "cell", "image 0", (other,))
    alone = asked(Outline(offset=0.2))
    assert chosen(alone)["cell"].offset >= 0.16
    found = chosen([crowded, *alone[1:]]).get("cell", Outline())
    assert found.offset <= 0.05
    assert found.threshold >= -1


def test_one_image_alone_must_speak_clearly() -> None:
    for gain, column in ((0.1, 0), (0.11, 1)):
        assert best_column(np.array([[0.5, 0.5 + gain]]), ["a"]) == column
    rows = np.array([[0.5, 0.5, 0.7], [0.5, 0.9, 0.72], [0.5, 0.1, 0.69]])
    assert best_column(rows, ["a", "b", "c"]) == 2
    assert best_column(rows[:, :1], ["a", "b", "c"]) == 0


def test_overlap_and_leak_of_masks() -> None:
    pixel = np.zeros((4, 4), np.bool_)
    pixel[1, 2] = True
    none, both = pixel & False, pixel | np.roll(pixel, 1)
    assert (overlap(pixel, pixel), overlap(pixel, none), overlap(none, none)) == (1.0, 0.0, 1.0)
    assert overlap(pixel, both) == 0.5
    assert leak_of(pixel, ()) == 0
    assert leak_of(pixel, (none, both, np.roll(pixel, 2))) == 0.5
