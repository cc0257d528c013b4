"""The report: everything inside the page, every text escaped, numbers as they are, pictures where there are some."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from int_model.evaluation import BrokenExample, Evaluation, Example, Variant, evaluate
from int_model.evaluation.page import render_page
from int_model.html.text import number
from tests.support.fakes import TASK, fake_suite, scene

NASTY = "<script>alert('x')</script>"


def example(i: int, **more: Any) -> Example:
    image, masks = scene(objects=[("frog", 20 + 2 * i, 35, 15), ("snake", 100, 75, 10)][: 1 + i % 2])
    return Example(f"e{i} {NASTY}", image, TASK, instances=tuple(masks), **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    store = tmp_path_factory.mktemp("page") / "results"
    variants = [Variant("full", note=NASTY), Variant("one step", config={"iterations.count": 1})]
    variants.append(Variant("detector", "grounded_sam"))
    examples: list[Example | BrokenExample] = [example(i, group=f"g{i % 2}") for i in range(6)]
    examples.append(BrokenExample("torn", f"broken {NASTY}", TASK))
    outcome = evaluate(examples, variants, fake_suite(), cache_dir=store, pages=True, rounds=100, facts={"Data": NASTY})
    return outcome, store


def test_the_page_is_self_contained_and_escaped(made: tuple[Evaluation, Path]) -> None:
    text = render_page(*made, "results")
    assert NASTY not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", text)
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in re.findall(r'<img src="([^"]*)"', text))
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower()


def test_links_lead_to_pages_that_are_there(made: tuple[Evaluation, Path]) -> None:
    outcome, store = made
    links = set(re.findall(r'href="(results/[^"]*)"', render_page(outcome, store, "results")))
    assert len(links) == 18
    for link in links:
        assert "Segmentation report" in (store.parent / link).read_text()


def test_the_page_shows_what_was_measured(made: tuple[Evaluation, Path]) -> None:
    outcome, store = made
    text = render_page(outcome, store, "results")
    for row in outcome.summary():
        assert f"<b>{number(row['iou'].value, 3)}</b>" in text
        assert f"{number(row['iou'].low, 3)} to {number(row['iou'].high, 3)}" in text
    gap = outcome.difference("detector", "full", "iou")
    assert f"<b>{number(gap.interval.value, 3, sign=True)}</b>" in text
    for word in ("3 variants on 7 images", "group: g1", "one step − full", "Where the variants differ most", "Failed"):
        assert word in text
    assert "results/" not in render_page(outcome, store)
    assert "<img" not in render_page(outcome)


def test_a_page_of_failures_alone_is_still_a_page() -> None:
    outcome = evaluate([BrokenExample("a", "no", TASK)], [Variant("x")], fake_suite())
    assert "no image" not in render_page(outcome)
    assert "1 variant on 1 image" in render_page(outcome)
