"""The gate on simulated projects: it must not promote what is no better, and must promote what clearly is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from int_model.learning.gate import choose, harm, judge, leak_gain, lower_bound, paired_gain, with_end_to_end
from int_model.learning.scoring import Figures

ARMS = ("base", "slots", "outlines", "tokens", "plm", "plm_pmm", "lora", "decoder")


def figures(values: np.ndarray, leak: float | None = None, labels: dict[str, float] | None = None) -> list[Figures]:
    return [Figures(f"image {i}", float(v), float(v), labels or {"a": float(v)}, leak) for i, v in enumerate(values)]


def project(rng: np.random.Generator, images: int, gain: float) -> tuple[dict[str, list[Figures]], list[Figures]]:
    """Held-out figures of a project whose arms gain ``gain`` in truth (0: useless), with the noise of real ones."""
    base = np.clip(rng.normal(0.65, 0.15, images), 0, 1)
    found = {"base": figures(base)}
    for arm in ARMS[1:]:
        shift = gain if arm in ("lora", "decoder") else 0.0
        found[arm] = figures(base + shift + rng.normal(0, 0.06, images))
    return found, figures(base)


def promoted(found: dict[str, list[Figures]], parent: list[Figures]) -> bool:
    arm = choose(found, ARMS)
    return judge(arm, found[arm], parent, compared=len(ARMS)).promoted


@pytest.mark.parametrize("images", [5, 8, 16, 40])
def test_of_200_projects_without_a_gain_at_most_5_percent_are_promoted(images: int) -> None:
    rng = np.random.default_rng(images)
    wrong = sum(promoted(*project(rng, images, 0.0)) for _ in range(200))
    assert wrong <= 10


@pytest.mark.parametrize(("images", "gain", "least"), [(8, 0.15, 0.9), (16, 0.08, 0.9), (40, 0.05, 0.9)])
def test_clear_gains_are_promoted(images: int, gain: float, least: float) -> None:
    rng = np.random.default_rng(images)
    right = sum(promoted(*project(rng, images, gain)) for _ in range(100))
    assert right >= 100 * least


def test_a_harmful_candidate_is_rejected_with_its_reason() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, 20)
    verdict = judge("decoder", figures(base - 0.2), figures(base), compared=1)
    assert not verdict.promoted
    assert "may be chance" in verdict.reasons[0]
    assert verdict.gain.value == pytest.approx(-0.2)


def test_no_label_may_pay_for_another() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.7, 20)
    old = figures(base, labels={"a": 0.6, "b": 0.6})
    new = figures(base + 0.1, labels={"a": 0.9, "b": 0.5})
    verdict = judge("decoder", new, old, compared=1)
    assert not verdict.promoted
    assert verdict.reasons == ("the label 'b' loses 0.100 mean IoU on 20 held-out images",)


def test_a_label_with_few_held_out_images_does_not_decide() -> None:
    base = np.linspace(0.5, 0.7, 10)
    old, new = figures(base), figures(base + 0.1)
    old[0].labels["rare"], new[0].labels["rare"] = 0.9, 0.1
    old[0] = Figures("image 0", float(base[0]), float(base[0]), {"a": 0.5, "rare": 0.9}, None)
    new[0] = Figures("image 0", float(base[0] + 0.1), float(base[0] + 0.1), {"a": 0.6, "rare": 0.1}, None)
    assert judge("plm", new, old, compared=1).promoted


def test_clicks_that_leak_are_rejected() -> None:
    base = np.linspace(0.5, 0.7, 10)
    verdict = judge("plm", figures(base + 0.1, leak=0.2), figures(base, leak=0.05), compared=1)
    assert not verdict.promoted
    assert "covers other objects more" in verdict.reasons[0]


def test_the_simplest_arm_within_half_a_point_is_taken() -> None:
    base = np.linspace(0.5, 0.7, 10)
    found = {"base": figures(base), "slots": figures(base + 0.097), "decoder": figures(base + 0.1)}
    assert choose(found, ARMS) == "slots"
    assert choose({**found, "slots": figures(base + 0.09)}, ARMS) == "decoder"
    assert choose({"base": figures(base), "decoder": figures(base - 0.1)}, ARMS) == "base"


def test_the_base_never_beats_itself() -> None:
    base = np.linspace(0.5, 0.7, 10)
    assert not judge("base", figures(base), figures(base), compared=8).promoted


def test_figures_of_different_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same held-out examples"):
        judge("plm", figures(np.zeros(3)), figures(np.zeros(4)), compared=1)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=40), st.floats(0.005, 0.2))
def test_the_bound_lies_below_the_mean_and_falls_with_the_level(values: list[float], alpha: float) -> None:
    array = np.array(values)
    bound = lower_bound(array, alpha=alpha)
    assert bound <= array.mean() + 1e-9
    assert lower_bound(array, alpha=alpha / 2) <= bound + 1e-9


def test_arms_are_held_against_the_base_not_against_one_another() -> None:
    base = np.linspace(0.5, 0.7, 10)
    found = {
        "base": figures(base, labels={"a": 0.6, "b": 0.6}),
        "slots": figures(base + 0.2, labels={"a": 0.9, "b": 0.5}),
        "decoder": figures(base + 0.1, labels={"a": 0.7, "b": 0.59}),
    }
    assert choose(found, ARMS) == "decoder"
    assert choose({arm: found[arm] for arm in ("base", "slots")}, ARMS) == "base"


def test_a_click_may_cover_other_objects_by_a_hundredth_more() -> None:
    base = np.linspace(0.5, 0.7, 4)
    assert leak_gain(figures(base, leak=0.01), figures(base, leak=0.0)) is None
    assert leak_gain(figures(base, leak=0.011), figures(base, leak=0.0)) == pytest.approx(0.011)
    assert leak_gain(figures(base), figures(base)) is None


def test_three_images_may_prove_something() -> None:
    assert lower_bound(np.array([0.5, 0.5, 0.5]), alpha=0.05) == pytest.approx(0.5)
    spread = np.array([0.1, 0.2, 0.3])
    student = stats.ttest_1samp(spread, 0).confidence_interval(0.90).low  # both sides: one-sided 0.05
    assert lower_bound(spread, alpha=0.05) == pytest.approx(student)


def test_the_bound_is_corrected_for_the_number_of_arms_that_were_compared() -> None:
    """Figures that are better at 5 % and not at 2.5 %."""
    base = np.linspace(0.5, 0.7, 12)
    gain = np.tile([0.12, -0.06], 6) + 0.024
    assert stats.ttest_1samp(gain, 0, alternative="greater").pvalue == pytest.approx(0.036, abs=0.01)
    old, new = prompted(base, base), prompted(base + gain, base + gain)
    assert judge("plm", new, old, compared=1).gain.lower > 0
    assert judge("plm", new, old, compared=2).gain.lower < 0


@pytest.mark.parametrize(("images", "refused"), [(2, False), (3, True)])
def test_a_kind_of_prompt_that_loses_is_told_from_three_images_on(images: int, refused: bool) -> None:
    base = np.linspace(0.5, 0.7, images)
    told = harm(prompted(base + 0.2, base - 0.1), prompted(base, base))
    assert [reason.startswith("with a loose box") for reason in told] == [True] * refused


def test_two_images_prove_nothing() -> None:
    assert lower_bound(np.array([0.5, 0.5]), alpha=0.05) == float("-inf")


def test_several_examples_of_a_group_are_one_piece_of_evidence() -> None:
    new = [Figures("patient 1", 0.9, 0.9, {}, None)] * 50 + [Figures("patient 2", 0.5, 0.5, {}, None)]
    old = [Figures("patient 1", 0.5, 0.5, {}, None)] * 50 + [Figures("patient 2", 0.9, 0.9, {}, None)]
    gain = paired_gain(new, old)
    assert gain.units == 2
    assert gain.value == pytest.approx(0.0)


def prompted(clicks: np.ndarray, boxes: np.ndarray) -> list[Figures]:
    pairs = zip(clicks, boxes, strict=True)
    return [Figures(f"image {i}", float(c), float(b), {"a": float(c + b) / 2}, None) for i, (c, b) in enumerate(pairs)]


def test_a_gain_with_clicks_does_not_pay_for_a_loss_with_boxes() -> None:
    rng = np.random.default_rng(0)
    clicks, boxes = rng.uniform(0.4, 0.5, 16), rng.uniform(0.9, 0.96, 16)
    old, new = prompted(clicks, boxes), prompted(clicks + 0.24, boxes - 0.08)
    verdict = judge("outlines", new, old, compared=3)
    assert not verdict.promoted
    assert verdict.reasons == ("with a loose box as prompt the candidate loses 0.080 mean IoU on 16 held-out images",)
    assert choose({"base": old, "slots": prompted(clicks + 0.1, boxes), "outlines": new}, ARMS) == "slots"
    assert judge("outlines", prompted(clicks + 0.24, boxes - 0.01), old, compared=3).promoted


def test_an_arm_that_harms_a_label_does_not_take_the_place_of_one_that_may_serve() -> None:
    base = np.linspace(0.5, 0.7, 10)
    found = {
        "base": figures(base, labels={"a": 0.6, "b": 0.6}),
        "outlines": figures(base + 0.08, labels={"a": 0.7, "b": 0.6}),
        "decoder": figures(base + 0.12, labels={"a": 0.9, "b": 0.5}),
    }
    assert choose(found, ARMS) == "outlines"


def test_a_loss_with_the_strategys_own_prompts_refuses_what_gains_with_given_ones() -> None:
    base = np.linspace(0.5, 0.7, 16)
    verdict = judge("outlines", figures(base + 0.1), figures(base), compared=3)
    assert verdict.promoted
    worse = with_end_to_end(verdict, np.linspace(-0.1, 0.0, 16))
    assert not worse.promoted
    assert worse.reasons == ("with the strategy's own prompts the candidate loses 0.050 mean IoU",)
    assert with_end_to_end(verdict, np.linspace(-0.02, 0.0, 16)) == verdict


def test_a_clear_gain_end_to_end_makes_up_for_none_with_given_prompts_but_for_no_harm() -> None:
    base = np.linspace(0.5, 0.7, 16)
    chance = judge("base", figures(base), figures(base), compared=3)
    found = with_end_to_end(chance, np.linspace(0.1, 0.4, 16))
    assert found.promoted
    assert found.gain.value == pytest.approx(0.25)
    assert found.gain.lower > 0
    leaking = judge("plm", figures(base, leak=0.4), figures(base, leak=0.1), compared=3)
    assert not with_end_to_end(leaking, np.linspace(0.1, 0.4, 16)).promoted


@pytest.mark.parametrize("images", [5, 16, 24])
def test_both_chances_together_promote_at_most_5_percent_of_200_useless_candidates(images: int) -> None:
    rng = np.random.default_rng(images)
    wrong = 0
    for _ in range(200):
        found, parent = project(rng, images, 0.0)
        arm = choose(found, ARMS)
        verdict = judge(arm, found[arm], parent, compared=len(ARMS))
        wrong += with_end_to_end(verdict, rng.normal(0, 0.1, images)).promoted
    assert wrong <= 10
