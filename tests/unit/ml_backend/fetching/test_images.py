"""The fetcher against answers one by one: tokens, refusals, attempts and limits, without a network."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpcore
import pytest

from ml_backend.fetching import images
from ml_backend.fetching.addresses import AddressPolicy
from ml_backend.fetching.errors import FetchError
from ml_backend.fetching.images import FetchLimits, ImageFetcher
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.origin import Origin

STUDIO = "http://Studio.example:8080/sub"
UPLOAD = "/data/upload/1/a.png"


class Tokens:
    """Credentials that can be renewed so often."""

    kind = "personal"

    def __init__(self, renewals: int = 0, error: Exception | None = None) -> None:
        self.renewals = renewals
        self.error = error

    def headers(self) -> dict[str, str]:
        if self.error:
            raise self.error
        return {"Authorization": f"Bearer {self.renewals}"}

    def forget(self) -> bool:
        self.renewals -= 1
        return self.renewals >= 0


class Pool:
    """Answers in turn: a status, or (status, headers, chunks), or an error."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.timeouts: dict[str, float] = {}

    @asynccontextmanager
    async def stream(self, method: str, url: Any, headers: Any, extensions: Any) -> AsyncIterator[Any]:
        assert method == "GET"
        at = f"{url.scheme.decode()}://{url.host.decode()}:{url.port}{url.target.decode()}"
        self.asked.append((at, {str(k): v if isinstance(v, str) else v.decode() for k, v in headers}))
        self.timeouts = extensions["timeout"]
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, given, chunks = answer if isinstance(answer, tuple) else (answer, {}, [b"file"])

        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        listed = [(name.encode(), value.encode()) for name, value in given.items()]
        yield SimpleNamespace(status=status, headers=listed, aiter_stream=body)

    async def aclose(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other without waiting."""
    monkeypatch.setattr(images, "Backoff", lambda *_: lambda _state: 0.0)


def fetch(pool: Pool, address: str, task: int | None = 7, **options: Any) -> bytes:
    async def run() -> bytes:
        fetcher = ImageFetcher(**options)
        fetcher._pool = pool  # type: ignore[assignment]
        try:
            return await fetcher.fetch(address, task)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def ours(**options: Any) -> dict[str, Any]:
    return {"origin": Origin.of(STUDIO), "credentials": Tokens(), **options}


def refused(pool: Pool, address: str, **options: Any) -> FetchError:
    with pytest.raises(FetchError) as raised:
        fetch(pool, address, **options)
    return raised.value


@pytest.mark.parametrize(
    ("address", "asked", "token"),
    [
        (UPLOAD, "http://studio.example:8080/sub/data/upload/1/a.png", True),
        (f"/sub{UPLOAD}", "http://studio.example:8080/sub/data/upload/1/a.png", True),
        (f"{STUDIO}{UPLOAD}", "http://studio.example:8080/sub/data/upload/1/a.png", True),
        (f"{STUDIO}/api/projects", "http://studio.example:8080/sub/api/projects", False),
        ("http://studio.example/data/upload/1/a.png", "http://studio.example:None/data/upload/1/a.png", False),
        ("https://images.example/a.png?x=1", "https://images.example:None/a.png?x=1", False),
        (" https://images.example/a.png ", "https://images.example:None/a.png", False),
        ("s3://bucket/a.png", f"http://studio.example:8080/sub/tasks/7/presign/?fileuri={base64.urlsafe_b64encode(b's3://bucket/a.png').decode()}", True),  # noqa: E501
    ],
)  # fmt: skip
def test_the_token_goes_to_files_of_label_studio_only(address: str, asked: str, token: bool) -> None:
    pool = Pool(200)
    assert fetch(pool, address, **ours()) == b"file"
    ((at, headers),) = pool.asked
    assert at == asked
    assert ("Authorization" in headers) is token
    assert headers["Accept-Encoding"] == "identity"
    assert pool.timeouts == {"connect": 10.0, "read": 20.0, "write": 10.0, "pool": 60.0}


def test_without_label_studio_its_addresses_say_what_to_set() -> None:
    for address in (UPLOAD, "s3://bucket/a.png"):
        assert "LABEL_STUDIO_URL" in str(refused(Pool(), address))
    assert "LABEL_STUDIO_URL" in str(refused(Pool(), "gs://b/a.png", task=None, **ours()))


@pytest.mark.parametrize(
    ("address", "status", "said", "attempts", "transient"),
    [
        (UPLOAD, 401, "make a new personal access token", 1, False),
        (UPLOAD, 403, "may not be read (403); give the token's user access to it", 1, False),
        (f"{STUDIO}/api/x", 401, "may not be read (401): the token is sent for files of this task only", 1, False),
        (f"{STUDIO}/api/x", 403, "may not be read (403): the token is sent for files of this task only", 1, False),
        ("http://a.example/x", 401, "may not be read (401); give the token's user access to it", 1, False),
        ("http://a.example/x", 403, "may not be read (403); give the token's user access to it", 1, False),
        ("http://a.example/x", 404, "is not there (404); was the file deleted?", 1, False),
        ("http://a.example/x", 402, "answered 402; try it in a browser", 1, False),
        ("http://a.example/x", 410, "answered 410; try it in a browser", 1, False),
        ("http://a.example/x", 300, "answered 300; try it in a browser", 1, False),
        ("http://a.example/x", 429, "answered 429; try it in a browser", 3, True),
        ("http://a.example/x", 500, "answered 500; try it in a browser", 3, True),
        ("http://a.example/x", 501, "answered 501; try it in a browser", 1, False),
        ("http://a.example/x", 503, "answered 503; try it in a browser", 3, True),
        (UPLOAD, 500, "Label Studio cannot read the upload (500); was its file deleted?", 3, True),
        (f"{STUDIO}/data/other", 500, "answered 500; try it in a browser", 3, True),
    ],
)
def test_what_is_refused(address: str, status: int, said: str, attempts: int, transient: bool) -> None:
    pool = Pool(*[status] * attempts, 200)
    error = refused(pool, address, **ours())
    assert said in str(error)
    assert (len(pool.asked), error.transient) == (attempts, transient)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_status_below_300_is_a_file(status: int) -> None:
    assert fetch(Pool(status), "http://a.example/x") == b"file"


@pytest.mark.parametrize(
    "error", [httpcore.ConnectError("x"), httpcore.ReadTimeout("x"), httpcore.RemoteProtocolError("x")]
)
def test_who_does_not_answer_is_asked_three_times(error: Exception) -> None:
    pool = Pool(error, error, 200)
    assert fetch(pool, "http://a.example/x") == b"file"
    pool = Pool(error, error, error, 200)
    told = refused(pool, "http://a.example/x")
    assert told.transient
    assert f"cannot be reached ({type(error).__name__}: x)" in str(told)


def test_a_401_renews_the_token_once() -> None:
    pool = Pool(401, 200)
    assert fetch(pool, UPLOAD, **ours(credentials=Tokens(1))) == b"file"
    assert [headers["Authorization"] for _, headers in pool.asked] == ["Bearer 1", "Bearer 0"]
    pool = Pool(401, 401, 200)
    assert "(401)" in str(refused(pool, UPLOAD, **ours(credentials=Tokens(5))))
    assert len(pool.asked) == 2
    pool = Pool(401, 200)
    assert "(401)" in str(refused(pool, "http://a.example/x", **ours(credentials=Tokens(5))))


@pytest.mark.parametrize("status", [503, 403])
def test_a_token_that_cannot_be_had_is_told(status: int) -> None:
    error = LabelStudioError("no token", status)
    told = refused(Pool(200), UPLOAD, **ours(credentials=Tokens(error=error)))
    assert (str(told), told.transient) == ("no token", status == 503)


def test_uploads_that_are_kept_in_cloud_storage() -> None:
    pool = Pool(404, 200)
    assert fetch(pool, "/data/upload/1/a b.png", **ours()) == b"file"
    assert pool.asked[1][0].endswith("/sub/storage-data/uploaded/?filepath=upload/1/a%20b.png")
    pool = Pool(404, 200)
    assert "is not there" in str(refused(pool, "/data/other/a.png", **ours()))
    assert len(pool.asked) == 1


# --- redirects


@pytest.mark.parametrize(("hops", "good"), [(5, True), (6, False)])
def test_five_redirects_are_followed(hops: int, good: bool) -> None:
    answers = [(302, {"Location": f"/{n}"}, []) for n in range(hops)]
    pool = Pool(*answers, 200)
    if good:
        assert fetch(pool, "http://a.example/x") == b"file"
        assert pool.asked[-1][0] == "http://a.example:None/4"
    else:
        assert "redirects more than 5 times" in str(refused(pool, "http://a.example/x"))


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("ftp://b.example/x", "where images may not come from"),
        ("file:///etc/passwd", "where images may not come from"),
        ("http://u:p@b.example/x", "addresses with a name and password"),
        ("http://bad:port/x", "is not a valid address"),
    ],
)
def test_redirects_lead_only_where_images_may_come_from(location: str, said: str) -> None:
    pool = Pool((307, {"location": location}, []), 200)
    assert said in str(refused(pool, "http://a.example/x"))
    assert len(pool.asked) == 1


def test_a_redirect_to_nowhere_is_told_and_a_foreign_one_gets_no_token() -> None:
    assert "redirects to nowhere" in str(refused(Pool((308, {}, [])), "http://a.example/x"))
    pool = Pool((303, {"location": "https://cloud.example/x"}, []), 200)
    assert fetch(pool, UPLOAD, **ours()) == b"file"
    assert ["Authorization" in headers for _, headers in pool.asked] == [True, False]
    assert "answered 304" in str(refused(Pool((304, {"location": "/x"}, [])), "http://a.example/x"))


# --- limits


@pytest.mark.parametrize(
    ("headers", "chunks", "good"),
    [
        ({}, [b"1234", b"5678"], True),
        ({}, [b"1234", b"56789"], False),
        ({"Content-Length": "8"}, [b"12345678"], True),
        ({"Content-Length": "9"}, [b"1"], False),
        ({"Content-Length": "many"}, [b"1"], True),
        ({"Content-Length": "-9"}, [b"1"], True),
    ],
)
def test_a_file_may_have_exactly_the_most_bytes(headers: dict[str, str], chunks: list[bytes], good: bool) -> None:
    pool = Pool((200, headers, chunks))
    if good:
        assert fetch(pool, "http://a.example/x", limits=FetchLimits(max_bytes=8)) == b"".join(chunks)
    else:
        assert "has more than 8 bytes" in str(refused(pool, "http://a.example/x", limits=FetchLimits(max_bytes=8)))


def test_the_limits_if_none_are_given() -> None:
    assert FetchLimits() == FetchLimits(max_bytes=104_857_600, timeout=60.0)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("data:image/png;base64,AAEC", b"\0\1\2"),
        ("data:,a%20b", b"a b"),
        ("data:text/plain,AAEC", b"AAEC"),
        ("data:;base64,", b""),
        (f"data:,{'x' * 8}", b"x" * 8),
        (f"data:,{'x' * 9}", None),
        ("data:image/png;base64,%%%", None),
        ("data:image/png;base64,A", None),
    ],
)
def test_data_addresses(address: str, expected: bytes | None) -> None:
    if expected is None:
        refused(Pool(), address, limits=FetchLimits(max_bytes=8))
    else:
        assert fetch(Pool(), address, limits=FetchLimits(max_bytes=8)) == expected


def test_names_are_hidden_where_that_is_asked_for() -> None:
    for hide in (False, True):
        told = str(refused(Pool(404), "http://a.example/mueller.png", hide_names=hide))
        assert ("mueller" in told) is not hide
        told = str(refused(Pool(), "http://a.example:port/mueller.png", hide_names=hide))
        assert ("mueller" in told) is not hide


# --- what it is made with


def test_label_studio_may_be_private_beside_what_was_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(images, "GuardedBackend", lambda policy, resolver: seen.update(policy=policy) or object())
    monkeypatch.setattr(images.ssl, "create_default_context", lambda **given: seen.update(given))
    monkeypatch.setattr(images.httpcore, "AsyncConnectionPool", lambda **given: seen.update(given))
    given = AddressPolicy.of(["minio.example"], [("other.example", 80)])
    ImageFetcher(Origin.of(STUDIO), policy=given)
    assert seen["policy"].trusted == {("other.example", 80), ("studio.example", 8080)}
    assert seen["policy"].hosts == {"minio.example"}
    assert (seen["cafile"], seen["max_connections"], seen["keepalive_expiry"]) == (None, 64, 15.0)
    ImageFetcher(policy=given, ca_bundle=tmp_path / "ca.pem")
    assert seen["policy"] == given
    assert seen["cafile"] == str(tmp_path / "ca.pem")
