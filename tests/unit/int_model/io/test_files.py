"""Finding images, and opening them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image as PilImage

from int_model.io.files import FileState, find_images, read_source
from tests.support.folders import refuse_to_list


def picture(path: Path, value: int = 7, size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.new("RGB", size, (value, value, value)).save(path)
    return path


def test_folders_are_searched_with_everything_below_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpg", "a/deep/x.webp", ".hidden/y.png", "b/._2.png", "out/masks/m.png", "z.png"):
        picture(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("no image")
    found = find_images([tmp_path], skip=[tmp_path / "out" / "masks"])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["z.png", "a/deep/x.webp", "b/10.jpg", "b/2.PNG"]


def test_a_named_file_may_have_any_ending_and_is_listed_once(tmp_path: Path) -> None:
    odd = picture(tmp_path / "scan.png").rename(tmp_path / "scan.dat")
    link = tmp_path / "link.png"
    link.symlink_to(odd)
    assert find_images([odd, link, tmp_path / "." / "scan.dat"]) == [odd]


def test_missing_and_empty_places_are_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file or folder '.*nowhere'; check"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"holds no image; images end in"):
        find_images([tmp_path])
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"results would be written into '.*'; choose another --out"):
        find_images([tmp_path], skip=[tmp_path / "."])


def test_a_link_in_a_circle_is_one_unreadable_image(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing.png")
    (tmp_path / "up").symlink_to(tmp_path)
    found = find_images([tmp_path])
    assert found == [good, tmp_path / "loop.png", tmp_path / "nowhere.png"]
    errors = [read_source(path).error for path in found]
    assert errors == ["", "this link leads to no file", "this link leads to no file"]


def test_a_folder_that_cannot_be_read_is_listed_and_reading_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = picture(tmp_path / "good.png")
    locked = picture(tmp_path / "locked" / "a.png").parent
    refuse_to_list(monkeypatch, locked)
    assert find_images([tmp_path]) == [good, locked]
    assert read_source(locked).error == "the folder cannot be read (Permission denied); check its permissions"
    assert find_images([locked]) == [locked]


def test_a_source_tells_digest_state_and_pixels(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 9)
    source = read_source(path)
    assert source.image is not None
    assert int(source.image[0, 0, 0]) == 9
    assert source.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.state == FileState.of(path)
    assert read_source(tmp_path / "gone.png").error == "this is not a file; was it moved?"
