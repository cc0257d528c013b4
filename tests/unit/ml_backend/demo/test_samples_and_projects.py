"""The demo's sample list, its projects, and how a stored prediction is judged."""

import json
from pathlib import Path

import pytest
from defusedxml import ElementTree

from ml_backend.demo.outcomes import outcome_of
from ml_backend.demo.processes import DemoError
from ml_backend.demo.projects import plan_projects
from ml_backend.demo.samples import Sample, by_task, load_samples, samples_folder
from ml_backend.labelstudio.clicks import parse_click, target_of
from ml_backend.labelstudio.label_config import parse_label_config

POLYGON = {"type": "polygonlabels", "value": {"points": [[0, 0], [1, 0], [1, 1]], "polygonlabels": ["Polyp"]}}
BRUSH = {"type": "brushlabels", "value": {"format": "rle", "rle": [0], "brushlabels": ["Polyp"]}}
TEXT = {"type": "textarea", "value": {"text": ["polyp"]}}


def _sample(name: str, task: str = "polyp", empty: bool = False) -> Sample:
    return Sample(image=Path(name), mask=Path("m.png"), task=task, name="x", instances=0 if empty else 1)


def test_the_bundled_samples_load() -> None:
    samples = load_samples(samples_folder())
    assert len(by_task(samples)) >= 3
    assert any(not sample.empty for sample in samples)


def test_a_missing_list_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"samples\.json is missing"):
        load_samples(tmp_path)
    entry = {"file": "gone.png", "mask": "gone.mask.png", "task": "polyp", "name": "polyp", "instances": 1}
    (tmp_path / "samples.json").write_text(json.dumps([entry]))
    with pytest.raises(DemoError, match=r"gone\.png, which is missing"):
        load_samples(tmp_path)


def test_projects_carry_the_prompt_once_each() -> None:
    groups = by_task([_sample("a", "camouflaged animal"), _sample("b", 'a "quoted" <thing>'), _sample("c", "polyp")])
    plans = plan_projects(groups)
    assert [plan.task for plan in plans] == list(groups)
    assert {plan.kind for plan in plans} == {"PolygonLabels", "BrushLabels"}
    for plan in plans:
        root = ElementTree.fromstring(plan.label_config)
        prompts = [label.get("model_prompt") for label in root.iter("Label")]
        told = [prompt for prompt in [*prompts, plan.extra_params] if prompt]
        assert told == [plan.task]


def test_smart_tools_prompt_for_the_mask_and_are_not_filled_themselves() -> None:
    for plan in plan_projects(by_task([_sample("a", "camouflaged animal"), _sample("b", "polyp")])):
        config = parse_label_config(plan.label_config)
        (target,) = config.targets("image")
        assert target.control.name == "mask"
        for name in ("click", "box"):
            region = {"type": "keypointlabels", "from_name": name, "to_name": "image"}
            click = parse_click({"result": [region | {"value": {"x": 1, "y": 1, "keypointlabels": [plan.label]}}]})
            assert click is not None
            assert target_of(config, click, "image") == (target, "")


@pytest.mark.parametrize(
    ("results", "empty", "regions", "fine"),
    [
        (None, False, 0, False),
        ([], False, 0, False),
        ([], True, 0, True),
        (None, True, 0, False),
        ([POLYGON], False, 1, True),
        ([BRUSH, POLYGON, TEXT], False, 2, True),
        ([TEXT], False, 0, False),
    ],
)
def test_a_task_is_judged_by_its_regions(results: list[object] | None, empty: bool, regions: int, fine: bool) -> None:
    predictions = [] if results is None else [{"id": 3, "result": results, "score": 0.5, "model_version": "v"}]
    outcome = outcome_of(1, 2, _sample("a", empty=empty), predictions)
    assert (outcome.regions, outcome.fine) == (regions, fine)


def test_the_newest_prediction_counts() -> None:
    old = {"id": 1, "result": [POLYGON], "score": 0.5, "model_version": "old"}
    new = {"id": 2, "result": [], "score": None, "model_version": "new"}
    assert outcome_of(1, 2, _sample("a"), [new, old]).model_version == "new"
