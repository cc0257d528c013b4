"""Adding a model adapter: one module and one profile file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box
from int_model.models.profile import ProfileError, profile_names, read_profile
from int_model.models.suite import load_suite, profile_fingerprint
from int_model.strategies.registry import make_strategy
from tests.unit.int_model.models.tiny import picture

ADAPTER = """
from typing import ClassVar

from pydantic import Field

from int_model.core.types import Box, Detection
from int_model.models.profile import RoleSettings


class Settings(RoleSettings):
    role: ClassVar = "detector"
    loader: ClassVar = "centre_adapter:load"
    part: float = Field(default=0.5, gt=0, le=1)


class Speechless(Settings):
    loader: ClassVar = "centre_adapter:no_model"


class Centre:
    def __init__(self, part):
        self.part = part

    def detect(self, images, names, *, box_threshold, text_threshold):
        boxes = [Box.whole(*image.shape[:2]).enlarge((self.part - 1) / 2) for image in images]
        return [[Detection(box, 0.9, name)] for box, name in zip(boxes, names, strict=True)]


def load(settings, source):
    assert source is None
    return Centre(settings.part)


def no_model(settings, source):
    return object()
"""


@pytest.fixture
def mine(profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the tiny profile with the lines in ``[detector]``; the adapter's module is there."""
    (tmp_path / "centre_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(profile.parent, tmp_path / "models")

    def written(lines: str) -> Path:
        path = tmp_path / "models" / "mine.toml"
        path.write_text(profile.read_text().replace('id = "./owl"', lines))
        return path

    yield written
    sys.modules.pop("centre_adapter", None)


def test_a_new_adapter_is_a_module_and_a_profile(mine: Any) -> None:
    suite = load_suite(
        mine('kind = "centre_adapter:Settings"\npart = 0.4'), device="cpu", overrides={"detector.part": "0.5"}
    )
    (result,) = make_strategy("grounded_sam", suite).segment([picture(40, 60)], TaskPrompt("moth"))
    assert result.trace.iterations[0].boxes[0].box == Box(15, 10, 45, 30)


def test_its_settings_are_checked_and_are_a_part_of_the_fingerprint(mine: Any) -> None:
    prints = set()
    for part in (0.4, 0.6):
        prints.add(profile_fingerprint(read_profile(mine(f'kind = "centre_adapter:Settings"\npart = {part}'))))
    assert len(prints) == 2
    for lines, fault in (("parts = 0.4", r"detector\.parts"), ("part = 4", r"detector\.part: .* less than or equal")):
        with pytest.raises(ProfileError, match=fault):
            read_profile(mine(f'kind = "centre_adapter:Settings"\n{lines}'))


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("nowhere:Settings", r"detector\.kind 'nowhere:Settings' cannot be imported"),
        ("centre_adapter:Absent", "cannot be imported"),
        ("centre_adapter:Centre", "not a subclass of RoleSettings with role = 'detector'"),
        ("int_model.models.profile:SegmenterRole", "with role = 'detector'"),
        ("magic", r"no detector\.kind 'magic'; choose one of: hf, groundingdino, or name a class of your own"),
    ],
)
def test_a_wrong_kind_is_named(mine: Any, kind: str, fault: str) -> None:
    with pytest.raises(ProfileError, match=fault):
        read_profile(mine(f'kind = "{kind}"'))


def test_a_loader_that_gives_no_detector_is_named(mine: Any) -> None:
    with pytest.raises(ProfileError, match=r"'centre_adapter:Speechless' loads a object, .*protocols\.Detector"):
        load_suite(mine('kind = "centre_adapter:Speechless"'), device="cpu")


def test_code_is_accepted_in_profile_files_only(mine: Any) -> None:
    with pytest.raises(ProfileError, match="belongs in a profile file"):
        read_profile("nano", {"detector.kind": "centre_adapter:Settings"})
    assert "centre_adapter" not in sys.modules


def test_reading_the_shipped_profiles_imports_no_torch() -> None:
    names = profile_names()
    code = f"import sys; from int_model.models.suite import *; [profile_fingerprint(read_profile(n)) for n in {names}]"
    code += "; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
