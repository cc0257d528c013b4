"""``int-backend serve``: settings, what is shown of them, and the socket."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from ml_backend.cli import main as cli
from ml_backend.cli import serve as serve_command
from ml_backend.cli.options import ModelArguments
from ml_backend.cli.serve import listen, masked, set_up_logging
from ml_backend.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INT_DATA_DIR", str(tmp_path / "data"))
    for name in ("PORT", "INT_PORT", "INT_HOST", "INT_PROFILE", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_options_go_before_the_environment_and_what_is_not_given_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "7000")
    monkeypatch.setenv("INT_PROFILE", "qwen")
    assert load_settings({"port": 7001, "profile": None}).port == 7001
    assert load_settings({"port": None}).port == 7000
    assert load_settings({"profile": None}).profile == "qwen"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"port": 99999}, "the setting port is wrong: Input should be less than or equal to 65535"),
        ({"label_studio_url": "nonsense"}, "'nonsense' is not an address like http"),
        ({"label_studio_url": "http://ls:8080/labels/api/"}, "ends in /api; give the address at which the browser"),
        ({"basic_auth_user": "me"}, "set both BASIC_AUTH_USER and BASIC_AUTH_PASS"),
    ],
)
def test_wrong_settings_are_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        load_settings(given)
    assert "\n" not in str(caught.value)


def test_a_wrong_setting_of_the_environment_is_named_as_it_is_written_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INT_DEADLINE", "-1")
    with pytest.raises(ValueError, match="the setting INT_DEADLINE is wrong"):
        load_settings({"port": None})


def test_secrets_are_never_shown() -> None:
    settings = load_settings(
        {
            "label_studio_api_key": "hunter2",
            "label_studio_url": "http://user:hunter2@studio:8080/x",
            "basic_auth_user": "me",
            "basic_auth_pass": "hunter2",
            "webhook_secret": "hunter2",
        }
    )
    shown = dict(masked(settings))
    assert "hunter2" not in str(shown)
    assert shown["label_studio_url"] == "http://********@studio:8080/x"
    assert shown["label_studio_api_key"] == "********"
    assert shown["prompt"] == "-"
    assert set(shown) == set(type(settings).model_fields)


def test_a_taken_port_says_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot listen on 127.0.0.1:{port} .*; choose another --port or --host"):
            listen("127.0.0.1", port)


def test_an_unknown_address_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="choose another --port or --host"):
        listen("no-such-host.invalid", 0)


def test_serve_tells_where_it_listens_and_hands_the_socket_over(monkeypatch: pytest.MonkeyPatch) -> None:
    app = object()
    stand_in = ModuleType("ml_backend.api.app")
    stand_in.create_app = lambda settings: (app, settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ml_backend.api.app", stand_in)
    served: list[tuple[Any, tuple[str, int]]] = []

    class Server:
        def __init__(self, config: Any) -> None:
            self.config = config

        def run(self, sockets: list[socket.socket]) -> None:
            served.append((self.config.app, sockets[0].getsockname()))

    monkeypatch.setattr(serve_command, "_Server", Server)
    arguments = ["serve", "--host", "127.0.0.1", "--port", "0", "--profile", "llava", "--device", "cpu"]
    result = CliRunner().invoke(cli.app, arguments, env={"LABEL_STUDIO_API_KEY": "hunter2"})
    assert result.exit_code == 0, result.output
    (((made, settings), (host, port)),) = served
    assert made is app
    assert (settings.profile, settings.device, host) == ("llava", "cpu", "127.0.0.1")
    assert f"listening on http://127.0.0.1:{port}" in result.stderr
    assert "hunter2" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "environment", "preset", "iterations"),
    [
        ([], {}, "", 5),
        ([], {"INT_PRESET": "fast"}, "fast", 1),
        (["--preset", "fast"], {}, "fast", 1),
        (["--preset", "paper"], {"INT_PRESET": "fast"}, "paper", 5),
        (["--preset", "fast"], {"INT_CONFIG": '{"iterations": {"count": 4}}'}, "fast", 4),
        (["--set", "iterations.count=2"], {"INT_CONFIG": '{"iterations.count": 4}', "INT_PRESET": "fast"}, "fast", 2),
        (["--model", "int.iterations.count=7"], {"INT_PROFILE_OVERRIDES": '{"int.iterations.count": 6}'}, "", 7),
    ],
)
def test_the_service_takes_presets_and_options_of_the_method(
    arguments: list[str], environment: dict[str, str], preset: str, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 5: the preset ``fast`` could not be reached from the server."""
    seen: list[Settings] = []
    monkeypatch.setattr(serve_command, "run", lambda settings, _tell: seen.append(settings))
    result = CliRunner().invoke(cli.app, ["serve", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    (settings,) = seen
    assert settings.preset == preset
    assert settings.models.config().model_dump()["iterations"]["count"] == iterations


def test_options_of_the_command_line_are_added_to_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INT_CONFIG", '{"pnm": {"key": "name"}, "fuse": {"rule": "wsum"}}')
    monkeypatch.setenv("INT_PROFILE_OVERRIDES", '{"vlm.max_batch": 2, "vlm.padded": false}')
    given = ModelArguments(changes=("pnm.name_reduce=mean", "fuse.rule=max"), overrides=("vlm.max_batch=3",))
    settings = given.settings()
    assert settings.int_config == {"pnm": {"key": "name", "name_reduce": "mean"}, "fuse": {"rule": "max"}}
    assert settings.profile_overrides == {"vlm.max_batch": 3, "vlm.padded": False}


@pytest.mark.parametrize("command", ["serve", "annotate --project 1", "worker"])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--preset slow", "there is no preset 'slow'"),
        ("--set iterations.cuont=3", "there is no option 'iterations.cuont'"),
        ("--strategy promac --set fuse.rule=max", "strategy 'promac': there is no option 'fuse.rule'"),
        ("--model vlm.size=3", "profile 'nano'"),
    ],
)
def test_wrong_options_of_the_models_end_a_command_of_the_service(command: str, given: str, sentence: str) -> None:
    environment = {"REDIS_URL": "redis://127.0.0.1:1/5"} if command == "worker" else {}
    environment |= {"LABEL_STUDIO_URL": "http://127.0.0.1:1", "LABEL_STUDIO_API_KEY": "x"}
    result = CliRunner().invoke(cli.app, [*command.split(), *given.split()], env=environment)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr


@pytest.mark.parametrize("command", ["serve --port 0", "worker", "annotate --project 1"])
@pytest.mark.parametrize(
    ("device", "sentence"), [("foo", "'foo' is not a device; use auto, cpu"), ("cuda:99", "no device 'cuda:99'")]
)
def test_a_device_that_is_not_there_ends_a_command_of_the_service_at_once(
    command: str, device: str, sentence: str
) -> None:
    environment = {"REDIS_URL": "redis://127.0.0.1:1/5"} if command == "worker" else {}
    environment |= {"LABEL_STUDIO_URL": "http://127.0.0.1:1", "LABEL_STUDIO_API_KEY": "x"}
    for given, told in (([], {"INT_DEVICE": device}), (["--device", device], {})):
        result = CliRunner().invoke(cli.app, [*command.split(), *given], env=environment | told)
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        assert sentence in line


def test_a_taken_port_is_one_line_and_status_2() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        result = CliRunner().invoke(cli.app, ["serve", "--host", "127.0.0.1", "--port", str(port)])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"int-backend: cannot listen on 127.0.0.1:{port}")


def test_a_data_folder_that_cannot_be_used_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INT_DATA_DIR", str(tmp_path / "file"))
    result = CliRunner().invoke(cli.app, ["serve", "--host", "127.0.0.1", "--port", "0"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "cannot be used" in line
    assert "set INT_DATA_DIR" in line


def test_only_our_own_messages_are_logged_below_warnings() -> None:
    levels = {name: logging.getLogger(name).level for name in ("int_model", "ml_backend")}
    try:
        set_up_logging("DEBUG")
        assert logging.getLogger("ml_backend.api.app").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("httpx").isEnabledFor(logging.INFO), "httpx logs whole addresses, tokens included"
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_answers_are_sent_without_waiting_for_acknowledgements() -> None:
    """asyncio switches the delay off where a connection's protocol is named, which it has from the listening socket."""

    async def connection() -> int:
        served: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def ask(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen("127.0.0.1", 0) as place:
            async with await asyncio.start_server(ask, sock=place):
                _, writer = await asyncio.open_connection(*place.getsockname())
                found = await asyncio.wait_for(served, 30)
                writer.close()
                return found

    assert asyncio.run(connection()) == 1
