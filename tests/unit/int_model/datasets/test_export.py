"""Selection, putting results in place, the data card and the contact sheet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from int_model.datasets.card import Statistics, write_card
from int_model.datasets.contents import Item, LabelPlan, Selection, survey
from int_model.datasets.export import WORK, export, prepare_output
from int_model.datasets.lists import ListWriter
from int_model.datasets.review import ReviewWriter
from int_model.datasets.store import DatasetStore
from tests.unit.int_model.datasets.folders import LABELS, fill, filled, items, picture


def test_what_is_selected_and_counted(tmp_path: Path) -> None:
    with filled(tmp_path, (10, 0, 200, 1, 20, 10)) as (store, contents):
        paths = [entry.path for entry in contents.entries]
        paths.append(picture(tmp_path / "in" / "later.png", 50))
        root = (tmp_path / "in").resolve()
        chosen = Selection(min_score=0.5, negatives=False, exclude=frozenset({"0/p4.png"}), shares={"val": 0.4})
        found = survey(store, root, paths, LABELS, chosen)
        assert [entry.relative for entry in found.entries] == ["0/p0.png", "1/p5.png"]
        assert (found.without_objects, found.excluded, found.unfinished) == (2, 1, 1)
        assert [failure.relative for failure in contents.failures] == ["1/p3.png"]
        assert len({entry.split for entry in found.entries}) == 1, "0/p0 and 1/p5 are the same picture"
        (first, *_), (kept, *_) = items(store, contents), items(store, found)
        assert [wanted.score for wanted in first.objects] == pytest.approx([1 - 10 / 300, 0.9 - 10 / 300, 1 - 10 / 300])
        assert kept.doubt == pytest.approx(0.9 - 10 / 300)


def test_folders_can_be_kept_together(tmp_path: Path) -> None:
    with filled(tmp_path, range(10, 30)) as (store, contents):
        paths = [entry.path for entry in contents.entries]
        root = (tmp_path / "in").resolve()
        found = survey(store, root, paths, LABELS, Selection(shares={"val": 0.5}, keep_folders=True))
    assert len({(entry.path.parent.name, entry.split) for entry in found.entries}) == 2


def test_two_labels_of_one_name_are_refused(tmp_path: Path) -> None:
    labels = [LabelPlan("Frog", "a", "k"), LabelPlan("frog", "b", "l")]
    with DatasetStore(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="two labels have the same name"):
        survey(store, tmp_path, [], labels, Selection())


class Note:
    """A writer of one file."""

    def __init__(self, folder: Path, name: str, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        self.closed = False

    def add(self, item: Item) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


def put(out: Path, files: dict[str, str], stream: Iterator[Item] | None = None) -> list[str]:
    return export(out, stream or iter(()), lambda folder: [Note(folder, name, text) for name, text in files.items()])


def listing(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): path.read_text()
        for path in out.rglob("*")
        if path.is_file() and WORK not in path.parts
    }


def test_an_export_replaces_the_last_one_and_nothing_else(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    put(tmp_path, {"labels/a.txt": "1", "old/b.txt": "2", "card.md": "3"})
    (tmp_path / "mine.txt").write_text("a user's file")
    assert put(tmp_path, {"labels/c.txt": "4", "card.md": "5"}) == ["card.md", "labels"]
    assert listing(tmp_path) == {"labels/c.txt": "4", "card.md": "5", "mine.txt": "a user's file"}


def test_an_export_that_breaks_off_changes_nothing(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    put(tmp_path, {"labels/a.txt": "1"})

    def breaks() -> Iterator[Item]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, {"labels/b.txt": "2"}, breaks())
    assert listing(tmp_path) == {"labels/a.txt": "1"}
    put(tmp_path, {"labels/b.txt": "2"})
    assert listing(tmp_path) == {"labels/b.txt": "2"}


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    prepare_output(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "precious.txt").write_text("by hand")
    with pytest.raises(ValueError, match="was not made by this program; move it away"):
        put(tmp_path, {"labels/a.txt": "1"})
    assert listing(tmp_path) == {"labels/precious.txt": "by hand"}


def test_the_output_is_new_empty_or_ours(tmp_path: Path) -> None:
    assert prepare_output(tmp_path / "new" / "deep").is_dir()
    (tmp_path / "empty").mkdir()
    prepare_output(tmp_path / "empty")
    prepare_output(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("x")
    with pytest.raises(ValueError, match="holds other files"):
        prepare_output(tmp_path / "full")
    with pytest.raises(ValueError, match="choose another --out"):
        prepare_output(tmp_path / "full" / "thesis.doc")


def test_the_card_counts_what_is_there(tmp_path: Path) -> None:
    with filled(tmp_path, (10, 0, 200, 1, 0, 10), Selection(shares={"val": 0.4})) as (store, contents):
        statistics = Statistics(contents)
        for item in items(store, contents):
            statistics.add(item)
        summary = statistics.summary()
    made = {"date": "2000-01-01", "models": {"vlm": "x|y"}, "changed": [], "nothing": {}}
    write_card(tmp_path, "A <b>title</b>", made, summary, ["a file"])
    card = json.loads((tmp_path / "dataset_card.json").read_text())
    told = card["contents"]
    assert (told["images"], told["images_without_objects"], told["objects"], told["failed"]) == (5, 2, 9, 1)
    assert told["abstention_rate"] == 0.4
    assert sum(split["images"] for split in told["splits"].values()) == 5
    assert told["splits"]["val"]["images"] == 2
    assert told["duplicate_groups"] == {
        "groups": 3,  # the two pictures of value 10 are alike, and so are those of value 0
        "groups_of_several": 2,
        "images_in_groups_of_several": 4,
        "largest": 2,
    }
    ring = told["labels"]["Ring"]
    assert (ring["objects"], ring["images"], ring["abstained"], ring["share_of_objects"]) == (6, 3, 2, 0.6667)
    assert ring["names"] == {"rings-0": 3, "rings-1": 3}
    assert told["width"]["p50"] == 64
    assert told["made_by_versions"] == ["test"]
    text = (tmp_path / "dataset_card.md").read_text()
    for part in ("Unreviewed", "A &lt;b>title", "| Ring | rings | 6 | 66.7 % | 3 | 2 (40.0 %)", "x\\|y", "- a file"):
        assert part in text, part


class Links(HTMLParser):
    """Pictures, links, ticks and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.ticks: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.handlers += [name for name in told if name.startswith("on")]
        if tag == "img":
            self.pictures.append(unquote(told["src"] or ""))
        if tag == "a" and not (told["href"] or "").startswith("#"):
            self.links.append(unquote(told["href"] or ""))
        if "data-image" in told:
            self.ticks.append(told["data-image"] or "")


def test_the_contact_sheet_shows_doubt_first_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    values = (10, 0, 200, 1, 150, 100, 120)
    with filled(tmp_path, values) as (store, contents):
        writer = ReviewWriter(tmp_path, contents, "<i>x</i>", [("a", "b")], identity="id", images=None, page=2)
        for item in items(store, contents):
            writer.add(item)
        writer.close()
    review = tmp_path / "review"
    pages = {path.name: Links(path.read_text()) for path in review.glob("*.html")}
    found = [name for number in (1, 2, 3) for name in pages[f"found-{number:04d}.html"].ticks]
    assert found == ["0/p2.png", "0/p4.png", "0/p6.png", "1/p5.png", "0/p0.png"], "lowest score first"
    assert pages["nothing-0001.html"].ticks == ["1/p1.png"]
    assert "out of memory" in (review / "failed-0001.html").read_text()
    assert set(pages) == {
        "index.html",
        "nothing-0001.html",
        "failed-0001.html",
        *(f"found-000{i}.html" for i in (1, 2, 3)),
    }
    for name, page in pages.items():
        assert "<i>x</i>" not in (review / name).read_text()
        for link in (*page.links, *page.pictures):
            place = Path(link.removeprefix("file://")) if link.startswith("file:") else review / link
            assert place.exists(), f"{name}: {link}"


def test_names_that_are_html_or_odd_are_shown_as_they_are(tmp_path: Path) -> None:
    odd = '<img src=x onerror=alert(1)> "q" %41 #.png'
    path = picture(tmp_path / "in" / odd, 90)
    with DatasetStore(tmp_path / "s.sqlite") as store:
        fill(store, [path])
        contents = survey(store, (tmp_path / "in").resolve(), [path], LABELS, Selection())
        writer = ReviewWriter(tmp_path, contents, "t", [], identity="id", images=None)
        for item in contents.items(store):
            writer.add(item)
        writer.close()
    text = (tmp_path / "review" / "found-0001.html").read_text()
    page = Links(text)
    assert page.ticks == [odd]
    assert page.handlers == []
    assert (tmp_path / "review" / page.pictures[0]).exists()


def test_a_picture_that_is_gone_does_not_stop_the_sheet(tmp_path: Path) -> None:
    with filled(tmp_path, (90,)) as (store, contents):
        (item,) = items(store, contents)
        item.entry.path.unlink()
        writer = ReviewWriter(tmp_path, contents, "t", [], identity="id", images=None)
        writer.add(item)
        writer.close()
        ListWriter(tmp_path, contents.failures).close()
    assert "no longer there" in (tmp_path / "review" / "found-0001.html").read_text()
