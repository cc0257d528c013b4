from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from int_model.core.config import IntConfig
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.task_prompt import ConnectionParams, parse_extra_params
from ml_backend.serving.model_loading import ModelIdentity, identify
from ml_backend.serving.versions import model_version
from ml_backend.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("INT_", "LABEL_STUDIO", "BASIC_AUTH")) or name == "PORT":
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("INT_PROFILE", "llava", "profile", "llava"),
        ("INT_PROMPT", "polyp", "prompt", "polyp"),
        ("INT_DEADLINE", "12.5", "deadline", 12.5),
        ("INT_PORT", "1234", "port", 1234),
        ("PORT", "1235", "port", 1235),
        ("LABEL_STUDIO_URL", "http://ls:8080/", "label_studio_url", "http://ls:8080"),
        ("LABEL_STUDIO_HOST", "https://h/ls", "label_studio_url", "https://h/ls"),
        ("INT_ALLOWED_HOSTS", "minio, 10.0.0.0/8", "allowed_hosts", ("minio", "10.0.0.0/8")),
        ("INT_CONFIG", '{"pnm": {"key": "name"}}', "int_config", {"pnm": {"key": "name"}}),
        ("INT_OPEN_HEALTH", "true", "open_health", True),
        ("INT_PROMPT", "", "prompt", ""),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: Any) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(Settings(), field) == expected


def test_defaults_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INT_PROFILE", "llava")
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert Settings(profile="nano").profile == "nano"
    assert (Settings().deadline, Settings().port, Settings().local_roots) == (80.0, 9090, ())
    assert Settings().data_dir == Path("/somewhere/int-backend")
    assert Settings().output == OutputOptions()


@pytest.mark.parametrize("name", ["LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "INT_WEBHOOK_SECRET"])
def test_secrets_come_from_files_and_never_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("geheim\n")
    monkeypatch.setenv("BASIC_AUTH_USER", "u")
    monkeypatch.setenv("BASIC_AUTH_PASS", "p")
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    settings = Settings()
    secret = getattr(settings, name.removeprefix("INT_").lower())
    assert secret.get_secret_value() == "geheim"
    assert "geheim" not in repr(settings) + str(settings) + settings.model_dump_json()
    monkeypatch.setenv(name, "direct")
    assert getattr(Settings(), name.removeprefix("INT_").lower()).get_secret_value() == "direct"


def test_a_missing_secret_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", "/nowhere/token")
    with pytest.raises(ValueError, match="LABEL_STUDIO_API_KEY_FILE names /nowhere/token"):
        Settings()


@pytest.mark.parametrize(
    "values",
    [
        {"deadline": 0},
        {"score_threshold": 1.5},
        {"label_studio_url": "ls:8080"},
        {"label_studio_url": "ftp://x"},
        {"basic_auth_user": "u"},
        {"local_roots": "/does/not/exist"},
        {"ca_bundle": "/does/not/exist"},
        {"holes": "fill"},
        {"micro_batch": 0},
        {"log_level": "LOUD"},
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)


def test_roots_are_made_real(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert Settings(local_roots=f"{tmp_path}/b, {tmp_path}").local_roots == (
        (tmp_path / "a").resolve(),
        tmp_path.resolve(),
    )


# --- versions ---------------------------------------------------------------------------------------------------------

XML = (
    '<View><Image name="i" value="$image"/>'
    '<PolygonLabels name="p" toName="i"><Label value="Cat"/></PolygonLabels></View>'
)
CONFIG = parse_label_config(XML)
BASE: dict[str, Any] = {
    "identity": ModelIdentity("nano", "int", "f" * 64),
    "config": CONFIG,
    "params": ConnectionParams(),
    "default_prompt": "",
    "options": OutputOptions(),
    "max_regions": 300,
}


def test_the_version_string() -> None:
    import re

    assert re.fullmatch(r"int-nano-int-cat-[0-9a-f]{8}", model_version(**BASE))
    assert model_version(**BASE) == model_version(**BASE)
    assert re.fullmatch(r"int-nano-int-[0-9a-f]{8}", model_version(**BASE | {"config": "<View/>"}))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("camouflaged animal", "camouflaged-animal"),
        ("Polyp, sessile (small)", "polyp-sessile-small"),
        ("läsion am Fuß", "lasion-am-fu"),
        ("息肉", ""),
        ("a very long prompt that goes on and on for ever", "a-very-long-prompt-that-goes"),
        ("x" * 80, "x" * 30),
    ],
)
def test_the_version_says_what_is_looked_for(prompt: str, words: str) -> None:
    version = model_version(**BASE | {"params": parse_extra_params(prompt)})
    assert version.removeprefix("int-nano-int-")[:-8].strip("-") == words
    two = XML.replace("</PolygonLabels>", '<Label value="Dog" model_prompt="dog"/></PolygonLabels>')
    both = model_version(**BASE | {"config": parse_label_config(two), "params": parse_extra_params(prompt)})
    assert ("-and-1-more-" in both) is bool(words)


def test_what_draws_the_same_has_the_same_version() -> None:
    own = parse_label_config(XML.replace('value="Cat"', 'value="Cat" model_prompt="cat"'))
    version = model_version(**BASE | {"config": own})
    for same in (
        {"config": own, "params": parse_extra_params("a prompt that no label uses")},
        {"config": own, "default_prompt": "neither does this one"},
        {"params": parse_extra_params("cat")},
        {"params": parse_extra_params({"prompts": {"Cat": "cat", "Dog": "dog"}})},
        {"default_prompt": "cat"},
        {"config": parse_label_config(XML.replace('name="p"', 'name="p" model_prompt="cat"'))},
    ):
        assert model_version(**BASE | same) == version


@pytest.mark.parametrize(
    "change",
    [
        {"identity": ModelIdentity("nano", "int", "e" * 64)},
        {"identity": ModelIdentity("nano", "vlm_box", "f" * 64)},
        {"config": "<View/>"},
        {"config": parse_label_config(XML.replace('value="Cat"', 'value="Cat" hint="tabby"'))},
        {"config": parse_label_config(XML.replace('value="Cat"', 'value="Cat" predicted_values="tabby"'))},
        {"config": parse_label_config(XML.replace('name="p"', 'name="p" model_prompt_field="what"'))},
        {"params": parse_extra_params("prompt")},
        {"params": parse_extra_params({"prompts": {"Cat": "x"}})},
        {"params": parse_extra_params({"prompt_field": "q"})},
        {"params": parse_extra_params({"epsilon": 3})},
        {"default_prompt": "x"},
        {"options": OutputOptions(holes="drop")},
        {"max_regions": 10},
    ],
)
def test_the_version_changes_with_everything_that_changes_the_output(change: dict[str, Any]) -> None:
    assert model_version(**(BASE | change)) != model_version(**BASE)


def test_the_identity_is_known_without_loading_anything() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from ml_backend.api.app import create_app; from ml_backend.settings import Settings; "
        "create_app(Settings(profile='nano')); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_the_identity_changes_with_the_models_and_the_method() -> None:
    def fingerprint(**values: Any) -> str:
        return identify(Settings(**values)).fingerprint

    base = fingerprint()
    assert fingerprint() == base
    assert fingerprint(device="cuda", micro_batch=9, prompt="x", score_threshold=0.5) == base
    assert fingerprint(profile_overrides={"vlm.max_batch": 1}) == base
    changed = [
        fingerprint(strategy="vlm_box"),
        fingerprint(profile="llava"),
        fingerprint(profile_overrides={"segmenter.id": "facebook/sam-vit-base"}),
        fingerprint(int_config={"pnm": {"key": "name"}}),
    ]
    assert len({base, *changed}) == 5
    assert identify(Settings(int_config=IntConfig().model_dump(include={"patches"}))).fingerprint == base


def test_results_of_a_strategy_are_kept_when_options_of_another_change() -> None:
    before = identify(Settings())
    after = identify(Settings(int_config={"iterations": {"count": 2}}))
    assert after.cache_version_of("") == after.cache_version_of("int") != before.cache_version_of("int")
    for other in ("grounded_sam", "promac", "sam3", "vlm_box"):
        assert after.cache_version_of(other) == before.cache_version_of(other)
    promac = identify(Settings(strategy="promac", int_config={"promac": {"alpha": 2.0}}))
    assert promac.cache_version_of("int") == before.cache_version_of("int")
    assert promac.cache_version_of("") != before.cache_version_of("promac")


def test_what_a_project_learned_is_part_of_its_versions() -> None:
    plain = ModelIdentity("nano", "int", "0" * 64)
    assert plain.cache_version_of("") == f"nano-int-{'0' * 16}"
    learned = replace(plain, adapter="abc123")
    assert learned.cache_version_of("") == f"nano-int-{'0' * 16}-abc123"
    assert model_version(**(BASE | {"identity": learned})) != model_version(**(BASE | {"identity": plain}))


def test_the_version_changes_with_the_strategies_that_the_controls_use() -> None:
    identity = ModelIdentity("nano", "int", "0" * 64, {"promac": "1" * 64, "sam3": "2" * 64})
    one, other = replace(identity, others={"promac": "3" * 64}), replace(identity, others={"sam3": "3" * 64})
    promac = BASE | {"config": parse_label_config(XML.replace('name="p"', 'name="p" model_strategy="promac"'))}
    versions = [model_version(**(promac | {"identity": each})) for each in (identity, one, other)]
    assert len({versions[0], versions[1]}) == 2
    assert model_version(**(BASE | {"identity": identity})) == model_version(**(BASE | {"identity": one}))


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    settings = Settings(profile_overrides={"segmenter.id": str(folder)})
    (folder / "model.safetensors").write_bytes(b"a" * 100)
    before = identify(settings)
    (folder / "notes.md").write_text("not a weight")
    assert identify(settings) == before
    (folder / "model.safetensors").write_bytes(b"b" * 100)
    assert identify(settings).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "magic"},
        {"profile": "no-such-profile"},
        {"int_config": {"nope": 1}},
        {"profile_overrides": {"vlm.nope": 1}},
    ],
)
def test_wrong_models_are_told_at_the_start(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of int_model's own, with its own message
        identify(Settings(**values))
