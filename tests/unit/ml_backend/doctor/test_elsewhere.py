"""The doctor's question to a model server: servers that cannot be worked with are told apart before a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from int_model.models.profile import Profile, read_profile
from ml_backend.doctor.diagnosis import Level
from ml_backend.doctor.elsewhere import examine_remote
from tests.support.http_server import Reply, Request, http_server, json_reply

IDS = {"red": 7, "blue": 8}


def profile_of(url: str) -> Profile:
    return read_profile("nano", {"vlm.kind": "openai", "vlm.url": f"{url}/v1", "vlm.model": "tiny"})


def answering(likely: Callable[[bool], dict[str, float]]) -> Callable[[Request], Reply]:
    """A server whose log-probabilities of "red" and "blue" are ``likely(the image is red)``."""

    def answer(request: Request) -> Reply:
        body = request.json()
        if request.path == "/tokenize":
            last = body["messages"][-1]
            return json_reply({"tokens": [1] if last["role"] == "user" else [1, IDS[last["content"]]]})
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        red, _, blue = PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel((5, 5))  # type: ignore[misc]
        top = [{"token": f"token_id:{IDS[name]}", "logprob": value} for name, value in likely(red > blue).items()]
        logs = {"content": [{**top[0], "top_logprobs": top}]}
        return json_reply({"choices": [{"message": {"content": "red"}, "logprobs": logs}]})

    return answer


@pytest.mark.parametrize(
    ("likely", "level", "words"),
    [
        (lambda red: {"red": -0.1, "blue": -3.0} if red else {"red": -3.0, "blue": -0.1}, Level.OK, "sees images"),
        (lambda red: {"red": -3.0, "blue": -0.1} if red else {"red": -3.1, "blue": -0.1}, Level.WARNING, "for blue"),
        (lambda red: {"red": -1.0, "blue": -2.0}, Level.PROBLEM, "does not see images"),
        (lambda red: {"red": 0.0, "blue": 0.0}, Level.PROBLEM, "gives no probabilities"),
    ],
)
def test_servers_are_judged_by_what_they_answer(likely: Any, level: Level, words: str) -> None:
    with http_server(answering(likely)) as server:
        [found] = examine_remote(profile_of(server.url))
    assert found.level is level
    assert words in found.text


@pytest.mark.parametrize(
    ("reply", "words"),
    [(Reply(b"{}", 401), "wants a key"), (Reply(b"{}", 404), "has no model"), (None, "cannot be reached")],
)
def test_servers_that_do_not_answer_are_a_problem_with_a_remedy(reply: Reply | None, words: str) -> None:
    with http_server(lambda _: reply) as server:
        [found] = examine_remote(profile_of(server.url))
    assert found.level is Level.PROBLEM
    assert words in found.text
    assert found.remedy


def test_nothing_is_asked_where_the_model_runs_here(tmp_path: Path) -> None:
    assert examine_remote(read_profile("nano")) == []
