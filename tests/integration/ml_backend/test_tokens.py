"""Both kinds of token, retries, sub-paths, presigned addresses; the token goes nowhere else."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.fetching.addresses import AddressPolicy
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError, Tokens, jwt_claims
from ml_backend.labelstudio.origin import Origin
from tests.integration.ml_backend.fetching import FILE, connect, fetch
from tests.support.harness import (
    POLYGONS,
    backend,
    encoded,
    fake_jwt,
    picture,
)
from tests.support.http_server import Reply, by_path, http_server
from tests.support.label_studio import PAT, LabelStudio, label_studio


@pytest.fixture
def stub() -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(files={"/data/upload/1/a.png": FILE})) as running:
        yield running


@pytest.fixture
def mounted() -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(prefix="/label-studio", files={"/data/upload/1/a.png": FILE})) as running:
        yield running


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_legacy_token_is_sent_as_it_is(stub: LabelStudio) -> None:
    stub.valid = {"Token abc123"}
    assert fetch("/data/upload/1/a.png", **connect(stub, "abc123")) == FILE
    assert stub.exchanges == 0


def test_a_personal_access_token_is_exchanged_once(stub: LabelStudio) -> None:
    stub.refresh, stub.valid = PAT, {"nothing yet"}
    options = connect(stub, PAT)
    for _ in range(3):
        assert fetch("/data/upload/1/a.png", **options) == FILE
    assert stub.exchanges == 1
    assert not any(PAT in (request.authorization or "") for request in stub.requests)


def test_a_short_lived_token_is_renewed_early(stub: LabelStudio) -> None:
    stub.refresh, stub.valid, stub.lifetime = PAT, {"nothing yet"}, 300.0
    now = [time.time()]
    with LabelStudioClient(stub.url, PAT, clock=lambda: now[0]) as client:
        client.tokens.headers()
        now[0] += 230
        client.tokens.headers()
        assert stub.exchanges == 1
        now[0] += 20  # 50 s before the end
        client.tokens.headers()
        assert stub.exchanges == 2


def test_a_401_makes_it_try_once_more_with_a_new_token(stub: LabelStudio) -> None:
    stub.refresh, stub.valid = PAT, {"nothing yet"}
    options = connect(stub, PAT)
    assert fetch("/data/upload/1/a.png", **options) == FILE
    stub.valid = {"revoked"}
    assert fetch("/data/upload/1/a.png", **options) == FILE
    assert stub.exchanges == 2


def test_a_client_call_also_tries_once_more(stub: LabelStudio) -> None:
    stub.refresh, stub.valid, stub.files["/api/current-user/whoami"] = PAT, {"x"}, b'{"id": 1}'
    with LabelStudioClient(stub.url, PAT) as client:
        assert client.whoami() == {"id": 1}
        stub.valid = {"revoked"}
        assert client.whoami() == {"id": 1}
    assert stub.exchanges == 2


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "set LABEL_STUDIO_API_KEY"),
        ("legacy", "legacy tokens are off"),
        (fake_jwt(token_type="refresh", other=1), "refused the personal access token"),
        (fake_jwt(token_type="access"), "make a new personal access token"),
    ],
)
def test_refused_tokens_say_what_to_do(stub: LabelStudio, token: str, words: str) -> None:
    stub.valid, stub.refresh = {"Token other"}, PAT
    with pytest.raises(FetchError, match=words):
        fetch("/data/upload/1/a.png", **connect(stub, token))
    with LabelStudioClient(stub.url, token) as client, pytest.raises(LabelStudioError, match=words) as caught:
        client.whoami()
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("", "none"),
        (" ", "none"),
        ("0123456789abcdef", "legacy"),
        ("a.b.c", "legacy"),
        ("a.b", "legacy"),
        (PAT, "personal"),
        (fake_jwt(token_type="access"), "access"),
        (f"{base64.urlsafe_b64encode(b'[]').decode()}.e30.x", "legacy"),
    ],
)
def test_the_kind_of_token(token: str, kind: str) -> None:
    assert Tokens(token, lambda _: "").kind == kind
    assert (jwt_claims(token) is None) == (kind in ("none", "legacy"))


def test_threads_share_one_exchange() -> None:
    calls: list[str] = []

    def exchange(token: str) -> str:
        time.sleep(0.05)
        calls.append(token)
        return fake_jwt(exp=time.time() + 300)

    tokens = Tokens(PAT, exchange)
    threads = [threading.Thread(target=tokens.headers) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [PAT]


def test_retries_wait_as_told_and_give_up(stub: LabelStudio) -> None:
    waits: list[float] = []
    stub.files["/api/projects/1"] = b"{}"
    with LabelStudioClient(stub.url, sleep=waits.append) as client:
        stub.faults["GET project"] = [429, 503, 500]
        assert client.project(1) == {}
        assert len(waits) == 3
        stub.faults["GET project"] = [502] * 9
        with pytest.raises(LabelStudioError, match="look into its log"):
            client.project(1)
        stub.faults["POST push"] = [500, 500]
        before = len(waits)
        with pytest.raises(LabelStudioError, match="500"):
            client.import_predictions(1, [])
        assert len(waits) == before, "a POST that may have been carried out is not repeated"


def test_no_connection_names_the_setting() -> None:
    with (
        LabelStudioClient("http://127.0.0.1:9", sleep=lambda _: None) as client,
        pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL"),
    ):
        client.whoami()


def test_answers_that_are_no_json(stub: LabelStudio) -> None:
    stub.files["/api/projects/1"] = b"<html>"
    with LabelStudioClient(stub.url) as client, pytest.raises(LabelStudioError, match="did not answer with JSON"):
        client.project(1)


# --- addresses inside Label Studio ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "address", "full"),
    [
        ("http://ls:8080", "/data/upload/1/a b.png", "http://ls:8080/data/upload/1/a b.png"),
        ("http://ls:8080/", "data/upload/1/a.png", "http://ls:8080/data/upload/1/a.png"),
        ("https://h/label-studio", "/data/upload/1/a.png", "https://h/label-studio/data/upload/1/a.png"),
        ("https://h/label-studio/", "/label-studio/data/upload/1/a.png", "https://h/label-studio/data/upload/1/a.png"),
        ("https://h/ls", "/lsx/a.png", "https://h/ls/lsx/a.png"),
        ("http://[::1]:8080", "/a", "http://[::1]:8080/a"),
        ("http://ls", "//evil.example/a", "http://ls//evil.example/a"),
    ],
)
def test_paths_are_resolved_below_the_base(base: str, address: str, full: str) -> None:
    assert Origin.of(base).resolve(address) == full


@pytest.mark.parametrize("base", ["", "ls:8080", "ftp://ls", "http://", "http://[", "/x"])
def test_bad_base_addresses(base: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        Origin.of(base)


def test_a_sub_path_is_found_with_and_without_it(mounted: LabelStudio) -> None:
    mounted.valid, mounted.refresh = {"x"}, PAT
    for address in ("/data/upload/1/a.png", "/label-studio/data/upload/1/a.png", f"{mounted.url}/data/upload/1/a.png"):
        assert fetch(address, **connect(mounted, PAT)) == FILE


def test_uploads_in_cloud_storage_are_found_at_their_other_address(stub: LabelStudio) -> None:
    stub.files = {"/storage-data/uploaded/?filepath=upload/1/a.png": FILE}
    assert fetch("/data/upload/1/a.png", **connect(stub)) == FILE
    with pytest.raises(FetchError, match="404"):
        fetch("/data/upload/1/b.png", **connect(stub))


@pytest.mark.parametrize("uri", ["s3://bucket/a b.png", "gs://bucket/ü.png", "azure-blob://container/a.png"])
def test_cloud_addresses_go_through_presign_and_lose_the_token_on_the_way(stub: LabelStudio, uri: str) -> None:
    with http_server(by_path({"/bucket/a.png": Reply(FILE)})) as cloud:
        stub.valid = {"Token t"}
        stub.redirects[uri] = f"{cloud.url}/bucket/a.png?signature=s"
        policy = AddressPolicy.of(["127.0.0.0/8"])
        assert fetch(uri, 12, **connect(stub, "t", policy=policy)) == FILE
        encoded_uri = base64.urlsafe_b64encode(uri.encode()).decode()
        assert stub.requests[0].target == f"/tasks/12/presign/?fileuri={encoded_uri}"
        assert [request.authorization for request in cloud.requests] == [None]


def test_cloud_addresses_need_label_studio() -> None:
    with pytest.raises(FetchError, match="LABEL_STUDIO_URL"):
        fetch("s3://bucket/a.png")


def test_failures_that_pass_are_tried_again(stub: LabelStudio) -> None:
    stub.faults["GET image"] = [503, 429]
    assert fetch("/data/upload/1/a.png", **connect(stub)) == FILE
    stub.faults["GET image"] = [500] * 5
    with pytest.raises(FetchError, match=r"cannot read the upload \(500\)"):
        fetch("/data/upload/1/a.png", **connect(stub))


# --- the token goes nowhere else --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "address", "ours"),
    [
        ("http://ls:8080", "http://ls:8080/x", True),
        ("http://ls", "http://ls:80/x", True),
        ("http://ls", "http://LS/x", True),
        ("http://ls:8080", "https://ls:8080/x", False),
        ("http://ls:8080", "http://ls/x", False),
        ("http://ls:8080", "http://ls:8081/x", False),
        ("http://ls", "http://ls.evil.example/x", False),
        ("http://ls", "http://evil.example/ls", False),
        ("http://ls", "http://user@ls/x", False),
        ("http://ls/base", "http://ls/base/x", True),
        ("http://ls/base", "http://ls/basement/x", False),
        ("http://ls/base", "http://ls/x", False),
        ("http://ls/base", "http://ls/base/../x", False),
        ("http://ls/base", "http://ls/base/%2e%2e/x", False),
    ],
)
def test_what_is_label_studios_own(base: str, address: str, ours: bool) -> None:
    import httpx

    assert Origin.of(base).owns(httpx.URL(address)) is ours


def test_a_redirect_to_another_origin_does_not_carry_the_token(stub: LabelStudio) -> None:
    with http_server(by_path({"/a.png": Reply(FILE)})) as other:
        stub.redirects["/data/upload/1/away.png"] = f"{other.url}/a.png"
        options = connect(stub, "t", policy=AddressPolicy.of(["127.0.0.1"]))
        assert fetch("/data/upload/1/away.png", **options) == FILE
        assert stub.requests[0].authorization == "Token t"
        assert other.requests[0].authorization is None


# --- all together -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["legacy-token", PAT])
def test_predictions_on_uploads_with_either_token(tmp_path: Path, token: str) -> None:
    image = encoded(picture())
    stub = LabelStudio(files={"/data/upload/1/a.png": image}, valid={"Token legacy-token"}, refresh=PAT)
    with (
        label_studio(stub),
        backend(tmp_path, label_studio_url=stub.url, label_studio_api_key=token) as running,
    ):
        found, missing = running.predict({"image": "/data/upload/1/a.png"}, {"image": "/data/upload/1/b.png"})
        assert found["result"]
        assert missing == []
        assert "is not there (404)" in running.problems()
        assert token not in running.problems()
        assert running.predict({"image": "/data/upload/1/a.png"}, config=POLYGONS)[0]["result"]


def test_hostile_addresses_in_tasks_fail_alone_and_reach_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        port = trap.getsockname()[1]
        hostile = [
            f"http://127.0.0.1:{port}/a.png",
            f"http://localhost:{port}/a.png",
            f"http://[::ffff:127.0.0.1]:{port}/a.png",
            "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data/",
        ]
        good = "data:image/png;base64," + base64.b64encode(encoded(picture())).decode()
        with backend(tmp_path) as running:
            results = running.predict(*({"image": address} for address in [*hostile, good]))
            assert results[:-1] == [[]] * len(hostile)
            assert results[-1]["result"]
        with pytest.raises(TimeoutError):
            trap.accept()
