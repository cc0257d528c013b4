from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.evaluation import Evaluation, Example, Variant, evaluate
from int_model.evaluation.doubt import Case, curve, fit, of_evaluation
from int_model.evaluation.page import render_page
from tests.support.fakes import TASK, fake_suite, scene

CASES = st.lists(
    st.builds(
        Case,
        confidence=st.integers(0, 99).map(lambda n: n / 100),
        cheap=st.integers(0, 8).map(lambda n: n / 8),
        dear=st.integers(0, 8).map(lambda n: n / 8),
        cheap_calls=st.integers(1, 9),
        dear_calls=st.integers(10, 200),
    ),
    min_size=1,
    max_size=12,
)


@given(CASES)
def test_every_point_is_what_its_threshold_gives(cases: list[Case]) -> None:
    for point in curve(cases):
        asked = [case.confidence < point.threshold for case in cases]
        got = [case.dear if dear else case.cheap for case, dear in zip(cases, asked, strict=True)]
        calls = [case.cheap_calls + (case.dear_calls if dear else 0) for case, dear in zip(cases, asked, strict=True)]
        assert 0 <= point.threshold <= 1
        assert point.iou == pytest.approx(sum(got) / len(cases))
        assert point.calls == pytest.approx(sum(calls) / len(cases))
        assert point.asked == pytest.approx(sum(asked) / len(cases))


@given(CASES, st.floats(0, 0.2))
def test_what_fits_is_the_cheapest_that_is_good_enough(cases: list[Case], tolerance: float) -> None:
    found = fit(cases, tolerance)
    best = max(point.iou for point in found.points)
    assert found.fitted.iou >= best - tolerance
    assert all(p.iou < best - tolerance for p in found.points if p.calls < found.fitted.calls)
    assert (found.points[0].asked, found.images) == (0, len(cases))
    assert found.points[-1].asked == 1


def test_doubt_where_it_is_due_costs_little() -> None:
    cases = [Case(0.9, 0.8, 0.7, 5, 100), Case(0.8, 0.8, 0.8, 5, 100), Case(0.2, 0.1, 0.8, 5, 100)]
    found = fit(cases)
    assert found.fitted.threshold == pytest.approx(0.5)
    assert found.fitted.iou == pytest.approx(0.8)
    assert found.fitted.calls == pytest.approx(5 + 100 / 3)
    assert found.explain() == (
        "auto.threshold=0.50 fits these 3 images: IoU 0.800 at 38 calls (never INT: 0.567 at 5; always: 0.767 at 105)"
    )


def test_thresholds_lie_between_confidences_and_every_one_that_matters_is_there() -> None:
    cases = [Case(0.9, 0.8, 0.7, 5, 100), Case(0.2, 0.1, 0.8, 5, 100), Case(0.8, 0.8, 0.8, 5, 100)]
    assert [point.threshold for point in curve(cases)] == pytest.approx([0, 0.5, 0.85, 0.95])
    assert [point.asked for point in curve(cases)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [point.calls for point in curve(cases)] == pytest.approx([5, 115 / 3, 215 / 3, 105])
    alike = [Case(0.4, 0, 1, 1, 10), Case(0.4, 1, 0, 1, 10), Case(0.9, 1, 1, 1, 10)]
    assert [point.threshold for point in curve(alike)] == pytest.approx([0, 0.65, 0.95]), "none tells the two apart"


def test_without_images_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        fit([])


def evaluated(*strategies: str) -> Evaluation:
    examples = []
    for i in range(4):
        image, masks = scene(objects=[("frog", 34 + 2 * i, 48, 16), ("owl", 96, 44, 12)])
        examples.append(Example(f"{i}", image, TASK, masks[0], (masks[0],)))
    return evaluate(examples, [Variant(name, name) for name in strategies], fake_suite(), rounds=20)


def test_an_evaluation_with_all_three_fits_and_draws_it() -> None:
    evaluation = evaluated("grounded_sam", "int", "auto")
    found = of_evaluation(evaluation)
    assert found is not None
    assert found.images == 4
    assert found.points[0].iou < found.points[-1].iou == found.fitted.iou == 1.0
    page = render_page(evaluation)
    assert "auto: accuracy against cost" in page
    assert found.explain() in page


def test_without_one_of_them_there_is_no_fit() -> None:
    evaluation = evaluated("grounded_sam", "auto")
    assert of_evaluation(evaluation) is None
    assert "accuracy against cost" not in render_page(evaluation)
