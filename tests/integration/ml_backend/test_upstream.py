"""The adapter for `label-studio-ml`, on a small stand-in that has that package's interface (GitHub master)."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ml_backend.api.app import create_app
from ml_backend.settings import Settings
from ml_backend.upstream import PIP_LINE, Runtime, UpstreamError, load_upstream, use
from tests.support.harness import GOOD, IDENTITY, POLYGONS, RedThings, overlap, picture, red

STAND_IN = {
    "label_studio_ml/__init__.py": "",
    "label_studio_ml/response.py": """
from typing import List, Optional, Union
from pydantic import BaseModel
from label_studio_sdk.label_interface.objects import PredictionValue

class ModelResponse(BaseModel):
    model_config = {"protected_namespaces": ()}
    model_version: Optional[str] = None
    predictions: List[Union[List[PredictionValue], PredictionValue]]
""",
    "label_studio_ml/model.py": """
import json
CACHE = {}

class LabelStudioMLBase:
    TRAIN_EVENTS = ("ANNOTATION_CREATED", "START_TRAINING")

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        if not self.model_version:
            self.set("model_version", "0.0.1")
        self.setup()

    def get(self, key):
        return CACHE.get((self.project_id, key))

    def set(self, key, value):
        if not isinstance(value, str):
            raise ValueError("Value must be a string")
        CACHE[self.project_id, key] = value

    def set_extra_params(self, extra_params):
        self.set("extra_params", extra_params)

    @property
    def extra_params(self):
        return json.loads(self.get("extra_params") or "{}")

    @property
    def model_version(self):
        return self.get("model_version")
""",
    "label_studio_ml/api.py": """
made = []

class App:
    def run(self, **options):
        made.append(options)

def init_app(model_class, basic_auth_user=None, basic_auth_pass=None):
    made.append((model_class.__name__, basic_auth_user, basic_auth_pass))
    return App()
""",
    "label_studio_sdk/__init__.py": "",
    "label_studio_sdk/label_interface/__init__.py": "",
    "label_studio_sdk/label_interface/objects.py": """
from typing import Any, Dict, List, Optional
from pydantic import BaseModel

class PredictionValue(BaseModel):
    model_config = {"protected_namespaces": ()}
    model_version: Optional[Any] = None
    score: Optional[float] = 0.0
    result: Optional[List[Dict[str, Any]]]
""",
}


def install(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN[name])


def forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ("label_studio_ml", "label_studio_sdk") or name in (
            "ml_backend.model",
            "ml_backend._wsgi",
        ):
            del sys.modules[name]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    forget()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


@pytest.fixture
def strategy() -> RedThings:
    return RedThings()


@pytest.fixture
def module(place: Path, strategy: RedThings) -> Iterator[ModuleType]:
    install(place, *STAND_IN)
    settings = Settings(data_dir=place / "data", deadline=20.0)
    runtime = Runtime(lambda: create_app(settings, load=lambda: strategy, identity=IDENTITY))
    use(runtime)
    yield importlib.import_module("ml_backend.model")
    runtime.close()
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_it_is_upstreams_kind_of_model_and_the_only_one_in_its_file(module: ModuleType) -> None:
    base = importlib.import_module("label_studio_ml.model").LabelStudioMLBase
    classes = {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    assert classes == {"IntBackend", "LabelStudioMLBase"}
    assert issubclass(module.IntBackend, base)


def test_a_good_task_is_annotated_and_a_broken_one_is_an_empty_list(module: ModuleType) -> None:
    model = module.IntBackend(project_id="1", label_config=POLYGONS)
    response = model.predict([{"id": 1, "data": GOOD}, {"id": 2, "data": {"image": "ftp://x/y"}}], context=None)
    assert type(response).__name__ == "ModelResponse"
    good, broken = response.model_dump()["predictions"]
    assert broken == []
    assert overlap(good["result"][0], red(picture())) > 0.95
    assert good["result"][0]["meta"]["text"][0].startswith("Animal")
    assert good["model_version"] == response.model_version == model.get("model_version") == model.model_version
    assert response.model_version.startswith("int-fake-int-")


def test_a_request_without_context_is_no_click(module: ModuleType) -> None:
    model = module.IntBackend(project_id="1", label_config=POLYGONS)
    for context in (None, {}):  # upstream passes {} where the request has none
        (found,) = model.predict([{"id": 1, "data": GOOD}], context=context).model_dump()["predictions"]
        assert found["result"], context


def test_the_positional_call_of_the_webhook_works(module: ModuleType) -> None:
    data = {"project": {"id": 1, "label_config": POLYGONS.replace("Animal", "Frog")}}
    model = module.IntBackend("1", label_config=POLYGONS)
    before = model.get("model_version")
    assert model.fit("ANNOTATION_CREATED", data) == {"event": "ANNOTATION_CREATED"}
    assert module.current().context.projects.versions("1") != [before]


@pytest.mark.parametrize("params", ["tiny frog", '{"prompt": "tiny frog"}', {"prompt": "tiny frog"}])
def test_extra_params_in_any_form_change_the_prompt_and_the_version(
    module: ModuleType, strategy: RedThings, params: Any
) -> None:
    first = module.IntBackend(project_id="7", label_config=POLYGONS)
    plain = first.get("model_version")
    first.set_extra_params(params)
    assert first.get("model_version") != plain
    later = module.IntBackend(project_id="7", label_config=POLYGONS)
    assert later.get("model_version") == first.get("model_version")
    assert later.extra_params in ("tiny frog", {"prompt": "tiny frog"})
    later.predict([{"id": 1, "data": GOOD}])
    assert strategy.asked == [("tiny frog", 1)]


def test_projects_do_not_share_their_params(module: ModuleType, strategy: RedThings) -> None:
    module.IntBackend(project_id="1", label_config=POLYGONS).set_extra_params("tiny frog")
    module.IntBackend(project_id="2", label_config=POLYGONS).predict([{"id": 1, "data": GOOD}])
    assert strategy.asked == [("Animal", 1)]


def test_setup_does_not_wait_for_the_models(module: ModuleType, strategy: RedThings) -> None:
    strategy.gate.clear()
    waiting = threading.Thread(
        target=module.IntBackend(project_id="1", label_config=POLYGONS).predict, args=([{"id": 1, "data": GOOD}],)
    )
    waiting.start()
    assert strategy.started.wait(20)
    assert module.IntBackend(project_id="3", label_config=POLYGONS).get("model_version").startswith("int-")
    assert waiting.is_alive()
    strategy.gate.set()
    waiting.join(20)
    assert not waiting.is_alive()


def test_the_entry_point_makes_upstreams_application(module: ModuleType) -> None:
    wsgi = importlib.import_module("ml_backend._wsgi")
    made = importlib.import_module("label_studio_ml.api").made
    assert made == [("IntBackend", None, None)]
    assert type(wsgi.app).__name__ == "App"
    wsgi.main(["--port", "9191", "--basic-auth-user", "u", "--basic-auth-pass", "p", "--check"])
    assert made[1:] == [("IntBackend", "u", "p"), {"host": "127.0.0.1", "port": 9191, "threaded": True}]


def test_the_entry_point_runs_as_a_script_from_anywhere(place: Path) -> None:
    install(place, *STAND_IN)
    script = Path(sys.modules["ml_backend"].__file__ or "").with_name("_wsgi.py")
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        env={"PYTHONPATH": str(place), "PATH": ""},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--basic-auth-user" in done.stdout


def test_settings_that_make_no_sense_are_told_when_the_service_starts() -> None:
    with pytest.raises(ValueError, match="no strategy 'magic'"):
        Runtime(lambda: create_app(Settings(strategy="magic")))


# --- the package is missing, old, or broken ---------------------------------------------------------------------------

OLD = ("label_studio_ml/__init__.py", "label_studio_ml/model.py", "label_studio_ml/api.py")
NO_SDK = tuple(name for name in STAND_IN if not name.startswith("label_studio_sdk"))


@pytest.mark.parametrize(
    ("installed", "reason"),
    [((), "not installed"), (OLD, "the old 1.x"), (NO_SDK, "needs the package label_studio_sdk")],
)
def test_without_the_package_one_sentence_names_the_line_to_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], reason: str
) -> None:
    install(place, *installed)
    monkeypatch.setattr(sys, "path", [str(place), *(p for p in sys.path if p != str(place))])
    with pytest.raises(UpstreamError, match=reason) as told:
        load_upstream()
    assert PIP_LINE in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(ImportError, match="pip install"):
        importlib.import_module("ml_backend.model")


def test_a_broken_package_is_told_too(place: Path) -> None:
    install(place, *STAND_IN)
    (place / "label_studio_ml" / "model.py").write_text("raise ImportError('no wheels')")
    with pytest.raises(UpstreamError, match="no wheels"):
        load_upstream()
