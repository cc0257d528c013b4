"""The command line with fake models: files, JSON, messages and exit statuses as a user or a script meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image as PilImage
from typer.testing import CliRunner

from int_model.core.options import nested, parse_changes
from int_model.models import suite as suites
from int_model.models.suite import profile_names
from int_model.strategies.registry import STRATEGIES
from ml_backend.cli import main as cli
from ml_backend.cli import segment as segment_command
from tests.support.fakes import TASK, FakeVlm, fake_suite, scene

Run = Callable[..., Result]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """Fakes in place of checkpoints; the calls of ``load_suite``."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    def load(profile: Any, **options: Any) -> Any:
        calls.append((profile, options))
        options["progress"]("vlm", 0, 5)
        print("a library that prints to stdout")  # noqa: T201
        return fake_suite()

    monkeypatch.setattr(suites, "load_suite", load)
    return calls


@pytest.fixture
def run(loaded: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(cli.app, [*arguments], env={"COLUMNS": "200", "TERM": "dumb"})

    return invoke


def save_scene(path: Path, *objects: tuple[str, int, int, int], size: tuple[int, int] = (96, 128)) -> np.ndarray:
    image, masks = scene(*size, objects=objects)
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(image).save(path)
    return np.logical_or.reduce(masks) if masks else np.zeros(size, bool)


def read_mask(path: Path) -> np.ndarray:
    with PilImage.open(path) as picture:
        values = np.asarray(picture)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_a_folder_becomes_masks_overlays_traces_and_one_report(run: Run, tmp_path: Path) -> None:
    truth = save_scene(tmp_path / "in/frog.png", ("frog", 40, 40, 14))
    other = save_scene(tmp_path / "in/deep/frog.png", ("owl", 90, 60, 12))
    result = run("segment", "in", "--task", TASK, "--out", "res", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""

    files = {p.relative_to(tmp_path / "res").as_posix() for p in (tmp_path / "res").rglob("*") if p.is_file()}
    masks = {f"masks/{stem}{tail}.png" for stem in ("frog", "deep-frog") for tail in ("", "_0")}
    rest = {f"overlay/{s}.png" for s in ("frog", "deep-frog")} | {f"trace/{s}.json" for s in ("frog", "deep-frog")}
    assert files == masks | rest | {"report.html"}
    assert iou(read_mask(tmp_path / "res/masks/frog.png"), truth) > 0.8
    assert iou(read_mask(tmp_path / "res/masks/deep-frog.png"), other) > 0.8

    record = json.loads((tmp_path / "res/trace/frog.json").read_bytes())
    assert record["name"] == "frog"
    assert record["image"] == "in/frog.png"
    assert len(record["trace"]["iterations"]) == 5
    assert record["size"] == {"height": 96, "width": 128}
    page = (tmp_path / "res/report.html").read_text()
    assert page.count('<details class="image"') == 2
    assert "deep/frog.png" in page
    assert "2 of 2 images done" in result.stderr
    assert "in/frog.png: frog" in result.stderr


def test_json_alone_on_stdout_with_every_field_and_no_files(run: Run, tmp_path: Path) -> None:
    truth = save_scene(tmp_path / "a.png", ("frog", 40, 40, 14))
    save_scene(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("no image at all")
    result = run("segment", "a.png", "c.png", "b.png", "--task", f" {TASK}. ", "--json")
    assert result.exit_code == 1
    first, broken, empty = json.loads(result.stdout)

    assert set(first) == {"image", "prompt", "instances", "seconds", "calls"}
    assert (first["image"], first["prompt"]) == ("a.png", TASK)
    (instance,) = first["instances"]
    assert set(instance) == {"label", "score", "box_xyxy", "area"}
    assert instance["label"] == "frog"
    assert 0 < instance["score"] <= 1
    assert abs(instance["area"] - truth.sum()) < 0.25 * truth.sum()
    assert np.abs(np.array(instance["box_xyxy"]) - [26, 26, 55, 55]).max() <= 4
    assert first["calls"]["vlm_generate"] == 36
    assert first["seconds"] > 0
    assert broken == {
        "image": "c.png", "prompt": TASK, "instances": [], "seconds": 0.0, "calls": {}, "error": broken["error"]
    }  # fmt: skip
    assert empty["image"] == "b.png"
    assert not [p for p in tmp_path.iterdir() if p.is_dir()], "nothing but JSON was asked for"
    assert "c.png: " in result.stderr
    assert "1 failed" in result.stderr


def test_json_and_files_tell_the_same(run: Run, tmp_path: Path) -> None:
    save_scene(tmp_path / "a.png", ("frog", 40, 40, 14), ("frog", 100, 50, 12))
    result = run("segment", "a.png", "--task", TASK, "--json", "--out", "res", "--no-report")
    (record,) = json.loads(result.stdout)
    assert not (tmp_path / "res/report.html").exists()
    assert len(record["instances"]) == 2
    union = np.zeros((96, 128), bool)
    for i, instance in enumerate(record["instances"]):
        mask = read_mask(tmp_path / f"res/masks/a_{i}.png")
        assert mask.sum() == instance["area"]
        x1, y1, x2, y2 = map(int, instance["box_xyxy"])
        assert mask[y1:y2, x1:x2].sum() == instance["area"]
        union |= mask
    np.testing.assert_array_equal(read_mask(tmp_path / "res/masks/a.png"), union)


def test_broken_files_give_one_line_each_and_the_rest_is_done(run: Run, tmp_path: Path) -> None:
    save_scene(tmp_path / "in/good.png", ("frog", 40, 40, 14))
    (tmp_path / "in/text.png").write_text("<html>")
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/good.png").read_bytes()[:300])
    (tmp_path / "in/[red]empty.jpg").write_bytes(b"")
    result = run("segment", "in", "--task", TASK)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    for name in ("in/text.png", "in/cut.png", "in/[red]empty.jpg"):
        (line,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert len(line) > len(name) + 15
    assert "Traceback" not in result.output
    assert (tmp_path / "int-results/masks/good.png").exists()
    assert not (tmp_path / "int-results/masks/cut.png").exists()
    page = (tmp_path / "int-results/report.html").read_text()
    assert page.count('class="notice bad"') == 3


NEEDS = {"sam3": ["--model", "concepts.id=facebook/sam3"]}


def test_of_several_pages_the_first_is_used_and_that_is_said(run: Run, tmp_path: Path) -> None:
    pages = [PilImage.new("L", (64, 48), value) for value in (10, 200, 90)]
    pages[0].save(tmp_path / "book.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "one.tif")
    done = run("segment", str(tmp_path), "--task", "red thing", "--json")
    book, one = json.loads(done.stdout)
    assert "several pages, of which only the first is used" in book["note"], "nothing used to say so"
    assert "note" not in one
    assert done.stderr.count("several pages") == 1
    for command in (["medical", "prepare", str(tmp_path)], ["bootstrap", str(tmp_path), "--task", "red thing"]):
        told = run(*command, "--out", str(tmp_path / command[0])).stderr
        assert told.count("several pages") == 1, told


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "ppt"])  # the fakes have no generator
def test_every_strategy_can_be_asked_for(run: Run, tmp_path: Path, strategy: str) -> None:
    save_scene(tmp_path / "a.png", ("frog", 40, 40, 14))
    result = run("segment", "a.png", "--task", "frog", "--strategy", strategy, "--out", "res", *NEEDS.get(strategy, []))
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "res/trace/a.json").read_bytes())["trace"]["strategy"] == strategy
    assert strategy in (tmp_path / "res/report.html").read_text()


def test_strategies_are_listed_with_their_options(run: Run) -> None:
    result = run("strategies")
    assert result.exit_code == 0, result.output
    for name in STRATEGIES:
        assert name in result.stdout
    assert "promac.alpha=1.0" in result.stdout.replace("\n", "")


def test_an_unknown_strategy_is_told_the_names(run: Run) -> None:
    result = run("segment", "a.png", "--task", "x", "--strategy", "magic")
    assert result.exit_code == 2
    told = " ".join(result.output.replace("│", " ").split())
    assert f"there is no strategy 'magic'; choose one of: {', '.join(STRATEGIES)}" in told


def test_options_reach_the_method_and_the_models(
    run: Run, tmp_path: Path, loaded: list[tuple[Any, dict[str, Any]]]
) -> None:
    save_scene(tmp_path / "a.png", ("frog", 40, 40, 14))
    options = ["--set", "iterations.count=2", "--set", "patches.scales=[1, 2]", "--model", "vlm.max_batch=3"]
    result = run("segment", "a.png", "--task", TASK, "--out", "res", "--preset", "paper", "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    trace = json.loads((tmp_path / "res/trace/a.json").read_bytes())["trace"]
    assert (len(trace["iterations"]), len(trace["patches"])) == (2, 5)
    ((profile, given),) = loaded
    assert (profile.name, profile.vlm.max_batch, given["device"]) == ("nano", 3, "cpu")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["segment", "a.png", "--task", "  "], "the task prompt is empty"),
        (["segment", "nowhere.png", "--task", "x"], "there is no file or folder 'nowhere.png'"),
        (["segment", "empty", "--task", "x"], "holds no image"),
        (["segment", "a.png", "--task", "x", "--profile", "huge"], "there is no profile 'huge'; use one of"),
        (["segment", "a.png", "--task", "x", "--preset", "slow"], "there is no preset 'slow'; choose one of"),
        (["segment", "a.png", "--task", "x", "--set", "iterations.count=0"], "option 'iterations.count'"),
        (["segment", "a.png", "--task", "x", "--set", "iteration.count=3"], "there is no option 'iteration'"),
        (["segment", "a.png", "--task", "x", "--set", "three"], "'three' is not KEY=VALUE"),
        (["segment", "a.png", "--task", "x", "--model", "vlm.size=3"], "profile 'nano'"),
        (["segment", "a.png", "--task", "x", "--model", "int.iterations=2"], "profile 'nano', table [int]: option"),
        (["segment", "a.png", "--task", "x", "--out", "a.png"], "choose another --out"),
        (["segment", "res/masks/a.png", "--task", "x", "--out", "res"], "choose another --out"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    run: Run, tmp_path: Path, loaded: list[object], arguments: list[str], sentence: str
) -> None:
    save_scene(tmp_path / "a.png")
    save_scene(tmp_path / "res/masks/a.png")
    (tmp_path / "empty").mkdir()
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("int-backend: ")
    assert sentence in line
    assert not loaded, "no model is loaded for a wrong command line"


@pytest.mark.parametrize(
    "arguments",
    [["segment"], ["segment", "a.png"], ["segment", "a.png", "--task", "x", "--strategy", "magic"], ["nonsense"]],
)
def test_what_the_parser_refuses_has_status_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (RuntimeError("no weights for the vlm; download them"), 1, "no weights for the vlm; download them"),
        (ValueError("this machine has no device 'cuda'"), 2, "this machine has no device 'cuda'"),
        (KeyError("x"), 1, "unexpected KeyError: 'x'; run it again with --debug"),
    ],
)
def test_models_that_do_not_load(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, sentence: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(suites, "load_suite", load)
    save_scene(tmp_path / "a.png")
    result = run("segment", "a.png", "--task", "x", "--json")
    assert result.exit_code == status
    assert result.stdout == ""
    assert sentence in result.stderr
    assert run("segment", "a.png", "--task", "x", "--debug").exception is error


class TiredVlm(FakeVlm):
    """Someone presses Ctrl-C in the second image."""

    def dialogue(self, images: Any, questions: Any, max_new_tokens: Any) -> Any:
        if self.batches:
            raise KeyboardInterrupt
        return super().dialogue(images, questions, max_new_tokens)


def test_an_interrupted_run_keeps_what_is_done(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "load_suite", lambda *_, **__: fake_suite(vlm=TiredVlm()))
    for i in range(3):
        save_scene(tmp_path / f"{i}.png", ("frog", 40, 40, 14))
    result = run("segment", "0.png", "1.png", "2.png", "--task", TASK, "--out", "res", "--json", "--batch-size", "1")
    assert result.exit_code == 130
    assert [item["image"] for item in json.loads(result.stdout)] == ["0.png"]
    assert "stopped before 2 more" in result.stderr
    assert (tmp_path / "res/report.html").read_text().count('<details class="image"') == 1


def test_a_run_stopped_before_its_first_image_points_to_no_report(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    save_scene(tmp_path / "0.png")
    monkeypatch.setattr(suites, "load_suite", stop)
    result = run("segment", "0.png", "--task", TASK, "--out", "res")
    assert result.exit_code == 130
    assert "stopped before 1 more" in result.stderr
    assert "see " not in result.stderr, "there is no report.html"


def test_a_full_disk_is_that_image_s_error(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment_command.OutputWriter, "write", full)
    save_scene(tmp_path / "a.png", ("frog", 40, 40, 14))
    result = run("segment", "a.png", "--task", TASK, "--json", "--out", "res")
    assert result.exit_code == 1
    assert "No space left on device" in json.loads(result.stdout)[0]["error"]


def test_results_inside_the_input_folder_are_not_taken_for_input(run: Run, tmp_path: Path) -> None:
    save_scene(tmp_path / "a.png", ("frog", 40, 40, 14))
    for _ in range(2):
        result = run("segment", ".", "--task", TASK, "--out", ".")
        assert result.exit_code == 0, result.output
        assert "1 of 1 images done" in result.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ('"3"', "3"), ("name", "name"), ("[1, 2]", [1, 2]), ("./a=b", "./a=b"),
     ("", ""), ("1\nb = 2", "1\nb = 2")],
)  # fmt: skip
def test_values_of_changes(text: str, value: object) -> None:
    assert parse_changes([f" a.b ={text}"]) == {"a.b": value}


def test_changes_nest() -> None:
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    for clash in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}):
        with pytest.raises(ValueError, match="both as a value and as a section"):
            nested(clash)


def test_profiles_are_listed_with_their_licences(run: Run) -> None:
    result = run("profiles")
    assert result.exit_code == 0, result.output
    for name in profile_names():
        assert name in result.stdout
    assert "Apache-2.0" in result.stdout


def test_profiles_that_fit_a_memory_are_told_apart(run: Run) -> None:
    result = run("profiles", "--fit", "--memory", "16")
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines() if line.count("│") > 4]
    fits = {row[1]: row[5] for row in rows}
    assert (fits["llava"], fits["nano"]) == ("no", "yes")
    assert run("profiles", "--fit", "--memory", "0.1").exit_code == 1


def test_help_does_not_import_what_is_heavy() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom ml_backend.cli.main import app\n"
        "assert CliRunner().invoke(app, ['segment', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'cv2', 'fastapi', 'uvicorn', 'rich.progress'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version(run: Run) -> None:
    assert run("--version").stdout.count(".") == 2
