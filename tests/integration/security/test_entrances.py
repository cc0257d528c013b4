"""Who gets in: pages of other sites, foreign host names, tokens of roles, and a port that is open to all."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.cli.serve import check_exposure
from ml_backend.settings import Settings
from tests.support.harness import GOOD, POLYGONS, Backend, backend

EVIL = "http://evil.example"
BODIES: dict[str, Any] = {
    "/setup": {"project": "1", "schema": POLYGONS, "extra_params": "a stolen prompt"},
    "/predict": {"tasks": [{"id": 1, "data": GOOD}], "project": "1", "label_config": POLYGONS},
    "/webhook": {"action": "PROJECT_UPDATED", "project": {"id": 1, "label_config": POLYGONS}},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("open")) as made:
        yield made


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("headers", [{"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
def test_pages_of_other_sites_cannot_post(running: Backend, path: str, headers: dict[str, str]) -> None:
    asked = len(running.strategy.asked)
    answer = running.client.post(path, json=BODIES[path], headers=headers)
    assert (answer.status_code, "another site" in answer.json()["error"]) == (403, True)
    assert len(running.strategy.asked) == asked


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_bodies_that_a_foreign_form_could_send_are_refused(running: Backend, path: str, kind: str | None) -> None:
    """Forms send these three kinds without asking the other site first."""
    headers = {} if kind is None else {"Content-Type": kind}
    answer = running.client.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, "Content-Type: application/json" in answer.json()["cure"]) == (415, True)


@pytest.mark.parametrize("path", BODIES)
def test_label_studio_which_sends_no_origin_is_heard(running: Backend, path: str) -> None:
    headers = {"User-Agent": "heartex/1.23.2", "Content-Type": "application/json; charset=utf-8"}
    assert running.client.post(path, json=BODIES[path], headers=headers).status_code in (200, 201)


PAGES = ["/", "/health", "/status", "/metrics", "/versions", "/runs", "/docs", "/openapi.json", "/nope"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "a@127.0.0.1", ""])
def test_foreign_host_names_see_no_page(running: Backend, host: str) -> None:
    for page in PAGES:
        answer = running.client.get(page, headers={"Host": host})
        assert (answer.status_code, "INT_HOSTNAMES" in answer.text) == (421, True), page
    for path, body in BODIES.items():
        assert running.client.post(path, json=body, headers={"Host": host}).status_code == 421


def routes(running: Backend) -> list[tuple[str, str]]:
    """Method and path of everything that the backend answers."""
    found = [(m, re.sub(r"{[^}]*}", "1", r.path)) for r in running.app.routes for m in getattr(r, "methods", ()) or ()]
    assert {("GET", "/health"), ("POST", "/predict"), ("GET", "/audit")} <= set(found)
    return found


def test_no_route_at_all_answers_a_foreign_host_name(running: Backend) -> None:
    for method, path in routes(running):
        assert running.client.request(method, path, headers={"Host": "evil.example"}).status_code == 421, path


def test_no_route_at_all_can_be_posted_to_from_another_site(running: Backend) -> None:
    for method, path in routes(running):
        if method not in ("GET", "HEAD", "OPTIONS"):
            answer = running.client.request(method, path, headers={"Origin": EVIL}, json={})
            assert answer.status_code == 403, path


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9090", "[::1]:9090", "192.168.3.4", "localhost", "LOCALHOST:1", "backend:9090", "host.docker.internal",
     socket.gethostname()],
)  # fmt: skip
def test_names_that_nobody_else_can_own_are_ours(running: Backend, host: str) -> None:
    assert running.client.get("/health", headers={"Host": host}).status_code == 200


def test_host_names_by_setting(tmp_path: Path) -> None:
    with backend(tmp_path, hostnames="ml.example.org, *.svc.cluster.local") as made:
        for host, status in {
            "ml.example.org": 200, "ML.example.org.:443": 200, "b.ns.svc.cluster.local": 200,
            "x.ml.example.org": 421, "svc.cluster.local": 421, "evilsvc.cluster.local": 421,
        }.items():  # fmt: skip
            assert made.client.get("/health", headers={"Host": host}).status_code == status, host


def test_the_api_page_is_our_own(running: Backend) -> None:
    page = running.client.get("/docs")
    assert "/predict" in page.text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//|<script|@import|url\(", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert running.client.get("/redoc").status_code == 404
    assert running.client.get("/docs/oauth2-redirect").status_code == 404


def test_answers_cannot_be_embedded_elsewhere(running: Backend) -> None:
    for page in PAGES:
        headers = running.client.get(page).headers
        found = (headers["x-content-type-options"], headers["cross-origin-resource-policy"])
        assert found == ("nosniff", "same-origin"), page


# --- the webhook ------------------------------------------------------------------------------------------------------


def test_the_webhook_is_closed_where_a_password_is_set(tmp_path: Path) -> None:
    with backend(tmp_path, basic_auth_user="u", basic_auth_pass="p") as made:
        assert made.client.post("/webhook", json={}).status_code == 401
        assert made.client.post("/webhook", json={}, auth=("u", "p")).status_code == 200


# --- roles ------------------------------------------------------------------------------------------------------------

STATE = ["/runs", "/status", "/metrics"]


def statuses(made: Backend, **how: Any) -> tuple[set[int], int, int]:
    """Of the pages of state, of an action, and of what Label Studio asks."""
    seen = {made.client.get(page, **how).status_code for page in STATE}
    return seen, made.client.post("/runs/1/cancel", **how).status_code, made.client.get("/versions", **how).status_code


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("roles")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "admin"):
            (folder / name).write_text(f"{name}-secret\n")
            patch.setenv(f"INT_{name.upper()}_TOKEN_FILE", str(folder / name))
        with backend(folder, basic_auth_user="u", basic_auth_pass="p") as made:
            patch.undo()
            yield made


def bearer(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def test_tokens_from_files_part_reading_from_acting(roles: Backend) -> None:
    assert statuses(roles) == ({401}, 401, 401)
    assert statuses(roles, auth=("u", "p")) == ({401}, 401, 200)  # Label Studio's password opens what it needs
    assert statuses(roles, **bearer("read-secret")) == ({200}, 401, 200)
    assert statuses(roles, auth=("anybody", "read-secret")) == ({200}, 401, 200)  # as browsers send it
    assert statuses(roles, **bearer("admin-secret")) == ({200}, 404, 200)
    assert statuses(roles, **bearer("other")) == ({401}, 401, 401)
    assert roles.client.post("/predict", json=BODIES["/predict"], **bearer("read-secret")).status_code == 401


def test_a_read_token_alone_does_not_open_actions(tmp_path: Path) -> None:
    with backend(tmp_path, read_token="r") as made:
        assert statuses(made) == ({401}, 401, 200)
        assert statuses(made, **bearer("r")) == ({200}, 401, 200)


def test_an_admin_token_alone_closes_actions_only(tmp_path: Path) -> None:
    with backend(tmp_path, admin_token="a") as made:
        assert statuses(made) == ({200}, 401, 200)
        assert statuses(made, **bearer("a")) == ({200}, 404, 200)


# --- the port ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "backend"])  # noqa: S104
def test_a_port_open_to_all_must_be_asked_for_by_name(host: str) -> None:
    with pytest.raises(ValueError, match="INT_OPEN_TO_NETWORK=true"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, open_to_network=True))
    check_exposure(Settings(host=host, basic_auth_user="u", basic_auth_pass="p"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_may_call(host: str) -> None:
    check_exposure(Settings(host=host))
