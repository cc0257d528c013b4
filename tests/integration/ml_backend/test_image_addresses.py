"""Addresses that must not be reached, caps, and local files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.fetching.addresses import AddressPolicy
from ml_backend.fetching.errors import FetchError
from ml_backend.fetching.images import FetchLimits
from tests.integration.ml_backend.fetching import FILE, connect, fetch, resolves
from tests.support.http_server import Reply, by_path, http_server
from tests.support.label_studio import LabelStudio, label_studio
from tests.support.misbehaving import misbehave


@pytest.fixture
def stub() -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(files={"/data/upload/1/a.png": FILE})) as running:
        yield running


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
    "http://[::127.0.0.1]/a.png",
    "http://[::ffff:0:127.0.0.1]/a.png",
    "http://[fec0::1]/a.png",
    "http://[5f00::1]/a.png",
    "http://192.88.99.1/a.png",
    "http://198.18.0.1/a.png",
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
def test_redirects_to_forbidden_places_are_refused(stub: LabelStudio, target: str) -> None:
    stub.redirects["/data/upload/1/away.png"] = target
    with pytest.raises(FetchError, match=r"may not come from"):
        fetch("/data/upload/1/away.png", **connect(stub), resolver=resolves(rebind_example="127.0.0.1"))
    assert len(stub.requests) == 1


def test_endless_redirects_end(stub: LabelStudio) -> None:
    stub.redirects["/data/upload/1/round.png"] = "/data/upload/1/round.png"
    with pytest.raises(FetchError, match="more than 5 times"):
        fetch("/data/upload/1/round.png", **connect(stub))
    assert len(stub.requests) == 6


def test_a_name_that_changes_its_meaning_is_resolved_once_and_pinned(stub: LabelStudio) -> None:
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


def test_of_mixed_answers_only_allowed_addresses_are_used(stub: LabelStudio) -> None:
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
def test_private_hosts_can_be_allowed(stub: LabelStudio, allowed: list[str], good: bool) -> None:
    port = int(stub.url.rpartition(":")[2])
    stub.files["/a.png"] = FILE
    options = {"policy": AddressPolicy.of(allowed), "resolver": resolves(minio_example="127.0.0.1")}
    if good:
        assert fetch(f"http://minio.example:{port}/a.png", **options) == FILE
        assert stub.requests[0].authorization is None
    else:
        with pytest.raises(FetchError, match="INT_ALLOWED_HOSTS"):
            fetch(f"http://minio.example:{port}/a.png", **options)
        assert stub.server.connections == 0


def test_label_studio_itself_may_be_private_but_its_neighbours_on_other_ports_not(stub: LabelStudio) -> None:
    with http_server(by_path({"/a.png": Reply(FILE)})) as neighbour:
        with pytest.raises(FetchError, match="INT_ALLOWED_HOSTS"):
            fetch(f"{neighbour.url}/a.png", **connect(stub, "t"))
        assert neighbour.connections == 0


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "host/path", ""])
def test_broken_allow_lists_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        AddressPolicy.of([entry])


# --- caps -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[str]:
    with http_server(misbehave) as server:
        yield server.url


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


def test_without_roots_local_files_come_from_label_studio(stub: LabelStudio, root: Path) -> None:
    stub.files["/data/local-files/?d=x/a.png"] = FILE
    assert fetch("/data/local-files/?d=x/a.png", **connect(stub)) == FILE
    assert fetch("/data/local-files/?d=x/a.png", **connect(stub), local_roots=(root,)) == FILE
    assert fetch(f"{stub.url}/data/local-files/?d=inside.png", **connect(stub), local_roots=(root,)) == FILE


def test_long_local_files_are_refused(root: Path) -> None:
    with pytest.raises(FetchError, match="more than 3 bytes"):
        fetch("/data/local-files/?d=inside.png", local_roots=(root,), limits=FetchLimits(max_bytes=3))
