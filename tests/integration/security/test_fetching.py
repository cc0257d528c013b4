"""What tasks may make the backend fetch with its token, and from its own folders."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.fetching.errors import FetchError
from ml_backend.fetching.local_files import read_local_file
from tests.integration.ml_backend.fetching import FILE, connect, fetch
from tests.support.label_studio import LabelStudio, label_studio

SECRET = "Token secret"
URI = base64.urlsafe_b64encode(b"s3://bucket/a.png").decode()


@pytest.fixture(params=["", "/label-studio"])
def mounted(request: pytest.FixtureRequest) -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(prefix=request.param, valid={SECRET})) as running:
        yield running


CONFUSED = [
    "/api/projects/1/export?exportType=JSON",
    "/api/users",
    "/user/account",
    f"/tasks/8/presign/?fileuri={URI}",
    f"/tasks/8/resolve/?fileuri={URI}",
    "/tasks/7/presign/../../../api/users",
    "/tasks/7/annotations",
    "/data/..;/api/users",
    "/data/..;a=b/..;/api/users",
    "/data/%2e%2e;/api/users",
    "/data/%252e%252e/api/users",
    "/data/%25252e%25252e/api/users",
    "/data/%2525252525252e/api/users",
    "/data/..%5capi/users",
    "/data/upload/%2e%2e%2f%2e%2e%2fapi/users",
    "/datax/a.png",
    "//data/a.png",
]


@pytest.mark.parametrize("address", CONFUSED)
@pytest.mark.parametrize("full", [False, True])
def test_the_token_goes_with_requests_for_files_only(mounted: LabelStudio, address: str, full: bool) -> None:
    with pytest.raises(FetchError):
        fetch(f"{mounted.url}{address}" if full else address, 7, **connect(mounted, "secret"))
    assert {request.authorization for request in mounted.requests} <= {None}


def test_nor_does_a_redirect_carry_it_there(mounted: LabelStudio) -> None:
    mounted.redirects["/data/upload/1/a.png"] = f"{mounted.prefix}/api/users"
    with pytest.raises(FetchError, match="the token is sent for files of this task only"):
        fetch("/data/upload/1/a.png", 7, **connect(mounted, "secret"))
    assert [request.authorization for request in mounted.requests] == [SECRET, None]


@pytest.mark.parametrize(
    "address",
    ["/data/upload/1/a.png", "/data/upload/1/a;b%20..png", "/data/upload/1/100%25.png",
     "/storage-data/uploaded/?filepath=upload/1/a.png", f"/tasks/7/presign/?fileuri={URI}",
     f"/tasks/7/resolve/?fileuri={URI}", "/data/local-files/?d=a/../b.png"],
)  # fmt: skip
def test_files_are_had_with_it(mounted: LabelStudio, address: str) -> None:
    path, _, query = address.partition("?")
    decoded = path.replace("%20", " ").replace("%25", "%")
    for named in (path, decoded, f"{path}?{query}"):
        mounted.files[named] = FILE
    mounted.files |= {f"{mounted.prefix}{name}": FILE for name in list(mounted.files)}
    assert fetch(address, 7, **connect(mounted, "secret")) == FILE
    assert mounted.requests[-1].authorization == SECRET


def test_a_task_without_an_id_has_no_presign_of_its_own(mounted: LabelStudio) -> None:
    with pytest.raises(FetchError):
        fetch(f"/tasks/None/presign/?fileuri={URI}", None, **connect(mounted, "secret"))
    assert {request.authorization for request in mounted.requests} <= {None}


# --- local files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "root"
    for folder in (found / "sub", tmp_path / "outside"):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"secret" if folder.name == "outside" else FILE)
    (found / "inside").symlink_to("sub")
    return found.resolve()


def test_files_below_a_root_are_read_by_links_inside_it_too(root: Path) -> None:
    for name in ("sub/a.png", "/sub/a.png", "inside/a.png"):
        assert read_local_file([root], name, 100) == FILE
    assert read_local_file([root], "sub/b.png", 100) is None
    assert read_local_file([root], "sub", 100) is None
    with pytest.raises(FetchError, match="more than 3 bytes"):
        read_local_file([root], "sub/a.png", 3)


def test_a_folder_that_becomes_a_link_between_check_and_open_leads_nowhere(root: Path) -> None:
    folder, aside, link = root / "sub", root / "aside", root.parent / "link"
    link.symlink_to(root.parent / "outside")
    end, seen = threading.Event(), set()

    def swap() -> None:
        while not end.is_set():
            folder.rename(aside)
            link.rename(folder)
            folder.rename(link)
            aside.rename(folder)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(5000):
            try:
                seen.add(read_local_file([root], "sub/a.png", 100))
            except FetchError as error:
                seen.add(str(error).encode())
    finally:
        end.set()
        swapper.join()
    assert FILE in seen
    assert b"secret" not in seen


def test_a_root_that_becomes_a_link_leads_nowhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between check and open, made long: the check sees the folder that was there."""
    checked = Path.is_file

    def is_file(path: Path) -> bool:
        found = checked(path)
        root.rename(root.parent / "before")
        (root.parent / "outside" / "sub").symlink_to(root.parent / "outside")
        root.symlink_to(root.parent / "outside")
        return found

    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(FetchError, match=r"has become a link|cannot be read"):
        read_local_file([root], "sub/a.png", 100)


def test_descriptors_are_given_back(root: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "big").write_bytes(bytes(1000))
    before = count()
    for _ in range(50):
        read_local_file([root], "sub/a.png", 100)
        with pytest.raises(FetchError):
            read_local_file([root], "deep/er/big", 3)
    assert count() <= before + 1
