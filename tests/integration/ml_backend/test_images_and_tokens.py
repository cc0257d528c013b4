"""Fetching images, talking to Label Studio: tokens, sub-paths, retries, and addresses that must not be reached."""

from __future__ import annotations

import asyncio
import base64
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ml_backend.addresses import AddressPolicy
from ml_backend.images import FetchError, FetchLimits, ImageFetcher
from ml_backend.label_studio import LabelStudioClient, LabelStudioError, Origin, Tokens, jwt_claims, retry_after
from tests.integration.ml_backend.harness import (
    POLYGONS,
    LabelStudioStub,
    backend,
    encoded,
    fake_jwt,
    label_studio,
    picture,
)

FILE = b"the file"
PAT = fake_jwt(token_type="refresh", exp=9e9)


def fetch(address: str, task_id: int | None = 7, **options: Any) -> bytes:
    async def run() -> bytes:
        fetcher = ImageFetcher(**options)
        try:
            return await fetcher.fetch(address, task_id)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def resolves(**names: str | Sequence[str]) -> Callable[[str, int], Any]:
    """A resolver that knows these names (``_`` for ``.``) and nothing else, but addresses themselves."""

    async def resolver(host: str, _: int) -> list[str]:
        found = names.get(host.replace(".", "_").replace("-", "_"))
        if found is None:
            return [host.strip("[]")]
        return [found] if isinstance(found, str) else list(found)

    return resolver


@pytest.fixture
def stub() -> Iterator[LabelStudioStub]:
    with label_studio(LabelStudioStub(files={"/data/upload/1/a.png": FILE})) as running:
        yield running


@pytest.fixture
def mounted() -> Iterator[LabelStudioStub]:
    with label_studio(LabelStudioStub(prefix="/label-studio", files={"/data/upload/1/a.png": FILE})) as running:
        yield running


def connect(stub: LabelStudioStub, token: str = "", **options: Any) -> dict[str, Any]:
    client = LabelStudioClient(stub.url, token, sleep=lambda _: None)
    return {"origin": client.origin, "credentials": client.tokens, **options}


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_legacy_token_is_sent_as_it_is(stub: LabelStudioStub) -> None:
    stub.valid = {"Token abc123"}
    assert fetch("/data/upload/1/a.png", **connect(stub, "abc123")) == FILE
    assert stub.exchanges == 0


def test_a_personal_access_token_is_exchanged_once(stub: LabelStudioStub) -> None:
    stub.refresh, stub.valid = PAT, {"nothing yet"}
    options = connect(stub, PAT)
    for _ in range(3):
        assert fetch("/data/upload/1/a.png", **options) == FILE
    assert stub.exchanges == 1
    assert not any(PAT in (header or "") for _, _, header in stub.requests)


def test_a_short_lived_token_is_renewed_early(stub: LabelStudioStub) -> None:
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


def test_a_401_makes_it_try_once_more_with_a_new_token(stub: LabelStudioStub) -> None:
    stub.refresh, stub.valid = PAT, {"nothing yet"}
    options = connect(stub, PAT)
    assert fetch("/data/upload/1/a.png", **options) == FILE
    stub.valid = {"revoked"}
    assert fetch("/data/upload/1/a.png", **options) == FILE
    assert stub.exchanges == 2


def test_a_client_call_also_tries_once_more(stub: LabelStudioStub) -> None:
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
def test_refused_tokens_say_what_to_do(stub: LabelStudioStub, token: str, words: str) -> None:
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


def test_retries_wait_as_told_and_give_up(stub: LabelStudioStub) -> None:
    waits: list[float] = []
    stub.files["/api/projects/1"] = b"{}"
    with LabelStudioClient(stub.url, sleep=waits.append) as client:
        stub.fail_first["/api/projects/1"] = [429, 503, 500]
        assert client.project(1) == {}
        assert len(waits) == 3
        stub.fail_first["/api/projects/1"] = [502] * 9
        with pytest.raises(LabelStudioError, match="look into its log"):
            client.project(1)
        stub.fail_first["/api/projects/1/import/predictions"] = [500, 500]
        before = len(waits)
        with pytest.raises(LabelStudioError, match="500"):
            client.import_predictions(1, [])
        assert len(waits) == before, "a POST that may have been carried out is not repeated"


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 2.0), ("3", 3.0), ("999", 30.0), ("x", 2.0), ("nan", 2.0), ("-1", 0)]
)
def test_retry_after(header: str | None, seconds: float) -> None:
    assert retry_after(header, 2.0) == seconds


def test_no_connection_names_the_setting() -> None:
    with (
        LabelStudioClient("http://127.0.0.1:9", sleep=lambda _: None) as client,
        pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL"),
    ):
        client.whoami()


def test_answers_that_are_no_json(stub: LabelStudioStub) -> None:
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


def test_a_sub_path_is_found_with_and_without_it(mounted: LabelStudioStub) -> None:
    mounted.valid, mounted.refresh = {"x"}, PAT
    for address in ("/data/upload/1/a.png", "/label-studio/data/upload/1/a.png", f"{mounted.url}/data/upload/1/a.png"):
        assert fetch(address, **connect(mounted, PAT)) == FILE


def test_uploads_in_cloud_storage_are_found_at_their_other_address(stub: LabelStudioStub) -> None:
    stub.files = {"/storage-data/uploaded/?filepath=upload/1/a.png": FILE}
    assert fetch("/data/upload/1/a.png", **connect(stub)) == FILE
    with pytest.raises(FetchError, match="404"):
        fetch("/data/upload/1/b.png", **connect(stub))


@pytest.mark.parametrize("uri", ["s3://bucket/a b.png", "gs://bucket/ü.png", "azure-blob://container/a.png"])
def test_cloud_addresses_go_through_presign_and_lose_the_token_on_the_way(stub: LabelStudioStub, uri: str) -> None:
    with label_studio(LabelStudioStub(files={"/bucket/a.png": FILE})) as cloud:
        stub.valid = {"Token t"}
        stub.redirects[uri] = f"{cloud.url}/bucket/a.png?signature=s"
        policy = AddressPolicy.of(["127.0.0.0/8"])
        assert fetch(uri, 12, **connect(stub, "t", policy=policy)) == FILE
        encoded_uri = base64.urlsafe_b64encode(uri.encode()).decode()
        assert stub.requests[0][1] == f"/tasks/12/presign/?fileuri={encoded_uri}"
        assert [header for _, _, header in cloud.requests] == [None]


def test_cloud_addresses_need_label_studio() -> None:
    with pytest.raises(FetchError, match="LABEL_STUDIO_URL"):
        fetch("s3://bucket/a.png")


def test_failures_that_pass_are_tried_again(stub: LabelStudioStub) -> None:
    stub.fail_first["/data/upload/1/a.png"] = [503, 429]
    assert fetch("/data/upload/1/a.png", **connect(stub)) == FILE
    stub.fail_first["/data/upload/1/a.png"] = [500] * 5
    with pytest.raises(FetchError, match="answered 500"):
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


def test_a_redirect_to_another_origin_does_not_carry_the_token(stub: LabelStudioStub) -> None:
    with label_studio(LabelStudioStub(files={"/a.png": FILE})) as other:
        stub.redirects["/data/upload/1/away.png"] = f"{other.url}/a.png"
        options = connect(stub, "t", policy=AddressPolicy.of(["127.0.0.1"]))
        assert fetch("/data/upload/1/away.png", **options) == FILE
        assert stub.requests[0][2] == "Token t"
        assert other.requests[0][2] is None


# --- addresses that must not be reached -------------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.1/a.png",
    "http://127.1/a.png",
    "http://0.0.0.0/a.png",
    "http://[::1]/a.png",
    "http://[::]/a.png",
    "http://10.1.2.3/a.png",
    "http://172.16.0.1/a.png",
    "http://192.168.1.1/a.png",
    "http://100.64.0.1/a.png",
    "http://169.254.169.254/latest/meta-data",
    "http://[fe80::1]/a.png",
    "http://[fd00::1]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://[::ffff:169.254.169.254]/a.png",
    "http://[64:ff9b::7f00:1]/a.png",
    "http://[2002:7f00:1::]/a.png",
    "http://224.0.0.1/a.png",
    "http://255.255.255.255/a.png",
    "http://inside.example/a.png",
    "https://inside.example:8443/a.png",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_before_connecting(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpcore

    async def connected(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connected)
    with pytest.raises(FetchError, match="INT_ALLOWED_HOSTS"):
        fetch(address, resolver=resolves(inside_example="10.0.0.9", **{"127_1": "127.0.0.1"}))


@pytest.mark.parametrize("address", ["http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://localhost/"])
def test_numbers_and_names_that_the_system_resolves_to_private_ones(address: str) -> None:
    with pytest.raises(FetchError, match=r"INT_ALLOWED_HOSTS|not known|cannot be reached"):
        fetch(address)


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://h/a.png",
        "gopher://h/",
        "unix:///var/run/docker.sock",
        "javascript://x",
        "http://user:pass@example.com/a.png",
        "http://",
        "http:///a.png",
        "http://[bad/a.png",
        "http://exa mple.com/a.png",
        "http://\ud800/a.png",
        "data:image/png;base64,%%%",
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(FetchError):
        fetch(address, resolver=resolves(example_com="127.0.0.1"))


@pytest.mark.parametrize("address", ["", "/data/upload/1/a.png", "a.png", "/etc/passwd", "../../etc/passwd"])
def test_paths_without_a_label_studio_say_what_to_set(address: str) -> None:
    with pytest.raises(FetchError, match="LABEL_STUDIO_URL"):
        fetch(address)


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest", "http://10.0.0.1/a.png", "file:///etc/passwd", "//127.0.0.1:1/x",
               "http://rebind.example/a.png", "gopher://x"]
)  # fmt: skip
def test_redirects_to_forbidden_places_are_refused(stub: LabelStudioStub, target: str) -> None:
    stub.redirects["/data/upload/1/away.png"] = target
    with pytest.raises(FetchError, match=r"may not come from"):
        fetch("/data/upload/1/away.png", **connect(stub), resolver=resolves(rebind_example="127.0.0.1"))
    assert len(stub.requests) == 1


def test_endless_redirects_end(stub: LabelStudioStub) -> None:
    stub.redirects["/data/upload/1/round.png"] = "/data/upload/1/round.png"
    with pytest.raises(FetchError, match="more than 5 times"):
        fetch("/data/upload/1/round.png", **connect(stub))
    assert len(stub.requests) == 6


def test_a_name_that_changes_its_meaning_is_resolved_once_and_pinned(stub: LabelStudioStub) -> None:
    """DNS rebinding: the first answer is public, later ones private; only the checked address is connected to."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []
    connected: list[str] = []

    async def resolver(host: str, _: int) -> list[str]:
        asked.append(host)
        return next(answers)

    import httpcore

    async def connect_tcp(self: Any, host: str, *_: Any, **__: Any) -> Any:
        connected.append(host)
        raise httpcore.ConnectError("no network in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
        with pytest.raises(FetchError, match="INT_ALLOWED_HOSTS"):
            fetch("http://rebind.example/a.png", resolver=resolver)
    assert connected == ["93.184.216.34"]
    assert set(asked) == {"rebind.example"}


def test_of_mixed_answers_only_allowed_addresses_are_used(stub: LabelStudioStub) -> None:
    port = int(stub.url.rpartition(":")[2])
    stub.files["/a.png"] = FILE
    options = {"resolver": resolves(mixed_example=["10.0.0.1", "127.0.0.1"])}
    policy = AddressPolicy.of(["127.0.0.1"])
    assert fetch(f"http://mixed.example:{port}/a.png", policy=policy, **options) == FILE


@pytest.mark.parametrize(
    ("allowed", "good"),
    [(["127.0.0.1"], True), (["127.0.0.0/8"], True), (["minio.example"], True), (["MINIO.example"], True),
     (["10.0.0.0/8"], False), (["other.example"], False), ([], False)],
)  # fmt: skip
def test_private_hosts_can_be_allowed(stub: LabelStudioStub, allowed: list[str], good: bool) -> None:
    port = int(stub.url.rpartition(":")[2])
    stub.files["/a.png"] = FILE
    options = {"policy": AddressPolicy.of(allowed), "resolver": resolves(minio_example="127.0.0.1")}
    if good:
        assert fetch(f"http://minio.example:{port}/a.png", **options) == FILE
        assert stub.requests[0][2] is None
    else:
        with pytest.raises(FetchError, match="INT_ALLOWED_HOSTS"):
            fetch(f"http://minio.example:{port}/a.png", **options)
        assert stub.requests == []


def test_label_studio_itself_may_be_private_but_its_neighbours_on_other_ports_not(stub: LabelStudioStub) -> None:
    with label_studio(LabelStudioStub(files={"/a.png": FILE})) as neighbour:
        with pytest.raises(FetchError, match="INT_ALLOWED_HOSTS"):
            fetch(f"{neighbour.url}/a.png", **connect(stub, "t"))
        assert neighbour.requests == []


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "host/path", ""])
def test_broken_allow_lists_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        AddressPolicy.of([entry])


# --- caps -------------------------------------------------------------------------------------------------------------


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Endless, slow or lying answers by path."""

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/lying":
            self.send_header("Content-Length", str(10**12))
        if self.path == "/short":
            self.send_header("Content-Length", "100")
        self.end_headers()
        try:
            if self.path == "/short":
                self.wfile.write(b"x" * 10)
            if self.path == "/endless":
                for _ in range(10_000):
                    self.wfile.write(b"x" * 65536)
            if self.path == "/slow":
                for _ in range(200):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "words"),
    [("/endless", "more than 100000 bytes"), ("/lying", "more than 100000 bytes"), ("/slow", "took more than 0.5 s"),
     ("/short", "cannot be reached")],
)  # fmt: skip
def test_endless_slow_and_lying_bodies_are_cut_off(misbehaving: str, path: str, words: str) -> None:
    limits = FetchLimits(max_bytes=100_000, timeout=5 if path == "/short" else 0.5)
    with pytest.raises(FetchError, match=words):
        fetch(misbehaving + path, policy=AddressPolicy.of(["127.0.0.1"]), limits=limits)


def test_data_addresses_have_the_same_cap() -> None:
    assert fetch("data:image/png;base64,AAEC") == b"\0\1\2"
    assert fetch("data:,a%20b") == b"a b"
    with pytest.raises(FetchError, match="more than 10 bytes"):
        fetch("data:,aaaaaaaaaaaaaaaaaaaaa", limits=FetchLimits(max_bytes=10))


def test_messages_hold_no_signatures_or_passwords() -> None:
    with pytest.raises(FetchError) as caught:
        fetch("http://user:geheim@10.0.0.1/a.png?X-Amz-Signature=geheim")
    assert "geheim" not in str(caught.value)
    with pytest.raises(FetchError) as caught:
        fetch("http://10.0.0.1/a.png?X-Amz-Signature=geheim")
    assert "geheim" not in str(caught.value)


# --- local files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "sub dir" / "a b.png").write_bytes(FILE)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linkdir").symlink_to(tmp_path)
    (folder / "inside.png").symlink_to(folder / "sub dir" / "a b.png")
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling" / "x.png").write_bytes(b"secret")
    os.mkfifo(folder / "pipe.png")
    return folder.resolve()


@pytest.mark.parametrize(
    "query",
    ["d=sub%20dir/a%20b.png", "d=sub dir/a b.png", "d=/sub%20dir/a%20b.png", "x=1&d=inside.png", "d=./inside.png"],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_local_files_are_read_from_a_root(root: Path, query: str, slash: str) -> None:
    assert fetch(f"/data/local-files{slash}?{query}", local_roots=(root,)) == FILE


@pytest.mark.parametrize(
    "query",
    [
        "d=../secret.png",
        "d=..%2Fsecret.png",
        "d=sub dir/../../secret.png",
        "d=link.png",
        "d=linkdir/secret.png",
        "d=../root-sibling/x.png",
        "d=%00",
        "d=a%00b.png",
        "d=..",
    ],
)
def test_nothing_outside_a_root_is_read(root: Path, query: str) -> None:
    with pytest.raises(FetchError, match="not allowed"):
        fetch(f"/data/local-files/?{query}", local_roots=(root,))


@pytest.mark.parametrize(
    "query",
    ["d=%252e%252e/secret.png", "d=/etc/passwd", "d=missing.png", "d=sub dir", "d=pipe.png", "d=", ""],
)
def test_what_is_no_file_in_a_root_is_left_to_label_studio(root: Path, query: str) -> None:
    with pytest.raises(FetchError, match="LABEL_STUDIO_URL"):
        fetch(f"/data/local-files/?{query}", local_roots=(root,))


def test_without_roots_local_files_come_from_label_studio(stub: LabelStudioStub, root: Path) -> None:
    stub.files["/data/local-files/?d=x/a.png"] = FILE
    assert fetch("/data/local-files/?d=x/a.png", **connect(stub)) == FILE
    assert fetch("/data/local-files/?d=x/a.png", **connect(stub), local_roots=(root,)) == FILE
    assert fetch(f"{stub.url}/data/local-files/?d=inside.png", **connect(stub), local_roots=(root,)) == FILE


def test_long_local_files_are_refused(root: Path) -> None:
    with pytest.raises(FetchError, match="more than 3 bytes"):
        fetch("/data/local-files/?d=inside.png", local_roots=(root,), limits=FetchLimits(max_bytes=3))


# --- all together -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["legacy-token", PAT])
def test_predictions_on_uploads_with_either_token(tmp_path: Path, token: str) -> None:
    image = encoded(picture())
    stub = LabelStudioStub(files={"/data/upload/1/a.png": image}, valid={"Token legacy-token"}, refresh=PAT)
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
