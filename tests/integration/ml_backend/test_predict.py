"""Contract of /predict, over a real socket: results for every kind of task, image and control."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.validation import problem
from ml_backend.labelstudio.wire import RegionOut
from tests.support.harness import (
    CONFIGS,
    GOOD,
    JSON,
    POLYGONS,
    Backend,
    backend,
    data_url,
    encoded,
    overlap,
    picture,
    red,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("data")) as running:
        yield running


# --- predict ----------------------------------------------------------------------------------------------------------


def recorded(**task: Any) -> dict[str, Any]:
    base = {
        "id": 1,
        "data": GOOD,
        "meta": {},
        "created_at": "2026-11-21T05:26:18.008461Z",
        "is_labeled": False,
        "overlap": 1,
        "inner_id": 1,
        "total_annotations": 0,
        "last_comment_updated_at": None,
        "project": 1,
        "updated_by": None,
        "file_upload": None,
        "comment_authors": [],
        "annotations": [],
        "predictions": [],
    }
    return base | task


def test_predict_with_the_recorded_body(shared: Backend) -> None:
    version = shared.setup(project="1.1795238777")
    body = {
        "tasks": [recorded()],
        "project": "1.1795238777",
        "label_config": POLYGONS,
        "params": {"login": None, "password": None, "context": None},
    }
    answer = shared.client.post("/predict", json=body)
    assert answer.status_code == 200
    (result,) = answer.json()["results"]
    assert set(result) == {"result", "score", "model_version"}
    assert result["model_version"] == version
    assert result["score"] == pytest.approx(0.9)
    (region,) = result["result"]
    assert set(region) == {
        "id", "from_name", "to_name", "type", "value", "original_width", "original_height", "image_rotation", "score",
        "meta", "origin",
    }  # fmt: skip
    assert region["type"] == "polygonlabels"
    assert region["from_name"] == "label"
    assert region["to_name"] == "image"
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (80, 60, 0)
    assert region["value"]["polygonlabels"] == ["Animal"]
    assert region["value"]["closed"] is True
    assert overlap(region, red(picture())) == 1.0


def test_ids_are_fresh_and_different(shared: Backend) -> None:
    results = shared.predict(GOOD, GOOD, GOOD)
    body = {"tasks": [recorded(), recorded()], "project": "1.1", "label_config": POLYGONS}
    again = shared.client.post("/predict", json=body).json()["results"]
    ids = [region["id"] for entry in results + again for region in entry["result"]]
    assert len(ids) == len(set(ids)) == 5


def test_nothing_found_is_an_empty_prediction(shared: Backend) -> None:
    version = shared.setup()
    (result,) = shared.predict({"image": data_url(encoded(np.full((8, 8, 3), 90, np.uint8)))})
    assert result == {"result": [], "score": 0.0, "model_version": version}


def cmyk() -> bytes:

    out = io.BytesIO()
    PilImage.fromarray(picture()).convert("CMYK").save(out, "JPEG", quality=95)
    return out.getvalue()


def palette_with_alpha() -> bytes:

    image = PilImage.new("P", (80, 60), 0)
    image.putpalette([9, 9, 9, 220, 20, 20])
    image.paste(1, (20, 10, 50, 40))
    out = io.BytesIO()
    image.save(out, "PNG", transparency=0)
    return out.getvalue()


def test_broken_images_in_the_middle_fail_alone(shared: Backend) -> None:
    whole = encoded(picture(), "JPEG", quality=95)
    sixteen = encoded((np.arange(48, dtype=np.uint16) * 1300).reshape(6, 8))
    files: list[tuple[bytes, str]] = [
        (whole, "found"),
        (b"I am a text file renamed to .png", "failed"),
        (whole[: len(whole) // 2], "failed"),
        (encoded(np.full((1, 1, 3), 7, np.uint8)), "nothing"),
        (cmyk(), "found"),
        (sixteen, "nothing"),
        (palette_with_alpha(), "found"),
        (b"", "failed"),
        (encoded(np.full((4, 4, 3), (1, 2, 3), np.uint8)), "failed"),
        (encoded(picture()), "found"),
    ]
    version = shared.setup()
    results = shared.predict(*({"image": data_url(data)} for data, _ in files))
    kinds = ["failed" if r == [] else "found" if r["result"] else "nothing" for r in results]
    assert kinds == [kind for _, kind in files]
    for result, (data, kind) in zip(results, files, strict=True):
        if kind == "found":
            assert overlap(result["result"][0], red(picture())) > (0.9 if data in (whole, cmyk()) else 0.999)
        if kind != "failed":
            assert result["model_version"] == version
    assert "looks like text" in shared.problems()
    assert "truncated" in shared.problems()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_photos_have_their_masks_where_the_browser_shows_the_object(shared: Backend, orientation: int) -> None:
    upright = picture(90, 120, (10, 5, 50, 30))
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    turn = {
        2: PilImage.Transpose.FLIP_LEFT_RIGHT, 3: PilImage.Transpose.ROTATE_180, 4: PilImage.Transpose.FLIP_TOP_BOTTOM,
        5: PilImage.Transpose.TRANSPOSE, 6: PilImage.Transpose.ROTATE_270, 7: PilImage.Transpose.TRANSVERSE,
        8: PilImage.Transpose.ROTATE_90,
    }  # fmt: skip
    stored = PilImage.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(turn[undo[orientation]])
    exif = PilImage.Exif()
    exif[274] = orientation
    (result,) = shared.predict({"image": data_url(encoded(np.asarray(stored), "JPEG", quality=98, exif=exif))})
    (region,) = result["result"]
    assert (region["original_width"], region["original_height"]) == (120, 90)
    assert overlap(region, red(upright)) > 0.9


@pytest.mark.parametrize(
    "task", [None, 3, "x", [], {}, {"id": 1}, {"data": None}, {"data": []}, {"data": {"image": None}},
             {"data": {"image": {"a": 1}}}, {"data": {"image": ["a", "b"]}}, {"data": {"other": "x"}},
             {"id": "z", "data": {"image": ""}}, {"data": {"image": "\ud800"}}]
)  # fmt: skip
def test_odd_tasks_fail_alone(shared: Backend, task: Any) -> None:

    body = {"tasks": [{"id": 5, "data": GOOD}, task, {"id": 6, "data": GOOD}], "label_config": POLYGONS}
    answer = shared.client.post("/predict", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 200
    first, odd, last = answer.json()["results"]
    assert odd == []
    assert first["result"]
    assert last["result"]


@pytest.mark.parametrize(
    "more", [{}, {"params": None}, {"params": {}}, {"params": {"context": {}}}, {"params": []}, {"project": None}]
)
def test_missing_fields_do_not_matter(shared: Backend, more: dict[str, Any]) -> None:
    answer = shared.client.post("/predict", json={"tasks": [recorded()], "label_config": POLYGONS} | more)
    assert answer.json()["results"][0]["result"]


def test_no_tasks_give_no_results(shared: Backend) -> None:
    assert shared.predict() == []


REACT = '<View><ReactCode name="own" toName="own" data="$image" outputs="{}"><![CDATA[{script}]]></ReactCode></View>'
"""An interface of a project's own, as the commercial Label Studio of 2026 has it; the second is what people paste."""

JSX = "({ React }) => <div onClick={() => 1 && 2}>draw here</div>"


@pytest.mark.parametrize(
    "config",
    [
        "",
        None,
        "<View/>",
        "<View",
        '<View><Text name="t" value="$t"/></View>',
        REACT.replace("{script}", JSX),
        REACT.replace("<![CDATA[{script}]]>", JSX),
        '<View><Chat name="c" value="$c"/><Brush name="b" toName="c"/></View>',
    ],
)
def test_a_config_that_cannot_work_gives_failed_tasks_and_a_plain_message(shared: Backend, config: Any) -> None:
    shared.setup(config=config, project="9.9")
    assert shared.predict(GOOD, GOOD, config=config, project="9.9") == [[], []]
    assert "labeling config" in shared.problems()
    prompt = {"type": "keypointlabels", "value": {"x": 1, "y": 1}}
    for context in ({"result": [prompt]}, {"event": "capabilities"}, {"event": "prewarm"}, {"result": []}):
        assert len(shared.predict(GOOD, config=config, project="9.9", context=context)) == 1


def test_an_interface_of_a_projects_own_is_named(shared: Backend) -> None:
    shared.setup(config=REACT.replace("{script}", JSX), project="9.8")
    assert "ReactCode" in shared.problems()


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_kind_of_region_covers_the_object(shared: Backend, kind: str) -> None:
    (result,) = shared.predict(GOOD, config=CONFIGS[kind])
    (region,) = result["result"]
    assert region["type"] == kind
    assert region["value"][kind] == ["Animal"]
    assert overlap(region, red(picture())) == 1.0
    assert problem(RegionOut.model_validate(region), parse_label_config(CONFIGS[kind])) is None


def test_split_tags_give_pairs_with_one_id(shared: Backend) -> None:
    config = (
        '<View><Image name="image" value="$image"/><Labels name="names" toName="image"><Label value="Animal"/></Labels>'
        '<Polygon name="shape" toName="image"/></View>'
    )
    (result,) = shared.predict(GOOD, config=config)
    shape, label = result["result"]
    assert shape["id"] == label["id"]
    assert (shape["type"], shape["from_name"]) == ("polygon", "shape")
    assert (label["type"], label["from_name"]) == ("labels", "names")
    assert label["value"]["labels"] == ["Animal"]
    assert "labels" not in shape["value"]
    assert label["value"]["points"] == shape["value"]["points"]


def test_several_images_carry_their_place(shared: Backend) -> None:
    config = POLYGONS.replace('value="$image"', 'valueList="$images"')
    other = picture(box=(0, 0, 20, 20))
    (result,) = shared.predict({"images": [GOOD["image"], data_url(encoded(other))]}, config=config)
    first, second = result["result"]
    assert (first["item_index"], second["item_index"]) == (0, 1)
    assert overlap(second, red(other)) == 1.0


@pytest.mark.parametrize("bad", [None, "", "data:image/png;base64,AAAA", "ftp://example.com/x.png", {"url": 3}])
def test_a_bad_page_is_named_and_the_others_are_annotated(shared: Backend, bad: Any) -> None:
    config = POLYGONS.replace('value="$image"', 'valueList="$images"')
    (result,) = shared.predict({"images": [GOOD["image"], bad, GOOD["image"]]}, config=config)
    assert [region["item_index"] for region in result["result"]] == [0, 2], "the whole task used to be lost"
    assert "page 2 of <Image name='image'> is left out: " in shared.problems().splitlines()[-1]
    (nothing,) = shared.predict({"images": [bad, bad]}, config=config)
    assert nothing == [], "what failed altogether is asked for again"


def test_one_of_two_images_may_be_missing(shared: Backend) -> None:
    config = (
        '<View><Image name="a" value="$a"/><Image name="b" value="$b"/>'
        '<PolygonLabels name="pa" toName="a"><Label value="Animal"/></PolygonLabels>'
        '<PolygonLabels name="pb" toName="b"><Label value="Animal"/></PolygonLabels></View>'
    )
    (result,) = shared.predict({"a": None, "b": GOOD["image"]}, config=config)
    assert [region["to_name"] for region in result["result"]] == ["b"], "the whole task used to be lost"
    assert "<Image name='a'> is left out" in shared.problems().splitlines()[-1]


def test_an_image_over_the_limit_is_told_the_setting(tmp_path: Path) -> None:
    with backend(tmp_path, max_image_pixels=100) as small:
        assert small.predict(GOOD) == [[]]
        assert "the limit is 100 in all; make it smaller, or raise INT_MAX_IMAGE_PIXELS" in small.problems()
