from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from int_model.models import suite as suites
from int_model.models.profile import DetectorRole, DiffusersRole, VisionLanguageRole
from int_model.models.weights import Source
from tests.unit.int_model.models import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_all(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def suite(profile: Path) -> suites.ModelSuite:
    return suites.load_suite(profile, device="cpu", offline=True)


def load_role(role: str, settings: Any, loader: Any) -> Any:
    return loader(settings, Source.of(role, settings, device=CPU, offline=True))


@pytest.fixture(scope="session")
def load_vlm() -> Any:
    from int_model.models.adapters.vision_language import load

    return lambda folder, **options: load_role("vlm", VisionLanguageRole(id=str(folder), **options), load)


@pytest.fixture(scope="session")
def load_detector() -> Any:
    from int_model.models.adapters.detector import load

    return lambda folder, **options: load_role("detector", DetectorRole(id=str(folder), **options), load)


@pytest.fixture(scope="session")
def load_diffusers() -> Any:
    from int_model.models.adapters.inpainting import load_diffusers

    return lambda folder, **options: load_role("inpainter", DiffusersRole(id=str(folder), **options), load_diffusers)


@pytest.fixture(scope="session")
def idefics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idefics")
    tiny.save_idefics(folder)
    return folder
