"""Every HTML page by the rules that a machine can check: names, labels, headings, contrast, focus, narrow screens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from int_model.core.types import Segmentation, Trace
from int_model.datasets.review import ReviewWriter
from int_model.evaluation import BrokenExample, Example, Variant, evaluate
from int_model.evaluation.page import render_page
from int_model.html.environment import render
from int_model.learning.bundle import Manifest
from int_model.report import ReportBuilder
from ml_backend.api.learning.pages import LearningView, learning_page, view_of
from ml_backend.api.project_pages import LabelPrompt, ProjectView, project_page
from ml_backend.api.project_pages import list_page as projects_page
from ml_backend.api.run_actions.form import Form, Offered
from ml_backend.api.run_pages import Notice, RunView, error_page, list_page, run_page, undo_page
from ml_backend.connect.plan import Change, Plan, Wanted
from ml_backend.doctor.diagnosis import ok, problem
from ml_backend.learning.effort import Effort
from ml_backend.learning.versions import Promotion, Version
from ml_backend.runs.types import Progress, Run, RunRequest, RunSpec, RunState, TaskRecord, TaskState
from ml_backend.trial.figures import compare, figures_of, verdict
from ml_backend.trial.page import render_page as render_trial
from ml_backend.trial.types import Outcome, Region, Side, Trial, TrialRequest, Tried
from tests.e2e.browser import open_page
from tests.support.fakes import TASK, fake_suite, scene
from tests.support.made_up import made_up
from tests.unit.int_model.datasets.folders import filled, items

pytestmark = pytest.mark.e2e

_AUDIT = (Path(__file__).parent / "accessibility.js").read_text(encoding="utf-8")
_TABS = 12


@dataclass(frozen=True)
class Found:
    """What is wrong with a page at one width in one colour scheme."""

    page: str
    scheme: str
    width: int
    faults: tuple[str, ...]


def reports(folder: Path) -> Iterator[Path]:
    builder = ReportBuilder("camouflaged animal", [("Profile", "none")])
    image, segmentation = made_up()
    builder.add("a.png", image, segmentation, seconds=1.0)
    builder.add("b.png", image, segmentation)
    bare = Trace("camouflaged animal", "vlm_box")
    builder.add("none.png", image, Segmentation((240, 320), "camouflaged animal", (), 0.0, bare, reason="nothing"))
    builder.add_error("broken.png", "the file is no image")
    (folder / "report.html").write_text(builder.render())
    yield folder / "report.html"


def evaluations(folder: Path) -> Iterator[Path]:
    examples: list[Example | BrokenExample] = [BrokenExample("torn.png", "the file is torn", TASK)]
    for i in range(7):
        image, masks = scene(objects=[("frog", 20 + 4 * i, 35, 15), ("snake", 100, 75, 10)])
        examples.append(Example(f"e{i}", image, TASK, instances=tuple(masks), group=f"g{i % 2}"))
    variants = [Variant("full", note="as published"), Variant("one step", config={"iterations.count": 1})]
    variants.append(Variant("detector", "grounded_sam"))
    outcome = evaluate(examples, variants, fake_suite(), cache_dir=folder / "results", pages=True, rounds=50)
    (folder / "evaluation.html").write_text(render_page(outcome, folder / "results", "results"))
    yield folder / "evaluation.html"


def contact_sheets(folder: Path) -> Iterator[Path]:
    with filled(folder, (200, 180, 160, 0, 1)) as (store, contents):
        writer = ReviewWriter(folder, contents, "Rings", [("Strategy", "int")], identity="a", images=None, page=2)
        for item in items(store, contents):
            writer.add(item)
        writer.close()
    yield from sorted((folder / "review").glob("*.html"))


def served_pages(folder: Path) -> Iterator[Path]:
    spec = RunSpec(RunRequest(project=1), "<View/>", None, "int-nano-int-01234567", "polyp", "int", "0" * 64)
    begun = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
    runs = [
        RunView(Run(str(i), spec, state, "it was stopped", begun), Progress(dict.fromkeys(TaskState, i), 2.0, 1))
        for i, state in enumerate(RunState, 1)
    ]
    records = [TaskRecord(i, state, 1, 0.5, "a reason", 1.0, i) for i, state in enumerate(TaskState)]
    notices = [Notice("a fault", bad=True), Notice("a note")]
    offered = Offered(True, {1: "Frogs", 9: "Newts"}, True, {3: "By doubt"})
    chosen = Form(
        offered, {"project": "1", "view": "7", "limit": "-3"}, 1, True, "it has no view 7", "choose one", "view"
    )
    pages = {
        "runs": list_page(runs, notices, None, chosen),
        "first": list_page([], [], None, Form(Offered())),
        "run": run_page(runs[1], records[:2], records, notices, state=TaskState.DONE, after=3, pictures=False),
        "error": error_page(404, "There is no such run", "GET /runs lists all", "../"),
        "undo": undo_page(runs[1].run, 150, 2, 1),
        **project_pages(),
    }
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
        yield folder / f"{name}.html"


def project_pages() -> dict[str, str]:
    prompts = (LabelPrompt("Frog", "poison frog", "extra params"), LabelPrompt("Newt", "", "no prompt"))
    known = ProjectView(7, "Frogs and newts", 120, 40, 3, prompts, "int-nano-int-01234567", "http://ls:8080/projects/7")
    strange = ProjectView(8, "", 0, 0, 0, (), "", "http://ls:8080/projects/8")
    findings = [ok("connection", "It is reached."), problem("predictions", "None is shown.", "switch them on")]
    change = Change("add to the labeling config: colours", "PATCH", "/api/projects/7", {})
    plan = Plan((change,), ("a remark",), "<View><Image/></View>", "<View><Image/>" + "<Label/>" * 40 + "</View>")
    wanted = Wanted("poison frog", "brush", smart=True)
    return {
        "projects": projects_page([known, strange, replace(strange, version="int-a")], more=True),
        "no-projects": projects_page([], more=False),
        "project": project_page(known, findings, [plan], wanted),
        "refused": project_page(strange, [], [], Wanted(), "it has another control"),
        "try": _page("try.html.j2", WANTED, refused="a reason"),
        "trying": _page("trying.html.j2", WANTED, begun=SimpleNamespace(done=2, total=6)),
    }


WANTED = TrialRequest(7, (Side("frog"), Side("newt", "grounded_sam")), 6)


def _page(template: str, wanted: TrialRequest, **values: Any) -> str:
    given = {"busy": False, "wanted": wanted, "sides": wanted.sides, "strategies": ["int"], "own": "int"} | values
    return render("ml_backend.api", template, root="../../", refresh=3, **given)


def trial() -> Trial:
    image, masks = scene(objects=[("frog", 30, 35, 15), ("snake", 100, 75, 10)])
    found = (Region("Frog", 0.9, masks[0]), Region("Frog", 0.3, masks[1]))
    outcomes = (Outcome(found, 1.0, "", figures_of(found, masks[0])),)
    figures = {"iou": 0.5, "dice": 0.6, "hce": 3.0}
    images = [
        Tried(1, "http://ls:8080/1", image, masks[0], (outcomes[0], Outcome(found, 0.1, "", figures))),
        Tried(2, "http://ls:8080/2", image, masks[0], (Outcome((), 0.1, "", figures), outcomes[0])),
        Tried(3, "http://ls:8080/3", None, None, (Outcome(error="the file is no image"), Outcome(error="the same"))),
    ]
    comparisons, annotated = compare(images, 2)
    told = verdict(comparisons, WANTED.sides, annotated)
    return Trial(WANTED, "Frogs", tuple(images), comparisons, annotated, told)


def trial_pages(folder: Path) -> Iterator[Path]:
    for name, back in (("trial", ""), ("served-trial", "../7")):
        (folder / f"{name}.html").write_text(render_trial(trial(), back))
        yield folder / f"{name}.html"


def test_the_threshold_hides_regions_at_once(tmp_path: Path) -> None:
    file = next(trial_pages(tmp_path))

    def look() -> tuple[int, int, str]:
        with open_page(tmp_path.as_uri()) as page:
            page.goto(file.as_uri())
            before = page.locator("img[data-score]:visible").count()
            slider = page.locator("#threshold")
            slider.evaluate("(it) => { it.value = 0.5; it.dispatchEvent(new Event('input')); }")
            after = page.locator("img[data-score]:visible").count()
            return before, after, page.locator("[data-count]").first.inner_text()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(look).result() == (6, 3, "1 of 2 regions")


def learning_pages(folder: Path) -> Iterator[Path]:
    moment = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
    table = {"base": {"click": 0.5, "box": 0.7, "mean": 0.6}, "outlines": {"click": 0.7, "box": 0.9, "mean": 0.8}}
    figures = {"table": table, "gain": {"value": 0.2, "lower": 0.12, "images": 16}, "reasons": ["it is worse"]}
    versions = []
    for number in (3, 2, 1):
        manifest = Manifest(base="b", data="d", arm="outlines", images=8 * number, figures=figures)
        report = {"worst": [{"image": "task 1", "iou": 0.3}, {"image": "a.png", "iou": 0.4}]}
        kept = Version(f"{number}" * 12, number, number != 2, "", "5", "", manifest, report, moment, number == 1)
        versions.append(view_of(kept))
    history = (Promotion("1" * 12, "", "gate", "the gate", moment),)
    efforts = (Effort("", 12, 31.0, 22.5, 12), Effort("1" * 12, 9, 8.0, 3.0, 9))
    full = LearningView(4, tuple(versions), history, efforts, 21, "http://localhost:8080/projects/4/data")
    empty = LearningView(5, (), (), (), 0)
    pages = {
        "learning": learning_page(full, versions[0], pictures=True, notice="Correction efforts are missing: away"),
        "nothing-learned": learning_page(empty, None, pictures=False),
    }
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
        yield folder / f"{name}.html"


def audit(files: list[Path]) -> list[Found]:
    found = []
    with open_page(files[0].parents[1].as_uri()) as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (1200, 320):
                page.set_viewport_size({"width": width, "height": 900})
                for file in files:
                    page.goto(file.as_uri())
                    faults = page.evaluate(_AUDIT)
                    for _ in range(_TABS):
                        page.keyboard.press("Tab")
                        faults += page.evaluate("focusFault()")
                    if faults:
                        found.append(Found(file.name, scheme, width, tuple(faults)))
    return found


@pytest.mark.parametrize("make", [reports, evaluations, contact_sheets, served_pages, trial_pages, learning_pages])
def test_pages_are_accessible(make: Callable[[Path], Iterator[Path]], tmp_path: Path) -> None:
    files = [path.resolve() for path in make(tmp_path)]
    with ThreadPoolExecutor(1) as pool:  # another session-wide page may hold this thread's event loop
        assert pool.submit(audit, files).result() == []


def test_the_audit_notices_each_fault(tmp_path: Path) -> None:
    file = tmp_path / "bad" / "bad.html"
    file.parent.mkdir()
    file.write_text(
        "<html><head><style>:focus { outline: none }</style></head><body><h1>a</h1><h3>b</h3><img src=x><a href=x></a>"
        "<input><p style='color:#999;background:#fff'>pale</p><div style='width:2000px'>wide</div>"
        "<i id=x></i><i id=x></i>"
        "<div style='overflow:auto;width:50px'><div style='width:99px'>scrolls</div></div></body></html>"
    )
    with ThreadPoolExecutor(1) as pool:
        (first, *_) = pool.submit(audit, [file.resolve()]).result()
    text = " ".join(first.faults)
    for word in (
        "language",
        "title",
        "main",
        "heading",
        "alt",
        "name",
        "label",
        "contrast",
        "wide",
        "id",
        "scrolls",
        "focus",
    ):
        assert word in text, word
