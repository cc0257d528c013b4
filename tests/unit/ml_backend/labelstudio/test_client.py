"""The client against answers one by one: what is refused, repeated, renewed, and how each is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ml_backend.backoff import Backoff
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError, Tokens, jwt_claims, unauthorised


def jwt(**claims: Any) -> str:
    parts = ({"alg": "HS256"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), "sign"])


LEGACY = "legacy"
PERSONAL = jwt(token_type="refresh", n=1)
Answer = httpx.Response | Exception


class Studio:
    """Answers in turn; notes what it was asked, and how long the client waited."""

    def __init__(self, *answers: Answer, token: str = LEGACY, retries: int = 3) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 1000.0
        self.client = LabelStudioClient(
            "http://studio.example/sub",
            token,
            retries=retries,
            sleep=self.waits.append,
            clock=lambda: self.now,
            backoff=lambda: Backoff(0.5, draw=lambda: 1.0),
        )
        self.client._http.close()
        self.client._http = httpx.Client(transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def told(self, action: Callable[[LabelStudioClient], Any]) -> LabelStudioError:
        with pytest.raises(LabelStudioError) as raised:
            action(self.client)
        return raised.value


def ok(content: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=content)


def no(status: int, text: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, text=text, headers=headers)


def get(client: LabelStudioClient) -> Any:
    return client.json("GET", "/api/x")


def post(client: LabelStudioClient) -> Any:
    return client.json("POST", "/api/x", body={"a": 1})


@pytest.mark.parametrize(
    ("status", "transient"),
    [(0, True), (200, False), (400, False), (404, False), (408, True), (425, True), (424, False), (426, False),
     (429, True), (430, False), (499, False), (500, True), (501, True), (599, True)],
)  # fmt: skip
def test_which_errors_may_pass(status: int, transient: bool) -> None:
    assert LabelStudioError("x", status).transient is transient


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_request_that_changes_nothing_is_repeated(status: int) -> None:
    studio = Studio(no(status), no(status), ok({"a": 1}))
    assert get(studio.client) == {"a": 1}
    assert studio.waits == [0.5, 1.0]
    assert str(studio.asked[0].url) == "http://studio.example/sub/api/x"
    assert studio.asked[0].headers["authorization"] == "Token legacy"


@pytest.mark.parametrize("retries", [0, 2])
def test_it_gives_up_after_so_many(retries: int) -> None:
    studio = Studio(*[no(503)] * 9, retries=retries)
    error = studio.told(get)
    assert (error.status, len(studio.asked)) == (503, retries + 1)
    assert "Label Studio failed (503); look into its log" in str(error)


@pytest.mark.parametrize(
    ("fault", "sent"),
    [(no(429), 2), (no(500), 1), (no(503), 1), (httpx.ReadTimeout("late"), 1), (httpx.ConnectError("refused"), 2),
     (httpx.ConnectTimeout("late"), 2), (httpx.RemoteProtocolError("half"), 1)],
)  # fmt: skip
def test_what_may_have_been_done_is_not_done_twice(fault: Answer, sent: int) -> None:
    studio = Studio(fault, ok({"a": 1}))
    if sent == 2:
        assert post(studio.client) == {"a": 1}
    else:
        error = studio.told(post)
        assert error.unsent is False
    assert len(studio.asked) == sent


def test_no_connection_is_told_with_the_setting() -> None:
    studio = Studio(httpx.ConnectError("refused"), retries=0)
    error = studio.told(get)
    assert (error.status, error.unsent, error.transient) == (0, True, True)
    assert "Label Studio at http://studio.example/sub cannot be reached (ConnectError: refused)" in str(error)
    assert "LABEL_STUDIO_URL" in str(error)


def test_the_first_pause_is_at_most_half_a_second() -> None:
    with LabelStudioClient("http://studio.example") as client:
        assert max(client._backoff().delay() for _ in range(50)) <= 0.5


def test_label_studio_says_how_long_to_wait() -> None:
    studio = Studio(no(429, **{"Retry-After": "7"}), ok([]))
    assert get(studio.client) == []
    assert studio.waits == [7.0]
    error = Studio(no(429, **{"Retry-After": "7"}), retries=0).told(get)
    assert error.retry_after == 7.0


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "refused (400): because"), (403, "the token's user may not do that (403)"), (404, "not found (404)"),
     (413, "refused (413): because"), (499, "refused (499): because"), (401, "refused the legacy token (401)"),
     (501, "Label Studio failed (501)")],
)  # fmt: skip
def test_a_refusal_is_told_once_and_not_repeated(status: int, said: str) -> None:
    studio = Studio(no(status, "because" + "x" * 400))
    error = studio.told(get)
    assert said in str(error)
    assert (error.status, len(studio.asked)) == (status, 1)
    assert "x" * 294 not in str(error)


def test_statuses_below_400_are_answers() -> None:
    assert Studio(no(399, "fine")).client.request("GET", "/x").text == "fine"
    assert Studio(no(400)).told(lambda client: client.request("GET", "/x")).status == 400


def test_what_is_no_json_is_told() -> None:
    error = Studio(no(200, "<html>")).told(get)
    assert "did not answer with JSON" in str(error)
    assert error.status == 0


# --- what is asked


def test_a_project_that_is_not_there_is_named() -> None:
    error = Studio(no(404)).told(lambda client: client.project(7))
    assert "has no project 7, not found (404)" in str(error)
    assert error.status == 404
    assert "may not do that (403)" in str(Studio(no(403)).told(lambda client: client.project(7)))


@pytest.mark.parametrize("answer", [{}, {"created": "3"}, {"created": None}, []])
def test_how_many_predictions_were_created_must_be_said(answer: Any) -> None:
    error = Studio(ok(answer)).told(lambda client: client.import_predictions(7, []))
    assert "does not say how many were created" in str(error)
    assert Studio(ok({"created": 3})).client.import_predictions(7, []) == 3


def test_a_page_of_tasks_is_asked_for_as_the_data_manager_does() -> None:
    studio = Studio(ok({"tasks": [{"id": 1}, "broken"]}), ok({"tasks": []}))
    assert studio.client.tasks_page(7, 2, 100, query={"a": [1]}, whole=True) == [{"id": 1}]
    assert studio.client.tasks_page(7, 1, 50, view=3) == []
    first, second = (dict(request.url.params) for request in studio.asked)
    assert first == {
        "project": "7", "page": "2", "page_size": "100", "resolve_uri": "false", "query": '{"a":[1]}', "fields": "all",
    }  # fmt: skip
    assert second == {"project": "7", "page": "1", "page_size": "50", "resolve_uri": "false", "view": "3"}


@pytest.mark.parametrize(("status", "page", "end"), [(404, 2, True), (404, 1, False), (403, 2, False)])
def test_behind_the_last_page_there_are_no_tasks(status: int, page: int, end: bool) -> None:
    studio = Studio(no(status))
    if end:
        assert studio.client.tasks_page(7, page, 100) == []
    else:
        assert studio.told(lambda client: client.tasks_page(7, page, 100)).status == status


@pytest.mark.parametrize("answer", [[], {"tasks": {}}, {}])
def test_an_answer_without_tasks_is_told(answer: Any) -> None:
    assert "holds no list of tasks" in str(Studio(ok(answer)).told(lambda client: client.tasks_page(7, 1, 100)))


def test_connections_are_rows() -> None:
    assert Studio(ok([{"id": 1}, 2])).client.connections(7) == [{"id": 1}]
    assert Studio(ok({"id": 1})).client.connections(7) == []


def test_a_project_is_changed_and_a_prediction_deleted() -> None:
    studio = Studio(ok({}), no(204))
    studio.client.update_project(7, {"model_version": "v"})
    studio.client.delete_prediction(9)
    assert [(one.method, one.url.path) for one in studio.asked] == [
        ("PATCH", "/sub/api/projects/7"),
        ("DELETE", "/sub/api/predictions/9"),
    ]
    assert json.loads(studio.asked[0].content) == {"model_version": "v"}


def test_it_closes_its_connections() -> None:
    with Studio().client as client:
        assert not client._http.is_closed
    assert client._http.is_closed


# --- tokens


def access(seconds: float | None = None) -> httpx.Response:
    return ok({"access": jwt(token_type="access", **({} if seconds is None else {"exp": seconds}))})


@pytest.mark.parametrize(
    ("token", "kind"),
    [("", "none"), ("abc", "legacy"), ("a.b.c", "legacy"), (PERSONAL, "personal"), (jwt(token_type="access"), "access"),
     (jwt(), "personal"), (f" {PERSONAL} ", "personal")],
)  # fmt: skip
def test_kinds_of_tokens(token: str, kind: str) -> None:
    tokens = Tokens(token, lambda _: "exchanged")
    assert tokens.kind == kind
    expected = {
        "none": {},
        "legacy": {"Authorization": f"Token {token}"},
        "personal": {"Authorization": "Bearer exchanged"},
        "access": {"Authorization": f"Bearer {token}"},
    }
    assert tokens.headers() == expected[kind]


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", "!!.!!.x", jwt().replace(".", ".x", 1), "W10.W10.x"])
def test_what_is_no_jwt_has_no_claims(text: str) -> None:
    assert jwt_claims(text) is None


@pytest.mark.parametrize("name", ["a", "ab", "abc", "abcd"])  # of each length of base64
def test_claims_are_read(name: str) -> None:
    assert jwt_claims(jwt(name=name)) == {"name": name}


@pytest.mark.parametrize(
    ("expires", "good_until"),
    [(1000 + 300.0, 1000 + 240.0), (1000 + 61.0, 1005.0), (None, 1000 + 240.0), (900.0, 1005.0)],
)
def test_an_exchanged_token_is_renewed_a_minute_early(expires: float | None, good_until: float) -> None:
    studio = Studio(access(expires), *[ok([])] * 2, access(5000.0), ok([]), token=PERSONAL)
    get(studio.client)
    studio.now = good_until - 0.01
    get(studio.client)
    studio.now = good_until
    get(studio.client)
    assert [one.url.path for one in studio.asked] == [
        "/sub/api/token/refresh/", "/sub/api/x", "/sub/api/x", "/sub/api/token/refresh/", "/sub/api/x",
    ]  # fmt: skip
    assert "authorization" not in studio.asked[0].headers
    assert studio.asked[1].headers["authorization"].startswith("Bearer ey")


def test_a_401_renews_the_token_once() -> None:
    studio = Studio(access(), no(401), access(), ok([1]), token=PERSONAL)
    assert get(studio.client) == [1]
    studio = Studio(access(), no(401), access(), no(401), token=PERSONAL)
    assert "refused the token (401)" in str(studio.told(get))
    assert studio.answers == []


@pytest.mark.parametrize(
    ("answer", "said", "status"),
    [(no(401), "refused the personal access token", 401), (no(400), "refused the personal access token", 400),
     (no(403), "refused the personal access token", 403), (no(404), "answered 404 without a token", 404),
     (no(200, "<html>"), "answered 200 without a token", 200), (ok({"access": 3}), "answered 200 without a token", 200),
     (ok([]), "answered 200 without a token", 200)],
)  # fmt: skip
def test_a_token_that_cannot_be_exchanged_is_told(answer: httpx.Response, said: str, status: int) -> None:
    error = Studio(answer, token=PERSONAL).told(get)
    assert said in str(error)
    assert error.status == status


def test_an_exchange_is_repeated_as_it_changes_nothing() -> None:
    studio = Studio(no(503), httpx.ReadTimeout("late"), access(), ok([]), token=PERSONAL)
    assert get(studio.client) == []
    down = Studio(*[httpx.ReadTimeout("late")] * 9, token=PERSONAL, retries=1)
    assert "cannot be reached" in str(down.told(get))


def test_each_kind_of_token_has_its_remedy() -> None:
    assert unauthorised("none").endswith("set LABEL_STUDIO_API_KEY to a personal access token")
    assert "legacy tokens are off" in unauthorised("legacy")
    assert unauthorised("access") == unauthorised("personal") != unauthorised("legacy")
