"""Interactive predictions over a real socket: every shape of context, priority, staleness, the protocol of 2026."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from ml_backend.labelstudio.regions.bitmask import decode_bitmask, encode_bitmask
from ml_backend.labelstudio.regions.rle import encode_mask
from tests.support.clickable import Clickable
from tests.support.harness import GOOD, JSON, Backend, backend, data_url, encoded, overlap, picture, red
from tests.support.waiting import until

LABELS = '<Label value="Animal"/><Label value="Plant"/>'
IMAGE = '<Image name="image" value="$image"/>'
PROMPTS = "".join(f'<{tag} name="{name}" toName="image" smart="true">{LABELS}</{tag}>'
                  for tag, name in (("KeyPointLabels", "kp"), ("RectangleLabels", "box")))  # fmt: skip
CONFIG = f'<View>{IMAGE}{PROMPTS}<PolygonLabels name="p" toName="image">{LABELS}</PolygonLabels></View>'
TRUTH = red(picture())
WAIT = 20.0


@pytest.fixture
def models() -> Clickable:
    return Clickable()


@pytest.fixture
def running(tmp_path: Path, models: Clickable) -> Iterator[Backend]:
    with backend(tmp_path, strategy=models) as started:
        yield started
        models.segmenter.gate.set()


def region(kind: str, value: dict[str, Any], name: str, label: str = "Animal", **more: Any) -> dict[str, Any]:
    return {"original_width": 80, "original_height": 60, "image_rotation": 0, "value": value | {kind: [label],
            "labels": [label]}, "id": f"r{time.monotonic_ns()}", "from_name": name, "to_name": "image", "type": kind,
            "origin": "manual"} | more  # fmt: skip


def point(x: float, y: float, **more: Any) -> dict[str, Any]:
    return region("keypointlabels", {"x": x, "y": y, "width": 0.3}, "kp", **more)


def box(x: float, y: float, w: float, h: float, rotation: float = 0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": rotation}
    return region("rectanglelabels", value, "box", **more)


ON = point(40, 40)
BOX = box(20, 10, 50, 70)


def ask(running: Backend, *prompts: Any, data: Any = GOOD, config: str = CONFIG, **more: Any) -> dict[str, Any]:
    (result,) = running.predict(data, config=config, context={"result": list(prompts)}, **more)
    assert set(result) == {"result", "score", "model_version"}
    return dict(result)


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_prompt_gives_the_mask(running: Backend, models: Clickable) -> None:
    version = running.setup(config=CONFIG)
    unsigned = {key: value for key, value in ON.items() if key != "is_positive"}
    stroke = np.zeros((60, 80), np.bool_)
    stroke[22:26, 24:46] = True
    painted = {"brushlabels": {"format": "rle", "rle": list(encode_mask(stroke))},
               "bitmasklabels": {"imageDataURL": encode_bitmask(stroke)}}  # fmt: skip
    groups = [[ON], [unsigned], [ON, point(50, 50)], [BOX], [box(75, 8, 50, 70, 90)]]
    groups += [[region(kind, value, "b")] for kind, value in painted.items()]
    for group in groups:
        answer = ask(running, *group)
        (found,) = answer["result"]
        assert (found["from_name"], found["type"], found["value"]["polygonlabels"]) == (
            "p",
            "polygonlabels",
            ["Animal"],
        )
        assert overlap(found, TRUTH) > 0.95, group
        assert found["score"] == answer["score"] == pytest.approx(0.83)
        assert found["meta"]["text"] == ["interactive, predicted IoU 0.83"]
        assert answer["model_version"] == version
    assert models.segmenter.encoded == 1
    assert models.asked == []  # no strategy, so no vision-language model
    (last,) = models.segmenter.prompts[-1:]
    assert last.box is not None
    assert all(stroke[int(y), int(x)] for x, y in last.points)
    # a point beside the object takes pixels away; several boxes are several objects; the label is the clicked one
    cut = ask(running, ON, point(50, 40, is_positive=False))["result"]
    assert [overlap(part, TRUTH) < 0.7 for part in cut] == [True, True]
    assert models.segmenter.prompts[-1].labels.tolist() == [1, 0]
    pair = ask(running, box(20, 10, 15, 70, label="Plant"), box(45, 10, 25, 70, label="Plant"))["result"]
    assert [entry["value"]["polygonlabels"] for entry in pair] == [["Plant"], ["Plant"]]
    assert len({entry["id"] for entry in pair}) == 2


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "RectangleLabels"])
def test_other_controls(running: Backend, tag: str) -> None:
    config = f'<View>{IMAGE}<{tag} name="m" toName="image">{LABELS}</{tag}></View>'
    (found,) = ask(running, ON, config=config)["result"]
    assert (found["from_name"], found["type"]) == ("m", tag.lower())
    assert overlap(found, TRUTH) > 0.95


def test_what_cannot_be_answered_is_a_valid_empty_answer_with_a_reason(running: Backend, models: Clickable) -> None:
    version = running.setup(config=CONFIG)
    nothing = {"result": [], "score": 0, "model_version": version}
    cases: list[tuple[Any, Any, str]] = [
        ([point(40, 40, is_positive=False)], GOOD, "nothing shows the object"),
        ([point(140, 40)], GOOD, "outside the image"),
        ([ON | {"to_name": "other"}], GOOD, "no image 'other'"),
        ([ON | {"item_index": 3}], GOOD, "click is on number 4"),
        ([ON], {"image": data_url(b"<html>")}, "not an image"),
        ([ON], {"other": 1}, "no image for"),
    ]
    for prompts, data, reason in cases:
        assert ask(running, *prompts, data=data) == nothing
        assert reason in running.problems()
    for context in ({"result": []}, {"result": None}, {"result": 5}, {"event": "track"}, {"event": [1]}):
        assert running.predict(GOOD, config=CONFIG, context=context) == [nothing]
    models.segmenter.broken = True
    assert ask(running, ON) == nothing
    assert "the segmenter failed on this click: out of memory" in running.problems()
    models.segmenter.broken = False
    assert ask(running, ON)["result"]
    assert ask(running, ON, config="<View/>")["result"] == []
    failed = {"type": "textarea", "value": {"text": ["explode"]}}
    assert ask(running, failed) == nothing  # never [], which the browser cannot read


ODD = [None, True, [], {}, "x", "\ud800", -1, 1e308, 10**30, 0.5, [[[]]], {"a": {}}, [None]]


def mangled(value: Any, rng: np.random.Generator) -> Any:
    """The value with parts left out or replaced by something odd."""
    if rng.random() < 0.12:
        return ODD[rng.integers(len(ODD))]
    if isinstance(value, dict):
        return {key: mangled(entry, rng) for key, entry in value.items() if rng.random() > 0.05}
    return [mangled(entry, rng) for entry in value] if isinstance(value, list) else value


def test_odd_contexts_never_fail_and_never_give_what_the_page_cannot_read(running: Backend) -> None:
    rng = np.random.default_rng(5)
    whole = {"result": [ON, BOX, point(50, 50, is_positive=False)], "event": None}
    for _ in range(200):
        body = {"tasks": [{"id": 1, "data": GOOD}], "project": "1", "label_config": CONFIG}
        context = {key: mangled(value, rng) for key, value in whole.items()}
        content = json.dumps(body | {"params": {"context": context}})  # lone surrogates as \\u escapes
        answer = running.client.post("/predict", content=content, headers=JSON)
        assert answer.status_code == 200, content
        (result,) = answer.json()["results"]
        assert isinstance(result["result"], list)
        assert result["model_version"]


def test_a_click_on_a_turned_photo(running: Backend) -> None:
    upright = picture()  # 60 x 80; stored lying on its side
    exif = PilImage.Exif()
    exif[274] = 6
    photo = encoded(np.rot90(upright).copy(), "PNG", exif=exif)
    (found,) = ask(running, ON, data={"image": data_url(photo)})["result"]
    assert (found["original_width"], found["original_height"]) == (80, 60)
    assert overlap(found, TRUTH) > 0.95


def test_a_list_of_images(running: Backend) -> None:
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    blank = data_url(encoded(np.full((60, 80, 3), 128, np.uint8)))
    (found,) = ask(running, ON | {"item_index": 1}, data={"pages": [blank, GOOD["image"]]}, config=config)["result"]
    assert found["item_index"] == 1
    assert overlap(found, TRUTH) > 0.95


# --- urgency ----------------------------------------------------------------------------------------------------------


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(function()))
    thread.start()
    return thread, out


def test_clicks_wait_for_no_batch(running: Backend, models: Clickable) -> None:
    models.gate.clear()  # the strategy is busy, more waits behind it
    others = [{"image": data_url(encoded(picture(box=(5, 5, 20 + i, 30))))} for i in range(6)]
    thread, out = in_thread(lambda: running.predict(*others, config=CONFIG))
    assert models.started.wait(WAIT)
    assert ask(running, ON)["result"]
    assert not out
    models.gate.set()
    thread.join(WAIT)
    assert all(len(entry["result"]) == 1 for entry in out[0])


def test_a_newer_click_answers_and_older_ones_that_wait_are_empty_at_once(running: Backend, models: Clickable) -> None:
    segmenter = models.segmenter
    segmenter.gate.clear()
    busy, first = in_thread(lambda: ask(running, ON, project="2"))
    assert segmenter.at_work.wait(WAIT)
    waiting, second = in_thread(lambda: ask(running, ON))
    until(lambda: running.client.get("/status").json()["waiting_clicks"] == 1)
    other, third = in_thread(lambda: ask(running, BOX))  # another control of the same task
    until(lambda: running.client.get("/status").json()["waiting_clicks"] == 2)
    newer, fourth = in_thread(lambda: ask(running, ON, point(50, 50)))
    waiting.join(WAIT)  # though the segmenter is still at the first
    assert second[0]["result"] == []
    assert not first
    segmenter.gate.set()
    for thread in (busy, other, newer):
        thread.join(WAIT)
    assert all(answer[0]["result"] for answer in (first, third, fourth))
    assert len(segmenter.prompts) == 3
    assert 'int_clicks_total{outcome="stale"} 1.0' in running.client.get("/metrics").text


def test_clicks_of_several_people_on_one_task_are_all_answered(running: Backend, models: Clickable) -> None:
    segmenter = models.segmenter
    segmenter.gate.clear()
    busy, _ = in_thread(lambda: ask(running, ON, project="2"))
    assert segmenter.at_work.wait(WAIT)
    people = [point(30 + 2 * number, 30 + number) for number in range(10)]
    same_place = [point(40, 40), point(40, 40)]
    asked = [in_thread(lambda shape=shape: ask(running, shape)) for shape in [*people, *same_place]]
    until(lambda: running.client.get("/status").json()["waiting_clicks"] == len(asked))
    longer, last = in_thread(lambda: ask(running, people[3], point(50, 50)))  # the fourth person adds a point
    asked[3][0].join(WAIT)
    assert asked[3][1][0]["result"] == []
    segmenter.gate.set()
    for thread in (busy, longer, *(thread for thread, _ in asked)):
        thread.join(WAIT)
    answers = [answer[0] for number, (_, answer) in enumerate(asked) if number != 3]
    assert all(answer["result"] for answer in [*answers, last[0]])


def test_a_segmenter_that_does_not_answer_in_time(tmp_path: Path, models: Clickable) -> None:
    with backend(tmp_path, strategy=models, deadline=0.3) as running:
        models.segmenter.gate.clear()
        assert ask(running, ON)["result"] == []
        assert "did not answer in time" in running.problems()
        models.segmenter.gate.set()


def test_embeddings_are_dropped_by_bytes_and_made_again(tmp_path: Path) -> None:
    models = Clickable(cache_bytes=2 * 60 * 80 * 3)
    pictures = [{"image": data_url(encoded(picture(box=(20, 10, 50, 40 + i))))} for i in range(3)]
    with backend(tmp_path, strategy=models) as running:
        for data in (*pictures, pictures[2], pictures[0]):
            assert ask(running, ON, data=data)["result"]
        assert models.segmenter.encoded == 4
        assert models.clicks.cache.currsize == models.clicks.cache.maxsize


def test_models_without_a_segmenter_and_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    def load() -> Any:
        raise RuntimeError("no weights here")

    with backend(tmp_path, load) as running:
        until(lambda: running.client.get("/health").json()["models"] == "failed")
        assert ask(running, ON)["result"] == []
        assert "no weights here" in running.problems()


# --- the protocol of 2026 ---------------------------------------------------------------------------------------------


def test_capabilities(running: Backend) -> None:
    version = running.setup(config=CONFIG)
    (answer,) = running.predict(GOOD, config=CONFIG, context={"event": "capabilities"})
    (entry,) = answer["result"]
    value = entry["value"]
    assert value["prompts"] == ["point", "box"]
    assert {"tag": "BitmaskLabels", "output": "mask"} in value["targets"]
    assert value["model_info"] == {"name": "INT", "version": version}


@pytest.mark.parametrize("config", [CONFIG, f'<View>{IMAGE}<CuboidLabels name="v" toName="image">{LABELS}</CuboidLabels></View>'])  # fmt: skip  # noqa: E501
@pytest.mark.parametrize(
    "prompts",
    [[{"type": "keypointlabels", "value": {"x": 40, "y": 40, "positive": True}}],
     [{"type": "rectanglelabels", "value": {"x": 20, "y": 10, "width": 50, "height": 70}}]],
)  # fmt: skip
def test_prompts_without_a_control_are_answered_with_a_grey_picture(
    running: Backend, config: str, prompts: list[Any]
) -> None:
    answer = ask(running, *prompts, config=config)
    mask = decode_bitmask(answer["result"][0]["value"]["imageDataURL"], 60, 80)
    assert (mask == TRUTH).all()
    assert answer["score"] == pytest.approx(0.83)


def test_prewarm_makes_the_first_click_a_second_one_and_release_forgets(running: Backend, models: Clickable) -> None:
    for encoded_so_far in (1, 2):
        assert running.predict(GOOD, config=CONFIG, context={"event": "prewarm"})[0]["result"] == []
        until(lambda: len(models.clicks.cache) == 1)
        assert ask(running, ON)["result"]
        assert models.segmenter.encoded == encoded_so_far
        assert running.predict(GOOD, config=CONFIG, context={"event": "release"})[0]["result"] == []
        until(lambda: len(models.clicks.cache) == 0)
    assert running.predict({"x": 1}, config=CONFIG, context={"event": "prewarm"})[0]["result"] == []
