from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from int_model.core.config import IntConfig
from int_model.strategies.base import register
from int_model.strategies.registry import STRATEGIES, default_config, make_strategy
from tests.support.fakes import fake_suite

MODULE = """
from int_model.core.config import StrategyConfig
from int_model.core.options import Section
from int_model.core.types import Instance, Segmentation, Trace
from int_model.strategies.base import register


class BoxSection(Section):
    share: float = 0.5


class BoxConfig(StrategyConfig):
    box: BoxSection = BoxSection()


class CentreBox:
    name = "centre_box"

    def __init__(self, suite, config, progress=None):
        self.share = config.box.share

    def segment(self, images, task):
        return [self.one(image, task) for image in images]

    def one(self, image, task):
        import numpy as np

        height, width = image.shape[:2]
        mask = np.zeros((height, width), dtype=bool)
        mask[: int(height * self.share)] = True
        trace = Trace(task.text, self.name)
        return Segmentation((height, width), task.text, (Instance.of_mask(mask, "box", 0.5),), 0.5, trace, name="box")


register(CentreBox.name, "The upper part of the image.", BoxConfig, CentreBox)
"""

PROGRAM = """
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from int_model import STRATEGIES, ModelOptions, TaskPrompt, make_strategy
from int_model.evaluation import Example, Variant, evaluate
from int_model.models import suite as suites
from ml_backend.cli.main import app
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.serving.model_loading import identify
from ml_backend.settings import Settings
from tests.support.fakes import fake_suite

image, task = np.zeros((40, 60, 3), np.uint8), TaskPrompt("frog")
assert "centre_box" in STRATEGIES
(result,) = make_strategy("centre_box", fake_suite()).segment([image], task)
assert result.mask.sum() == 20 * 60
config = ModelOptions(strategy="centre_box", changes={"box.share": 0.25}).config()
(result,) = make_strategy("centre_box", fake_suite(), config).segment([image], task)
assert result.mask.sum() == 10 * 60

settings = Settings(strategy="centre_box", int_config={"box": {"share": 0.1}})
assert identify(settings).strategy == settings.output.strategy == "centre_box"
assert OutputOptions(strategy="centre_box").strategy == "centre_box"
assert "centre_box" in str(Settings.model_fields["strategy"].description)

example = Example("one", image, "frog", mask=np.ones((40, 60), dtype=bool))
outcome = evaluate([example], [Variant("new", "centre_box", {"box.share": 0.5})], fake_suite())
assert abs(outcome.records[0].metrics["iou"] - 0.5) < 0.01, outcome.records[0].metrics

suites.load_suite = lambda *_, **__: fake_suite()
for folder in ("images", "masks"):
    Path(folder).mkdir()
Image.fromarray(image).save("images/a.png")
Image.fromarray(np.full((40, 60), 255, np.uint8)).save("masks/a.png")
for arguments in (
    ["segment", "images/a.png", "--task", "frog", "--strategy", "centre_box", "--set", "box.share=0.5", "--out", "res"],
    ["evaluate", "images", "masks", "--task", "frog", "--strategies", "int,centre_box", "--set", "box.share=0.5"],
):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
assert "centre_box" in Path("res/report.html").read_text()
wrong = ["segment", "images/a.png", "--task", "frog", "--strategy", "centre_box", "--set", "pnm.key=name"]
done = CliRunner().invoke(app, wrong)
assert done.exit_code == 2
assert "strategy 'centre_box': there is no option 'pnm'" in done.output, done.output
"""


def run_python(program: str, site: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A new interpreter to which the packages in ``site`` are installed."""
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[4])])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_strategy_is_one_file(tmp_path: Path) -> None:
    """Installed as a package of its own, it is offered everywhere; no file of ours names it."""
    site, work = tmp_path / "site", tmp_path / "work"
    about = site / "centre_box-1.0.dist-info"
    about.mkdir(parents=True)
    work.mkdir()
    (site / "centre_box.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: centre-box\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[int_model.strategies]\ncentre_box = centre_box\n")
    done = run_python(PROGRAM, site, work)
    assert done.returncode == 0, done.stderr


def test_a_package_that_cannot_be_imported_harms_no_other(tmp_path: Path) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[int_model.strategies]\nbroken = not_there\n")
    program = "from int_model import STRATEGIES; print(len(STRATEGIES), 'broken' in STRATEGIES)"
    done = run_python(program, tmp_path, tmp_path)
    assert done.stdout.split() == [str(len(STRATEGIES)), "False"], done.stderr
    assert "the strategy 'broken' (not_there) cannot be used" in done.stderr


def test_names_are_unique_and_the_default_comes_first() -> None:
    assert next(iter(STRATEGIES)) == "int"
    assert list(STRATEGIES)[1:] == sorted(list(STRATEGIES)[1:])
    assert all(entry.summary.endswith(".") and entry.name == name for name, entry in STRATEGIES.items())
    entry = STRATEGIES["int"]
    with pytest.raises(ValueError, match="two strategies are called 'int'"):
        register("int", "Another.", IntConfig, entry.make)


def test_a_configuration_of_another_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="PromacConfig, not IntConfig; make it with default_config"):
        make_strategy("promac", fake_suite(), IntConfig())
    assert make_strategy("promac", fake_suite(), default_config("promac")).name == "promac"


def test_names_are_known_without_heavy_imports() -> None:
    program = "import sys\nfrom int_model import STRATEGIES\nlist(STRATEGIES)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
