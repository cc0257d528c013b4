"""The container files: valid by the Compose specification, pinned, unprivileged, and in step with the other files."""

import fnmatch
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import ComposeSpecification, PyCompose

from ml_backend.cli.main import app as cli
from ml_backend.demo.processes import free_port
from ml_backend.demo.server import REQUIREMENTS
from tests.support.http_server import Reply, http_server

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_compose_follows_the_specification() -> None:
    plain = {key: value for key, value in compose().items() if not key.startswith("x-")}
    ComposeSpecification.model_validate(plain)
    PyCompose.from_yaml(yaml.safe_dump(plain)).validate()


def test_an_unknown_key_would_be_noticed() -> None:
    broken = {key: value for key, value in compose().items() if not key.startswith("x-")}
    broken["services"]["backend"]["depends-on"] = []
    with pytest.raises(ValueError, match="depends-on"):
        PyCompose.from_yaml(yaml.safe_dump(broken)).validate()


def test_label_studio_is_the_tested_version_and_may_call_private_addresses() -> None:
    service = compose()["services"]["label-studio"]
    pinned = re.search(r"^label-studio==(.+)$", REQUIREMENTS.read_text(), re.MULTILINE)
    assert pinned is not None
    assert service["image"].partition("@")[0] == f"heartexlabs/label-studio:{pinned.group(1)}"
    assert service["environment"]["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"


@pytest.mark.parametrize("name", ["backend", "backend-gpu", "worker", "worker-gpu"])
def test_backends_and_workers_are_confined_and_built_from_existing_stages(name: str) -> None:
    service = compose()["services"][name]
    assert service["build"]["target"] in {stage for _, stage in STAGES}
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["environment"]["LABEL_STUDIO_URL"] == "http://label-studio:8080"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_only_gpu_services_ask_for_a_gpu_and_only_by_profile() -> None:
    services = compose()["services"]
    asking = {name for name, service in services.items() if "nvidia" in str(service.get("deploy", ""))}
    assert asking == {name for name, service in services.items() if service.get("profiles") == ["gpu"]}
    assert asking == {"backend-gpu", "worker-gpu"}


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_workers_can_be_scaled_and_run_an_existing_command(name: str) -> None:
    service = compose()["services"][name]
    assert not service.keys() & {"ports", "container_name"}  # either would allow only one
    program, command = service["command"]
    assert program == "int-backend"
    assert command in {entry.name or entry.callback.__name__ for entry in cli.registered_commands if entry.callback}


@pytest.mark.parametrize("suffix", ["", "-gpu"])
def test_a_backend_and_its_workers_are_set_up_alike(suffix: str) -> None:
    """Other settings would make another model version, and the worker would leave the backend's runs alone."""
    services = compose()["services"]
    own = {"REDIS_URL_FILE": None, "INT_DEVICE": None}
    backend, worker = services[f"backend{suffix}"]["environment"], services[f"worker{suffix}"]["environment"]
    assert backend | own == worker | own


def test_who_does_the_runs() -> None:
    services = compose()["services"]
    with_tickets = {name for name, service in services.items() if "REDIS_URL_FILE" in service.get("environment", {})}
    # One GPU holds the models once, so the backend there does runs itself; the ledger is the same for all.
    assert with_tickets == {"backend", "worker", "worker-gpu"}
    ledgers = {services[name]["environment"]["DATABASE_URL_FILE"] for name in (*with_tickets, "backend-gpu")}
    assert len(ledgers) == 1


def made_passwords(folder: Path, given: str = "") -> dict[str, str]:
    """What the service `passwords` writes, run here: files by path."""
    service = compose()["services"]["passwords"]
    for name in ("postgres", "redis"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (script,) = service["command"]
    here = script.replace("$$", "$").replace("cd /passwords", f"cd {folder}")
    environment = {"PATH": os.environ["PATH"], "POSTGRES_PASSWORD": given}
    subprocess.run([*service["entrypoint"], here], check=True, env=environment)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_passwords_are_made_once_and_no_one_knows_them_before(tmp_path: Path) -> None:
    first, again = made_passwords(tmp_path / "a"), made_passwords(tmp_path / "a")
    other, given = made_passwords(tmp_path / "b"), made_passwords(tmp_path / "a", "my own")
    assert first == again
    assert first["postgres/password"] != other["postgres/password"]
    assert first["postgres/password"] != first["redis/password"]
    assert len(first["redis/password"].strip()) == 32
    assert given["postgres/password"] == "my own"
    assert "int-backend:int-backend" not in (ROOT / "docker-compose.yml").read_text()


def test_ledger_and_tickets_are_the_services_that_are_there(tmp_path: Path) -> None:
    services, made = compose()["services"], made_passwords(tmp_path)
    environment = services["backend"]["environment"]
    database, tickets = (
        urlsplit(made[environment[name].removeprefix("/run/passwords/")])
        for name in ("DATABASE_URL_FILE", "REDIS_URL_FILE")
    )
    postgres = services["postgres"]["environment"]
    assert database.hostname == "postgres"
    assert database.username == postgres["POSTGRES_USER"]
    assert database.path == f"/{postgres['POSTGRES_DB']}"
    file = postgres["POSTGRES_PASSWORD_FILE"].removeprefix("/run/passwords/")
    assert database.password == made[file].strip()
    assert tickets.hostname == "redis"
    assert tickets.path == "/1"  # Label Studio's own queues are in 0, should it ever use this server
    assert tickets.password == made["redis/password"].strip()
    for name in ("postgres", "redis"):
        assert "healthcheck" in services[name]
        assert "ports" not in services[name]
        assert re.search(r":\d+\.\d+(\.\d+)?-alpine$", services[name]["image"])


def test_who_reaches_whom() -> None:
    networks = {name: set(service.get("networks", [])) for name, service in compose()["services"].items()}
    assert networks["label-studio"] == {"front"}
    assert networks["postgres"] == networks["redis"] == {"back"}
    assert networks["backend"] == networks["backend-gpu"] == networks["worker"] == {"front", "back"}
    assert compose()["networks"]["back"] == {"internal": True}


def test_every_service_that_goes_on_has_limits() -> None:
    for name, service in compose()["services"].items():
        if name != "passwords":
            assert {"mem_limit", "pids_limit"} <= service.keys(), name


def test_every_volume_is_declared() -> None:
    used = {volume.split(":")[0] for service in compose()["services"].values() for volume in service.get("volumes", [])}
    assert used == set(compose()["volumes"])


def test_every_base_is_pinned_and_every_target_runs_unprivileged() -> None:
    names = {stage for _, stage in STAGES}
    for base, _ in STAGES:
        assert base in names or re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    for target in ("cpu", "gpu"):
        body = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        users = re.findall(r"^USER (\S+)$", body, re.MULTILINE)
        assert users
        assert users[-1] not in ("root", "0")
    assert "HEALTHCHECK" in DOCKERFILE


def pin(folder: Path, docker: str) -> subprocess.CompletedProcess[str]:
    """`scripts/pin_images.py` on a copy of the files, with a stand-in for Docker."""
    for name in ("Dockerfile", "docker-compose.yml"):
        if not (folder / name).exists():
            (folder / name).write_text((ROOT / name).read_text())
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{docker}\n")
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / "scripts/pin_images.py"), str(folder)]
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def told(digest: str) -> str:
    """As Docker says it: of the list, then of each platform."""
    return f"printf 'Name: x\\nDigest:    sha256:{digest}\\nManifests:\\n  Name: x@sha256:{'9' * 64}\\n'"


def test_digests_are_written_once_and_only_where_an_image_is_named(tmp_path: Path) -> None:
    first, second = "a" * 64, "b" * 64
    assert pin(tmp_path, told(first)).returncode == 0
    assert pin(tmp_path, told(second)).returncode == 0
    for name in ("Dockerfile", "docker-compose.yml"):
        pinned, before = (tmp_path / name).read_text(), (ROOT / name).read_text()
        assert first not in pinned
        assert pinned.count(f"@sha256:{second}") >= 1
        assert pinned.replace(f"@sha256:{second}", "") == re.sub(r"@sha256:[0-9a-f]{64}", "", before)
    services = yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        assert ("@sha256:" in service["image"]) != service["image"].startswith("int-backend:")


def test_a_digest_that_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    done = pin(tmp_path, "case $4 in postgres*) echo no network >&2; exit 1;; esac\n" + told("a" * 64))
    assert done.returncode == 1
    assert re.search(r"the digest of postgres:\S+ cannot be had: no network; nothing was written", done.stderr)
    for name in ("Dockerfile", "docker-compose.yml"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()


def test_what_is_copied_exists_and_passes_the_ignore_file() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (503, 1)])
def test_healthcheck_by_status(status: int, code: int) -> None:
    with http_server(lambda _: Reply(status=status)) as server:
        assert _healthcheck(server.port) == code


def test_healthcheck_of_a_closed_port() -> None:
    with socket.socket() as probe:
        probe.settimeout(1)
        port = free_port()
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert _healthcheck(port) == 1


def _healthcheck(port: int) -> int:
    script = str(ROOT / "scripts" / "healthcheck.py")
    return subprocess.run([sys.executable, script], env={"INT_PORT": str(port)}, check=False, timeout=60).returncode


def test_the_medical_set_up_hides_names_and_asks_for_a_password() -> None:
    loaded = yaml.safe_load((ROOT / "docker-compose.medical.yml").read_text())
    assert set(loaded["services"]) == {"backend", "worker", "backend-gpu", "worker-gpu"}
    for service in loaded["services"].values():
        environment = service["environment"]
        assert environment["INT_HIDE_NAMES"] == "true"
        assert all(":?" in environment[name] for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "INT_WEBHOOK_SECRET"))
        assert environment.keys() <= compose()["services"]["backend"]["environment"].keys() | {"INT_HIDE_NAMES"}
