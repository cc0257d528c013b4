"""``int-backend evaluate`` with fake models, as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image as PilImage
from typer.testing import CliRunner

from int_model.evaluation import load_evaluation
from int_model.models import suite as suites
from ml_backend.cli import main as cli
from ml_backend.cli.commands.evaluate import EvaluateOptions, listed, whole_numbers
from ml_backend.cli.evaluate import chosen_variants
from tests.support.fakes import TASK, fake_suite, scene

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suites, "load_suite", lambda _profile, **_options: fake_suite())
    for i in range(3):
        image, masks = scene(objects=[("frog", 30 + 8 * i, 40, 15)])
        for folder, array in (("Imgs", image), ("GT", masks[0].astype(np.uint8) * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            PilImage.fromarray(array).save(tmp_path / folder / f"{i}.png")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(
            cli.app, ["evaluate", "--rounds", "20", *arguments], env={"COLUMNS": "200", "TERM": "dumb"}
        )

    return invoke


def test_folder_pairs_become_a_report_and_a_json(run: Run, tmp_path: Path) -> None:
    result = run("Imgs", "GT", "--task", TASK, "--out", "out", "--variant", "one:iterations.count=1", "--strategies",
                 "int, grounded_sam")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    outcome = load_evaluation(tmp_path / "out" / "evaluation.json")
    assert [row.variant for row in outcome.summary()] == ["int", "grounded_sam", "one"]
    assert all(row.images == 3 for row in outcome.summary())
    assert outcome.variants[2].config == {"iterations.count": 1}
    assert "3 variants on 3 images" in (tmp_path / "out" / "report.html").read_text()
    assert "9 results" in result.stderr
    again = run("Imgs", "GT", "--task", TASK, "--out", "out", "--strategies", "grounded_sam")
    assert "kept from before" in again.stderr


def test_a_broken_image_gives_status_1_and_the_rest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "Imgs" / "1.png").write_bytes(b"x")
    result = run("Imgs", "GT", "--task", TASK, "--strategies", "grounded_sam", "--no-pages")
    assert result.exit_code == 1
    outcome = load_evaluation(tmp_path / "int-evaluation" / "evaluation.json")
    assert (outcome.summary()[0].images, outcome.summary()[0].failed) == (2, 1)
    assert not list((tmp_path / "int-evaluation").glob("results/*/*.html"))


def test_parts_limits_and_protocols_reach_the_run(run: Run, tmp_path: Path) -> None:
    common = ("Imgs", "GT", "--task", TASK, "--strategies", "grounded_sam", "--protocol", "promac")
    assert run(*common, "--part", "2/2").exit_code == 0
    file = tmp_path / "int-evaluation" / "evaluation.json"
    assert [r.example for r in load_evaluation(file).records] == ["1"]
    result = run(*common, "--limit", "2")
    assert result.exit_code == 0, result.output
    outcome = load_evaluation(file)
    assert [r.example for r in outcome.records] == ["0", "1"]
    assert outcome.setting.protocol == "promac"
    assert outcome.summary()[0]["wf_b03"].value == pytest.approx(1, abs=0.02)


def test_coco_and_exports_are_truths_too(run: Run, tmp_path: Path) -> None:
    box = [[15, 25, 45, 25, 45, 55, 15, 55]]
    coco: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "categories": [{"id": 1, "name": "frog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": box}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    common = ("--task", TASK, "--strategies", "grounded_sam", "--out", "out")
    result = run("Imgs", "--coco", "coco.json", *common)
    assert result.exit_code == 0, result.output
    assert load_evaluation(tmp_path / "out" / "evaluation.json").summary()[0]["ap_50"].value == pytest.approx(1)
    points = [[100 * x / 128, 100 * y / 96] for x, y in ((15, 25), (45, 25), (45, 55), (15, 55))]
    region = {"id": "a", "type": "polygonlabels", "original_width": 128, "original_height": 96,
              "value": {"points": points, "polygonlabels": ["Frog"]}}  # fmt: skip
    export = [{"id": 5, "data": {"image": "0.png"}, "annotations": [{"result": [region]}]}]
    (tmp_path / "export.json").write_text(json.dumps(export))
    result = run("Imgs", "--label-studio", "export.json", "--label", "Frog", *common)
    assert result.exit_code == 0, result.output
    assert load_evaluation(tmp_path / "out" / "evaluation.json").records[0].example == "task 5, 0.png"


def test_scenes_of_several_seeds_are_groups(run: Run, tmp_path: Path) -> None:
    result = run("--nano", "1", "--seeds", "1,2", "--strategies", "grounded_sam", "--no-pages")
    assert result.exit_code == 0, result.output
    outcome = load_evaluation(tmp_path / "int-evaluation" / "evaluation.json")
    assert "group: scenes of seed 2" in outcome.slices()


def test_cells_of_a_world_are_groups(run: Run, tmp_path: Path) -> None:
    command = (
        "--nano",
        "1",
        "--world",
        "woven",
        "--cells",
        "--limit",
        "2",
        "--strategies",
        "grounded_sam",
        "--no-pages",
    )
    result = run(*command)
    assert result.exit_code == 0, result.output
    outcome = load_evaluation(tmp_path / "int-evaluation" / "evaluation.json")
    assert {"group: plain, clean, home", "group: plain, clean, away"} <= set(outcome.slices())
    assert "of every cell of seed 2501 of the world woven" in outcome.setting.facts["Data"]
    assert "## Scenes without a target" in (tmp_path / "int-evaluation" / "cells.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "nothing says what is true"),
        (("Imgs", "GT", "--coco", "x.json"), "MASKS and --coco were given together"),
        (("Imgs", "GT"), "give the task prompt"),
        (("Imgs", "--nano", "3"), "leave IMAGES and --task out"),
        (("--nano", "3", "--world", "mars"), "there is no world 'mars'; choose one of: home"),
        (("Imgs", "GT", "-t", "polyp", "--cells"), "give --nano N with them"),
        (("--coco", "x.json", "-t", "polyp"), "give the folder of the images"),
        (("Imgs", "GT", "-t", "polyp", "--label", "a"), "mask files have no labels"),
        (("Imgs", "GT", "-t", "polyp", "--strategies", "int,magic"), "there is no strategy 'magic'"),
        (("Imgs", "GT", "-t", "polyp", "--strategies", "int,"), "has an empty entry"),
        (("Imgs", "GT", "-t", "polyp", "--variant", "a"), "is not NAME:KEY=VALUE"),
        (("Imgs", "GT", "-t", "polyp", "--variant", "a:switches.x=1"), "there is no option 'switches.x'"),
        (("Imgs", "GT", "-t", "polyp", "--protocol", "x"), "there is no protocol 'x'"),
        (("Imgs", "GT", "-t", "polyp", "--part", "3/2"), "is not like 1/2"),
        (("Imgs", "GT", "-t", "polyp", "--seeds", "1,a"), "different whole numbers"),
        (("Imgs", "GT", "-t", "polyp", "--seeds", "1,2"), "nothing in the profile 'nano' depends on a seed"),
        (("Imgs", "nowhere", "-t", "polyp"), "is not a folder"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(arguments: tuple[str, ...], sentence: str, run: Run) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_ablations_come_first_and_stand_alone_unless_strategies_are_named(tmp_path: Path) -> None:
    rows = [v.name for v in chosen_variants(EvaluateOptions(out=tmp_path, ablations=("3c",)))]
    assert rows == ["full", "w/o SMG", "w/o PNM", "w/o PSNM", "w/o HCG"]
    more = EvaluateOptions(out=tmp_path, ablations=("3a", "3c"), strategies=("promac",), variants=("x:pnm.key=name",))
    assert [v.name for v in chosen_variants(more)][-2:] == ["promac", "x"]
    with pytest.raises(ValueError, match="there is no ablation '3d'"):
        chosen_variants(EvaluateOptions(out=tmp_path, ablations=("3d",)))


def test_an_ablation_with_shared_calls_on_the_command_line(run: Run, tmp_path: Path) -> None:
    common = ("Imgs", "GT", "--task", TASK, "--limit", "1", "--ablation", "3a", "--no-pages")
    plain, shared = run(*common, "--out", "plain"), run(*common, "--out", "shared", "--share-calls")
    assert (plain.exit_code, shared.exit_code) == (0, 0), shared.output
    one, two = (load_evaluation(tmp_path / out / "evaluation.json") for out in ("plain", "shared"))
    assert [(r.variant, r.metrics["iou"], r.calls) for r in one.records] == [
        (r.variant, r.metrics["iou"], r.calls) for r in two.records
    ]
    assert "charged to every variant" in two.setting.facts["Model calls"]
    assert "Model calls" not in one.setting.facts
    assert "S 0.842" in one.variants[0].note


def test_variants_come_from_options_and_files(tmp_path: Path) -> None:
    file = tmp_path / "variants.toml"
    file.write_text(
        '["-PNM"]\nnote = "scores are reset"\nswitches.pnm = false\n'
        '[low]\nstrategy = "grounded_sam"\ndetector.box_threshold = 0.2\n'
    )
    options = EvaluateOptions(
        out=tmp_path,
        variants=("short:iterations.count=1", "short:patches.scales=[1, 2]", "vlm:strategy=vlm_box"),
        variants_file=file,
    )
    names = [(v.name, v.strategy, dict(v.config)) for v in chosen_variants(options)]
    assert names == [
        ("int", "int", {}),
        ("-PNM", "int", {"switches": {"pnm": False}}),
        ("low", "grounded_sam", {"detector": {"box_threshold": 0.2}}),
        ("short", "int", {"iterations.count": 1, "patches.scales": [1, 2]}),
        ("vlm", "vlm_box", {}),
    ]
    file.write_text("a = 1\n")
    with pytest.raises(ValueError, match="stands outside of a table"):
        chosen_variants(options)
    file.write_text("a = [\n")
    with pytest.raises(ValueError, match="is not TOML"):
        chosen_variants(options)
    assert listed("a, b") == ("a", "b")
    assert whole_numbers("3,1") == (3, 1)
