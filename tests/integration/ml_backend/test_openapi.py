"""What the OpenAPI page says holds: requests made from it, fitting and not, over a real socket."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, Response, checks
from schemathesis.generation import GenerationMode

from tests.integration.ml_backend.bodies import BODIES
from tests.integration.runs.test_web import connected, finished
from tests.support.harness import GOOD, JSON, Backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

SHORT, LONG = 300, 5000
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.positive_data_acceptance,
    checks.allow_header_conformance,
]

CHECKS_OF_FORM = [check for check in CHECKS if check is not checks.positive_data_acceptance]
UP_TO_THE_PROJECT = {"/runs", "/runs/{run_id}/{action}", "/projects/{project}/connect", "/projects/{project}/try"}
"""Whether a prompt, a view or two sides make sense is up to the project's labeling config: 400 with a sentence."""


class Talk:
    """The running backend, what was sent to it, and the requests that its page describes."""

    def __init__(self, running: Backend) -> None:
        self.running = running
        self.base = str(running.client.base_url).rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False
        self.seen: Counter[tuple[str, int]] = Counter()
        schema = schemathesis.openapi.from_url(f"{self.base}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        self.paths = {operation.path for operation in operations}
        ways = [
            operation.as_strategy(generation_mode=mode)
            for operation in operations
            for mode in GenerationMode
            if mode is GenerationMode.POSITIVE or operation.body or operation.query
        ]
        self.cases = st.one_of(ways)
        self.each = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE) for operation in operations]
        self.posts = st.sampled_from([operation for operation in operations if operation.body])

    def send(self, data: st.DataObject) -> None:
        """One request, half of the time as schemathesis makes it from the page, else one of our own near misses."""
        if data.draw(st.booleans()):
            case = data.draw(self.cases)
            answer = case.call(base_url=self.base, session=self.session)
        else:
            case = data.draw(self.posts).Case()
            body, kind = json.dumps(data.draw(BODIES)), {"Content-Type": "application/json"}
            answer = Response.from_any(self.session.post(self.base + case.operation.path, data=body, headers=kind))
        self.judge(case, answer)

    def send_one_of(self, data: st.DataObject, strategy: st.SearchStrategy[Case]) -> None:
        """A fitting request of one operation."""
        case = data.draw(strategy)
        self.judge(case, case.call(base_url=self.base, session=self.session))

    def judge(self, case: Case, answer: Response) -> None:
        """Count the answer and hold it against the page."""
        self.seen[case.operation.path, answer.status_code] += 1
        held = CHECKS if case.operation.path not in UP_TO_THE_PROJECT else CHECKS_OF_FORM
        case.validate_response(answer, checks=held)


@contextmanager
def talking(folder: Path) -> Iterator[Talk]:
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks={1: {"data": GOOD}})
    with label_studio(made) as fake, connected(folder, fake, deadline=5.0) as running:
        assert running.client.post("/runs", json={"project": 1}).json()["run"]["id"] == "1"  # of the examples
        finished(running.client, "1")
        yield Talk(running)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    with talking(tmp_path_factory.mktemp("data")) as found:
        yield found


@pytest.fixture
def talk_of_its_own(tmp_path: Path) -> Iterator[Talk]:
    """For what the others' requests must not have changed."""
    with talking(tmp_path) as found:
        yield found


def ask_once(talk: Talk, strategy: st.SearchStrategy[Case]) -> None:
    @settings(max_examples=1, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def the_answer_is_as_described(data: st.DataObject) -> None:
        talk.send_one_of(data, strategy)

    the_answer_is_as_described()


def fuzz(talk: Talk, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=examples == SHORT,
              phases=[Phase.generate, Phase.shrink],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def every_answer_is_as_described(data: st.DataObject) -> None:
        talk.send(data)

    for strategy in talk.each:  # chance leaves one out now and then
        ask_once(talk, strategy)
    every_answer_is_as_described()
    assert {path for path, _ in talk.seen} == talk.paths
    assert talk.running.client.get("/health").json()["status"] == "UP"
    assert talk.running.predict(GOOD)[0]["result"]
    assert "unexpected" not in talk.running.problems()


def test_requests_made_from_the_page_are_answered_as_it_says(talk: Talk) -> None:
    fuzz(talk, SHORT)
    bad = sum(count for (_, status), count in talk.seen.items() if status == 400)
    assert bad > 10
    # half of the operations are about a run or a project, and chance hardly ever names the one that is there
    assert sum(count for (_, status), count in talk.seen.items() if status < 300) > 60


@pytest.mark.slow
def test_five_thousand_requests_make_no_500_and_no_crash(
    talk: Talk, record_property: Callable[[str, object], None]
) -> None:
    fuzz(talk, LONG)
    assert sum(talk.seen.values()) >= LONG
    for (path, status), count in sorted(talk.seen.items()):
        record_property(f"{path} {status}", count)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("GET", "/nope", 404, {}),
        ("POST", "/health", 405, {"allow": "GET"}),
        ("GET", "/predict", 405, {"allow": "POST"}),
        ("DELETE", "/webhook", 405, {"allow": "POST"}),
        ("POST", "/setup", 400, {}),
        ("POST", "/predict", 400, {}),
    ],
)
def test_errors_are_json_with_an_id_and_a_cure(
    talk: Talk, method: str, path: str, status: int, headers: dict[str, str]
) -> None:
    answer = talk.running.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"id", "error", "cure"}
    assert headers.items() <= dict(answer.headers).items()


def test_every_operation_describes_its_errors_and_its_login(talk: Talk) -> None:
    page = talk.running.client.get("/openapi.json").json()
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert {"200", "401", "500"} <= statuses, path
            assert method == "get" or {"400", "413"} <= statuses, path
            assert {"basic": []} in operation["security"], path
            assert operation["description"], path
            for status, answer in operation["responses"].items():
                (content,) = answer["content"].values()
                assert content["schema"] not in ({}, None), (path, status)
                assert status < "400" or content["schema"] == {"$ref": "#/components/schemas/ErrorOut"}, (path, status)
    assert page["components"]["securitySchemes"] == {"basic": {"type": "http", "scheme": "basic"}}


def test_the_examples_on_the_page_are_accepted(talk_of_its_own: Talk) -> None:
    talk = talk_of_its_own
    page = talk.running.client.get("/openapi.json").json()
    sent = 0
    for path, operations in page["paths"].items():
        for operation in operations.values():
            if "requestBody" in operation:
                body = operation["requestBody"]["content"]["application/json"]["example"]
                filled = path
                for parameter in operation.get("parameters", ()):
                    filled = filled.replace(f"{{{parameter['name']}}}", str(parameter.get("example", "")))
                assert talk.running.client.post(filled, json=body).status_code < 300, path
                sent += 1
    assert sent >= 3


def test_clients_that_leave_in_the_middle_hurt_nobody(talk: Talk) -> None:
    def leave(index: int) -> None:
        def body() -> Iterator[bytes]:
            yield b'{"tasks": ['
            raise ConnectionAbortedError

        with httpx.Client(trust_env=False) as client, pytest.raises(ConnectionAbortedError):
            client.post(f"{talk.base}{['/predict', '/setup', '/webhook'][index % 3]}", content=body(), headers=JSON)

    threads = [threading.Thread(target=leave, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert talk.running.client.get("/health").status_code == 200
    assert talk.running.predict(GOOD)[0]["result"]
