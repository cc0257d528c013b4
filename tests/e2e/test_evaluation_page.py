"""The evaluation's report in a real browser: nothing is loaded from elsewhere, every picture shows, links work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from int_model.evaluation import Example, Variant, evaluate
from int_model.evaluation.page import render_page
from tests.e2e.browser import open_page
from tests.support.fakes import TASK, fake_suite, scene

pytestmark = pytest.mark.e2e

_STATE = """() => ({
  images: [...document.images].map((i) => i.naturalWidth),
  wide: document.documentElement.scrollWidth - innerWidth,
  text: document.querySelector('tbody tr td.best b')?.textContent,
  dots: [...document.querySelectorAll('svg circle')].map((c) => c.getBoundingClientRect().width),
  outside: [...document.querySelectorAll('figure svg circle')].filter((c) => {
    const a = c.getBoundingClientRect(), b = c.closest('figure').getBoundingClientRect();
    return a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom;
  }).length,
})"""


def use(file: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {"messages": [], "requests": []}
    with open_page(file.parent.as_uri()) as page:
        page.on("console", lambda message: seen["messages"].append(message.text))
        page.on("request", lambda request: seen["requests"].append(request.url))
        page.goto(file.as_uri())
        seen["normal"] = page.evaluate(_STATE)
        page.set_viewport_size({"width": 420, "height": 800})
        seen["narrow"] = page.evaluate(_STATE)
        page.locator(".shot a").first.click()
        page.wait_for_load_state()
        seen["story"] = page.title()
    return seen


def test_the_report_shows_itself(tmp_path: Path) -> None:
    examples = []
    for i in range(4):
        image, masks = scene(objects=[("frog", 20 + 4 * i, 35, 15), ("snake", 100, 75, 10)])
        examples.append(Example(f"e{i}", image, TASK, instances=tuple(masks)))
    variants = [Variant("full"), Variant("a variant with a name that is rather long", config={"iterations.count": 1})]
    variants.append(Variant("detector", "grounded_sam"))
    outcome = evaluate(examples, variants, fake_suite(), cache_dir=tmp_path / "results", pages=True, rounds=50)
    file = tmp_path / "report.html"
    file.write_text(render_page(outcome, tmp_path / "results", "results"), encoding="utf-8")
    with ThreadPoolExecutor(1) as other:  # Playwright's loop must not meet the test's
        seen = other.submit(use, file).result()
    assert seen["messages"] == []
    assert {url.partition(":")[0] for url in seen["requests"]} <= {"file", "data"}
    for state in (seen["normal"], seen["narrow"]):
        assert len(state["images"]) >= 6
        assert min(state["images"]) > 0
        assert state["wide"] <= 0
        assert min(state["dots"]) > 1
        assert state["outside"] == 0
    assert seen["normal"]["text"] == f"{outcome.summary()[2]['iou'].value:.3f}"
    assert TASK in seen["story"]
