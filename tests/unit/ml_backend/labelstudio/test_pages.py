"""The images of a task one by one: what is wrong with one page costs no other."""

from __future__ import annotations

from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.pages import pages_of

TWO = parse_label_config(
    '<View><Image name="front" value="$front"/><Image name="sheets" valueList="$sheets"/>'
    '<Image name="hint" value="$hint"/>'
    '<PolygonLabels name="a" toName="front"><Label value="Cat"/></PolygonLabels>'
    '<PolygonLabels name="b" toName="sheets"><Label value="Cat"/></PolygonLabels></View>'
)


def test_every_image_that_somebody_annotates_is_a_page() -> None:
    front, first, second = pages_of(TWO, {"front": "/1.png", "sheets": ["/2.png", "/3.png"], "hint": "/4.png"})
    assert [page.address for page in (front, first, second)] == ["/1.png", "/2.png", "/3.png"]
    assert [page.item_index for page in (front, first, second)] == [None, 0, 1]
    assert [page.error for page in (front, first, second)] == [None, None, None]
    assert (front.name, first.name) == ("<Image name='front'>", "page 1 of <Image name='sheets'>")


def test_a_page_without_an_address_says_so_and_the_others_go_on() -> None:
    pages = list(pages_of(TWO, {"sheets": ["/2.png", None, "/3.png"]}))
    assert [bool(page.error) for page in pages] == [True, False, True, False]
    assert [page.address for page in pages] == ["", "/2.png", "", "/3.png"]
    assert pages[2].name == "page 2 of <Image name='sheets'>"
