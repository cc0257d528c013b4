"""Local files at their limits; what leads out of a root is tested with the fetcher."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_backend.fetching.errors import FetchError
from ml_backend.fetching.local_files import read_local_file


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "a" / "b").mkdir(parents=True)
    second.mkdir()
    (first / "a" / "b" / "deep.png").write_bytes(b"deep")
    (second / "only.png").write_bytes(b"second")
    (first / "both.png").write_bytes(b"first")
    (second / "both.png").write_bytes(b"not this one")
    return first.resolve(), second.resolve()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b/deep.png", b"deep"),
        ("/a/b/deep.png", b"deep"),
        ("//a/./b/deep.png", b"deep"),
        ("only.png", b"second"),
        ("both.png", b"first"),
        ("a/b", None),
        ("nowhere.png", None),
        ("", None),
    ],
)
def test_the_first_root_that_has_a_file_gives_it(roots: tuple[Path, Path], name: str, expected: bytes | None) -> None:
    assert read_local_file(roots, name, 100) == expected
    assert read_local_file((), name, 100) is None


@pytest.mark.parametrize(("most", "good"), [(4, True), (5, True), (3, False)])
def test_a_file_may_have_exactly_the_most_bytes(roots: tuple[Path, Path], most: int, good: bool) -> None:
    if good:
        assert read_local_file(roots, "a/b/deep.png", most) == b"deep"
    else:
        with pytest.raises(FetchError, match=r"deep\.png has more than 3 bytes"):
            read_local_file(roots, "a/b/deep.png", most)


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize(
    ("name", "said"),
    [("a/../only.png", "leaves its folder"), ("a\0.png", "leaves its folder"), ("..", "leaves its folder")],
)
def test_a_name_that_climbs_is_refused(roots: tuple[Path, Path], name: str, said: str, hide: bool) -> None:
    with pytest.raises(FetchError, match=said) as raised:
        read_local_file(roots, name, 100, hide=hide)
    assert ("a local file" in str(raised.value)) is hide


def test_long_names_are_shown_in_part(roots: tuple[Path, Path]) -> None:
    with pytest.raises(FetchError) as raised:
        read_local_file(roots, "../" + "x" * 500, 100)
    assert "x" * 77 + "'" in str(raised.value)
    assert "x" * 78 not in str(raised.value)


def test_links_in_a_circle_are_named(roots: tuple[Path, Path]) -> None:
    (roots[0] / "one").symlink_to(roots[0] / "two")
    (roots[0] / "two").symlink_to(roots[0] / "one")
    found: bytes | str | None
    try:
        found = read_local_file(roots, "one", 100)
    except FetchError as error:
        found = str(error)
    assert found is None or "lead in a circle" in str(found)


@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/deep.png"])
def test_who_swaps_a_folder_for_a_link_gets_nowhere(
    roots: tuple[Path, Path], swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the path was checked and before it is opened."""
    secret = roots[1].parent / "secret"
    (secret / "b").mkdir(parents=True)
    for place in (secret, secret / "b"):
        (place / "deep.png").write_bytes(b"secret")
    is_file = Path.is_file

    def swap(path: Path) -> bool:
        found = is_file(path)
        place = roots[0] / swapped
        place.rename(place.with_name("away"))
        place.symlink_to(secret / "deep.png" if swapped.endswith("png") else secret if swapped == "a" else secret / "b")
        return found

    monkeypatch.setattr(Path, "is_file", swap)
    with pytest.raises(FetchError, match="its folder has become a link meanwhile"):
        read_local_file(roots, "a/b/deep.png", 100)


def test_no_file_is_left_open(roots: tuple[Path, Path]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        read_local_file(roots, "a/b/deep.png", 100)
        with pytest.raises(FetchError):
            read_local_file(roots, "a/b/deep.png", 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(roots: tuple[Path, Path]) -> None:
    (roots[0] / "both.png").chmod(0)
    with pytest.raises(FetchError, match=r"both\.png cannot be read: Permission denied"):
        read_local_file(roots, "both.png", 100)


def test_a_pipe_that_replaced_a_file_is_not_waited_for(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file = Path.is_file

    def swap(path: Path) -> bool:
        found = is_file(path)
        path.unlink()
        os.mkfifo(path)
        return found

    monkeypatch.setattr(Path, "is_file", swap)
    with pytest.raises(FetchError, match=r"both\.png is not a regular file"):
        read_local_file(roots, "both.png", 100)
