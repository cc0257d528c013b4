"""Which addresses are Label Studio's own: the token goes to these alone, and never to what only looks like one."""

from __future__ import annotations

import httpx
import pytest

from ml_backend.labelstudio.origin import Origin

PLAIN, BELOW = Origin.of("https://ls.example"), Origin.of(" http://ls.example:8080/label-studio/ ")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://ls.example", Origin("https", "ls.example", 443, "")),
        ("http://ls.example/", Origin("http", "ls.example", 80, "")),
        ("http://ls.example:8080/a/b//", Origin("http", "ls.example", 8080, "/a/b")),
        ("http://[::1]:8080", Origin("http", "::1", 8080, "")),
    ],
)
def test_an_address_is_taken_apart(text: str, origin: Origin) -> None:
    assert Origin.of(text) == origin
    assert origin.base == text.rstrip("/")


@pytest.mark.parametrize("text", ["", "ls.example", "ftp://ls.example", "http://", "http://a%41.example", "http://a:b"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="http://label-studio:8080"):
        Origin.of(text)


@pytest.mark.parametrize(
    ("origin", "path", "address"),
    [
        (PLAIN, "/data/1.png", "https://ls.example/data/1.png"),
        (PLAIN, "data/1.png", "https://ls.example/data/1.png"),
        (BELOW, "/data/1.png", "http://ls.example:8080/label-studio/data/1.png"),
        (BELOW, "/label-studio/data/1.png", "http://ls.example:8080/label-studio/data/1.png"),
        (BELOW, "label-studio/data/1.png", "http://ls.example:8080/label-studio/data/1.png"),
        (BELOW, "/label-studio", "http://ls.example:8080/label-studio"),
        (BELOW, "/label-studios/1.png", "http://ls.example:8080/label-studio/label-studios/1.png"),
    ],
)
def test_a_path_becomes_a_full_address_below_where_it_is_mounted(origin: Origin, path: str, address: str) -> None:
    assert origin.resolve(path) == address


@pytest.mark.parametrize(
    ("origin", "address", "owned"),
    [
        (PLAIN, "https://ls.example/data/1.png", True),
        (PLAIN, "https://ls.example:443/data/1.png", True),
        (PLAIN, "https://ls.example:444/data/1.png", False),
        (PLAIN, "http://ls.example/data/1.png", False),
        (PLAIN, "https://ls.example.evil.example/data/1.png", False),
        (PLAIN, "https://me@ls.example/data/1.png", False),
        (PLAIN, "https://ls.example/a..b/1.png", True),
        (BELOW, "http://ls.example:8080/label-studio", True),
        (BELOW, "http://ls.example:8080/label-studio/data/1.png", True),
        (BELOW, "http://ls.example:8080/label-studios/1.png", False),
        (BELOW, "http://ls.example:8080/data/1.png", False),
        (BELOW, "http://ls.example:8080/label-studio/../admin", False),
        (BELOW, "http://ls.example:8080/label-studio/%2e%2e/admin", False),
        (BELOW, "http://ls.example:8080/label-studio/%252e%252e/admin", False),
        (BELOW, "http://ls.example:8080/label-studio/..%5cadmin", False),
        (BELOW, "http://ls.example:8080/label-studio/..;x=1/admin", False),
        (BELOW, "http://ls.example:8080/label-studio/..%20/admin", False),
        (BELOW, "http://ls.example:8080/label-studio/%25252525252e/admin", False),
        (BELOW, "http://ls.example:8080/label-studio/%2541.png", True),
    ],
)
def test_what_is_ours_is_told_apart_however_a_server_reads_the_path(origin: Origin, address: str, owned: bool) -> None:
    assert origin.owns(httpx.URL(address)) is owned
    if not owned:
        assert not origin.serves_file(httpx.URL(address), 5)


@pytest.mark.parametrize(
    ("path", "task", "file"),
    [
        ("/data/upload/1.png", None, True),
        ("/storage-data/uploaded/?filepath=1.png", None, True),
        ("/tasks/5/presign/?fileuri=x", 5, True),
        ("/tasks/5/resolve", 5, True),
        ("/tasks/5/presign/", 6, False),
        ("/tasks/5/presign/", None, False),
        ("/tasks/None/presign/", None, False),
        ("/tasks/5/", 5, False),
        ("/api/tasks/5", 5, False),
        ("/database", 5, False),
        ("/", 5, False),
    ],
)
def test_the_token_goes_along_to_files_alone(path: str, task: int | None, file: bool) -> None:
    for origin in (PLAIN, BELOW):
        assert origin.serves_file(httpx.URL(origin.base + path), task) is file
