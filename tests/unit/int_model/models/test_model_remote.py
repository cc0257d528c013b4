"""A vision-language model on a server: the answers are those of the same model here, and nothing is lost on the way."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tenacity import wait_none

from int_model.core.types import Image
from int_model.models.adapters.openai_client import OpenAIClient, ServerRefusalError
from int_model.models.adapters.remote_vlm import RemoteVisionLanguage
from int_model.models.errors import TransientModelError
from int_model.models.profile import OpenAIRole, ProfileError, read_profile
from int_model.models.protocols import VisionLanguage, was_cut
from int_model.models.suite import load_suite, profile_fingerprint
from tests.support.http_server import HttpServer, Reply, Request, http_server, json_reply
from tests.support.vllm_server import VllmServer
from tests.unit.int_model.models.tiny import picture

IMAGES = [picture(40, 56, 1), picture(64, 24, 2)]
QUESTIONS = ["Name of the animal in one word.", "What hides here?"]
NAMES = ("moth", "hidden zebra fish", "hidden zebra", "animal")


def remote(url: str, **options: Any) -> RemoteVisionLanguage:
    settings = OpenAIRole(**{"url": f"{url}/v1", "model": "tiny", "padded": True, "end_token": "</s>", **options})
    return RemoteVisionLanguage(settings, OpenAIClient(settings, wait=wait_none()))


@pytest.fixture(scope="module", params=["new", "old"])
def server(request: pytest.FixtureRequest, profile: Path) -> Iterator[HttpServer]:
    with http_server(VllmServer(profile.parent / "vlm", old=request.param == "old")) as running:
        yield running


def test_dialogues_and_scores_equal_the_local_adapters(server: HttpServer, load_vlm: Any, profile: Path) -> None:
    ours, local = remote(server.url), load_vlm(profile.parent / "vlm")
    assert isinstance(ours, VisionLanguage)
    turns = [(question, "And where?") for question in QUESTIONS]
    said, expected = ours.dialogue(IMAGES, turns, (6, 4)), local.dialogue(IMAGES, turns, (6, 4))
    assert said == expected
    assert [[was_cut(a) for a in row] for row in said] == [[was_cut(a) for a in row] for row in expected]
    for reduce in ("mean", "first", "max"):
        expected = local.score(IMAGES, QUESTIONS, [NAMES, NAMES[:1]], reduce)
        for mine, theirs in zip(ours.score(IMAGES, QUESTIONS, [NAMES, NAMES[:1]], reduce), expected, strict=True):
            assert mine.dtype == np.float64
            np.testing.assert_allclose(mine, theirs, rtol=1e-4)


def test_a_whole_answer_ends_with_its_end_token(load_vlm: Any, profile: Path) -> None:
    with http_server(VllmServer(profile.parent / "vlm")) as server:
        [ours] = remote(server.url).score(IMAGES[:1], QUESTIONS[:1], [NAMES], "prod")
    [theirs] = load_vlm(profile.parent / "vlm").score(IMAGES[:1], QUESTIONS[:1], [NAMES], "prod")
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_answers_with_a_common_beginning_share_its_requests(profile: Path) -> None:
    with http_server(VllmServer(profile.parent / "vlm")) as server:
        ours = remote(server.url)
        ours.score(IMAGES[:1], QUESTIONS[:1], [NAMES[1:3]])
        asked = [request.json() for request in server.requests if request.path == "/v1/chat/completions"]
        local = {len(ids) for ids in (ours._ids(QUESTIONS[0], name) for name in NAMES[1:3])}
    assert len(asked) == max(local)  # the shorter one is the beginning of the longer one
    assert all(body["max_tokens"] == 1 and body["messages"][0]["content"][0]["type"] == "image_url" for body in asked)


def canned(request: Request) -> Reply:
    """A server without a model: it repeats what it was asked, so that every answer can be checked."""
    if request.path != "/v1/chat/completions":
        return json_reply({"tokens": [1, 2]})
    text = request.json()["messages"][-1]["content"][-1]["text"]
    return json_reply({"choices": [{"message": {"content": f"said {text}"}}]})


class Faulty:
    """Answers as ``canned``, but for every third request with the next of its faults."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._faults = itertools.cycle(["429", "500", "half", "nothing", "slow", "no json", "not whole"])
        self._lock = threading.Lock()
        self.made = 0
        self.gone = False  # a connection that a client has kept is then closed, too

    def __call__(self, request: Request) -> Reply | None:
        if self.gone:
            return None
        with self._lock:
            fault = next(self._faults) if next(self._count) % 3 == 0 else None
            self.made += fault is not None
        whole = canned(request)
        match fault:
            case "429":
                return Reply(b"{}", 429, {"Retry-After": "0"})
            case "500":
                return Reply(b"oops", 500)
            case "half":
                return Reply(whole.body, 200, whole.headers, sent=len(whole.body) // 2)
            case "nothing":
                return None
            case "slow":
                threading.Event().wait(0.4)
            case "no json":
                return Reply(b"<html>", 200)
            case "not whole":
                return json_reply({"choices": []})
        return whole


def ask_until_answered(vlm: RemoteVisionLanguage, image: Image, number: int) -> str:
    """As a run does it: what cannot be answered now is put off."""
    for _ in range(200):
        try:
            return vlm.dialogue([image], [(f"question {number}",)], (5,))[0][0]
        except TransientModelError:
            threading.Event().wait(0.01)
    raise AssertionError("never answered")


def test_faults_and_a_restart_lose_nothing_of_200_images() -> None:
    """429, 500, half an answer, no answer, a slow one, no JSON, and a server that is gone for a while."""
    faulty, answers = Faulty(), {}
    image = picture(8, 8)
    with ExitStack() as stack:
        first = stack.enter_context(http_server(faulty))
        vlm = remote(first.url, timeout_s=0.2, attempts=2)
        for number in range(100):
            answers[number] = ask_until_answered(vlm, image, number)
        port = first.port
    faulty.gone = True
    with pytest.raises(TransientModelError, match="cannot be reached"):
        vlm.dialogue([image], [("anyone there?",)], (5,))
    faulty.gone = False
    with http_server(faulty, port):
        for number in range(100, 200):
            answers[number] = ask_until_answered(vlm, image, number)
    assert answers == {number: f"said question {number}" for number in range(200)}
    assert faulty.made > 60


def test_what_the_server_refuses_is_not_tried_again_and_says_why() -> None:
    for status, body, message in (
        (401, b"{}", "INT_VLM_API_KEY"),
        (404, b"{}", "no model 'tiny'"),
        (400, json.dumps({"error": {"message": "At most 0 images, data:" + "A" * 999}}).encode(), "At most 0 images"),
    ):
        with http_server(lambda _, s=status, b=body: Reply(b, s)) as server:
            with pytest.raises(ServerRefusalError, match=message) as caught:
                remote(server.url).dialogue(IMAGES[:1], [("Name?",)], (3,))
            assert len(server.requests) == 1
        assert "AAAA" not in str(caught.value)


def test_a_server_that_is_busy_says_when_to_come_back_and_the_error_passes_it_on() -> None:
    with http_server(lambda _: Reply(b"{}", 503, {"Retry-After": "0.01"})) as server:
        with pytest.raises(TransientModelError, match="answered 503") as caught:
            remote(server.url, attempts=3).dialogue(IMAGES[:1], [("Name?",)], (3,))
        assert len(server.requests) == 3
    assert caught.value.retry_after == 0.01


def test_no_more_requests_at_a_time_than_wanted() -> None:
    now, most, lock = [0], [0], threading.Lock()

    def answer(request: Request) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.02)
        with lock:
            now[0] -= 1
        return canned(request)

    with http_server(answer) as server:
        said = remote(server.url, concurrency=3).dialogue(IMAGES * 6, [(f"q{i}",) for i in range(12)], (3,))
    assert said == [(f"said q{i}",) for i in range(12)]
    assert most[0] == 3


def test_the_key_is_sent_and_stands_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    with http_server(lambda _: Reply(b"{}", 500)) as server:
        with pytest.raises(TransientModelError) as caught:
            remote(server.url, api_key_env="MY_KEY", attempts=1).dialogue(IMAGES[:1], [("Name?",)], (3,))
        assert server.requests[0].authorization == "Bearer secret-key"
    assert "secret-key" not in str(caught.value)


def test_a_profile_names_the_server_and_the_fingerprint_knows_it(profile: Path) -> None:
    def over(**options: str) -> dict[str, str]:
        return {
            f"vlm.{key}": value for key, value in {"kind": "openai", "url": "http://gpu:8000/v1", **options}.items()
        }

    suite = load_suite(profile, device="cpu", overrides=over(model="a"), offline=True)
    assert isinstance(suite.vlm, RemoteVisionLanguage)
    prints = [profile_fingerprint(read_profile(profile, over(**o))) for o in _KINDS]
    assert len(set(prints)) == 3
    assert profile_fingerprint(read_profile(profile, over(model="a", timeout_s="3"))) == prints[0]
    with pytest.raises(ProfileError, match="vlm"):
        read_profile(profile, over(model="a", url="http://user:password@gpu:8000/v1"))


_KINDS: tuple[dict[str, str], ...] = ({"model": "a"}, {"model": "b"}, {"model": "a", "url": "http://other:8000/v1"})


def test_what_a_server_cannot_do_is_said() -> None:
    vlm = remote("http://127.0.0.1:9", end_token="")
    with pytest.raises(ValueError, match=r"score\.domain"):
        vlm.answer_distributions(IMAGES[:1], QUESTIONS[:1], ["moth"])
    with (
        http_server(lambda _: json_reply({"tokens": [1, 2], "prompt": "no token of its own"})) as server,
        pytest.raises(ServerRefusalError, match=r"vlm\.end_token"),
    ):
        remote(server.url, end_token="").score(IMAGES[:1], QUESTIONS[:1], [()], "prod")
