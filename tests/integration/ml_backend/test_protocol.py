"""Contract of the protocol, over a real socket: spec of Label Studio 1.23's calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from ml_backend.label_config import parse_label_config
from ml_backend.regions.decode import decode_region
from ml_backend.validation import problem
from ml_backend.wire import RegionOut
from tests.integration.ml_backend.harness import POLYGONS, Backend, RedThings, backend, data_url, encoded, picture

GOOD = {"image": data_url(encoded(picture()))}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("data")) as running:
        yield running


def red(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 150) & (image[..., 1] < 100)


def overlap(region: dict[str, Any], mask: np.ndarray) -> float:
    got = decode_region(region)
    return float((got & mask).sum() / (got | mask).sum())


# --- health, setup ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health(shared: Backend, path: str) -> None:
    answer = shared.client.get(path)
    assert answer.status_code == 200
    assert answer.json()["status"] == "UP"


def test_setup_with_the_recorded_body(shared: Backend) -> None:
    body = {
        "project": "1.1795238777",
        "schema": POLYGONS,
        "hostname": "http://localhost:8081",
        "access_token": "0123456789abcdef",
        "extra_params": None,
    }
    answer = shared.client.post("/setup", json=body)
    assert answer.status_code == 200
    assert list(answer.json()) == ["model_version"]
    assert answer.json()["model_version"].startswith("int-fake-int-")


@pytest.mark.parametrize(
    ("extra", "prompt"),
    [
        (None, "Animal"),
        ("", "Animal"),
        ("camouflaged animal", "camouflaged animal"),
        ("  two\n lines ", "two lines"),
        ('"quoted"', "quoted"),
        ('{"prompt": "polyp"}', "polyp"),
        ({"prompt": "polyp"}, "polyp"),
        ({"prompts": {"Animal": "an animal"}}, "an animal"),
        ('{"prompts": {"animal": "an animal"}}', "an animal"),
        ({"prompt": "p", "prompts": {"Other": "o"}}, "p"),
        ({"prompt": {"Animal": "inner"}}, "inner"),
        ("{broken", "Animal"),
        ("[1, 2]", "Animal"),
        ([1, 2], "Animal"),
        (7, "Animal"),
        ("42", "42"),
        (True, "Animal"),
        ({"prompt": 3}, "Animal"),
        ({"prompts": [1]}, "Animal"),
        ({"unknown": {"deep": [None]}}, "Animal"),
        ('{"prompt": "' + "x" * 201 + '"}', None),
    ],
)
def test_every_form_of_extra_params(shared: Backend, extra: Any, prompt: str | None) -> None:
    version = shared.setup(extra, project="77.5")
    (result,) = shared.predict(GOOD, project="77.5")
    if prompt is None:
        assert result == []
        assert "201 characters" in shared.problems()
        return
    assert result["model_version"] == version
    assert result["result"][0]["meta"]["text"][0].startswith(f"{prompt},")


@pytest.mark.parametrize("project", [None, 7, "7", "7.123", {"id": 7}, 7.0, True, [], ""])
def test_odd_project_ids(shared: Backend, project: Any) -> None:
    assert shared.setup(project=project).startswith("int-")


def test_setup_without_anything_but_an_object(shared: Backend) -> None:
    assert shared.client.post("/setup", json={}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/setup", "/predict"])
def test_bodies_that_are_no_objects_are_400_in_json(shared: Backend, path: str, body: bytes) -> None:
    answer = shared.client.post(path, content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"id", "error", "cure"}


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
    import io

    out = io.BytesIO()
    PilImage.fromarray(picture()).convert("CMYK").save(out, "JPEG", quality=95)
    return out.getvalue()


def palette_with_alpha() -> bytes:
    import io

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
    import json

    body = {"tasks": [{"id": 5, "data": GOOD}, task, {"id": 6, "data": GOOD}], "label_config": POLYGONS}
    answer = shared.client.post("/predict", content=json.dumps(body))
    assert answer.status_code == 200
    first, odd, last = answer.json()["results"]
    assert odd == []
    assert first["result"]
    assert last["result"]


@pytest.mark.parametrize("more", [{}, {"params": None}, {"params": {}}, {"params": []}, {"project": None}])
def test_missing_fields_do_not_matter(shared: Backend, more: dict[str, Any]) -> None:
    answer = shared.client.post("/predict", json={"tasks": [recorded()], "label_config": POLYGONS} | more)
    assert answer.json()["results"][0]["result"]


def test_no_tasks_give_no_results(shared: Backend) -> None:
    assert shared.predict() == []


@pytest.mark.parametrize("config", ["", None, "<View/>", "<View", '<View><Text name="t" value="$t"/></View>'])
def test_a_config_that_cannot_work_gives_failed_tasks_and_a_plain_message(shared: Backend, config: Any) -> None:
    shared.setup(config=config, project="9.9")
    assert shared.predict(GOOD, GOOD, config=config, project="9.9") == [[], []]
    assert "labeling config" in shared.problems()


CONFIGS = {
    "polygonlabels": POLYGONS,
    "brushlabels": POLYGONS.replace("PolygonLabels", "BrushLabels"),
    "bitmasklabels": POLYGONS.replace("PolygonLabels", "BitmaskLabels"),
    "rectanglelabels": POLYGONS.replace("PolygonLabels", "RectangleLabels"),
}


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


# --- interactive ------------------------------------------------------------------------------------------------------


def textarea(text: Any) -> dict[str, Any]:
    return {"result": [{"type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": text}}]}


KEYPOINT = {
    "original_width": 1000, "original_height": 800, "image_rotation": 0,
    "value": {"x": 10, "y": 20, "width": 0.3, "keypointlabels": ["Car"], "labels": ["Car"]}, "is_positive": True,
    "id": "abc", "from_name": "kp", "to_name": "image", "type": "keypointlabels", "origin": "manual",
}  # fmt: skip


@pytest.mark.parametrize(
    "context", [{}, {"result": []}, {"result": [KEYPOINT]}, {"event": "capabilities"}, {"result": None},
                {"result": [None, 3]}, textarea(None), textarea([]), textarea([" "]), textarea(5)]
)  # fmt: skip
def test_interactive_calls_get_a_valid_empty_answer(shared: Backend, context: dict[str, Any]) -> None:
    version = shared.setup()
    assert shared.predict(GOOD, context=context) == [{"result": [], "score": 0.0, "model_version": version}]


@pytest.mark.parametrize("text", ["a typed prompt", ["first", "a typed prompt"]])
def test_a_typed_prompt_is_used(shared: Backend, text: Any) -> None:
    (result,) = shared.predict(GOOD, context=textarea(text))
    assert result["result"][0]["meta"]["text"][0].startswith("a typed prompt,")


# --- webhook, versions, other pages -----------------------------------------------------------------------------------

PROJECT = {"id": 1, "title": "t", "label_config": POLYGONS, "token": "secret", "task_data_password": None}


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": []}, "project": PROJECT, "task": {}}, 201),
        ({"action": "ANNOTATION_UPDATED", "annotation": {"id": 1}, "project": PROJECT}, 201),
        ({"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 1}], "project": PROJECT}, 201),
        ({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}], "project": PROJECT}, 201),
        ({"action": "START_TRAINING", "project": PROJECT}, 201),
        ({"action": "PROJECT_UPDATED", "project": PROJECT}, 201),
        ({"action": "PROJECT_UPDATED", "project": None}, 201),
        ({"action": "PROJECT_UPDATED"}, 201),
        ({"action": "TASKS_CREATED", "tasks": [{"id": 1}], "project": PROJECT}, 201),
        ({"action": "LABEL_LINK_CREATED"}, 201),
        ({"action": "SOMETHING_NEW"}, 200),
        ({"action": None}, 200),
        ({"action": ["x"]}, 200),
        ({}, 200),
        ([], 200),
    ],
)
def test_webhooks_of_every_shape(shared: Backend, event: Any, status: int) -> None:
    assert shared.client.post("/webhook", json=event).status_code == status


def test_a_changed_config_changes_the_version_in_use(shared: Backend) -> None:
    before = shared.setup(project="31.4")
    changed = PROJECT | {"id": 31, "label_config": POLYGONS.replace('value="Animal"', 'value="Beast"')}
    shared.client.post("/webhook", json={"action": "PROJECT_UPDATED", "project": changed})
    after = shared.client.get("/versions", params={"project": "31.4"}).json()["versions"]
    assert len(after) == 1
    assert after != [before]


def test_versions_and_metrics(shared: Backend) -> None:
    version = shared.setup(project="32.1")
    assert shared.client.get("/versions", params={"project": "32.1"}).json() == {"versions": [version]}
    assert version in shared.client.get("/versions").json()["versions"]
    page = shared.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'int_tasks_total{outcome="annotated"}' in page.text
    assert "int_models_ready 1.0" in page.text
    assert shared.client.get("/openapi.json").json()["paths"].keys() >= {"/health", "/setup", "/predict", "/webhook"}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/predict", 405)])
def test_other_pages_are_short_json_errors(shared: Backend, method: str, path: str, status: int) -> None:
    answer = shared.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"id", "error", "cure"}


# --- time, state, restarts --------------------------------------------------------------------------------------------


def test_health_and_setup_answer_while_the_models_load_and_work(tmp_path: Path) -> None:
    release, strategy = threading.Event(), RedThings()

    def load() -> RedThings:
        assert release.wait(30)
        return strategy

    strategy.gate.clear()
    with backend(tmp_path, load, strategy=strategy) as running:
        assert running.client.get("/health").json()["models"] == "loading"
        version = running.setup("early")
        answers: list[list[Any]] = []
        thread = threading.Thread(target=lambda: answers.append(running.predict(GOOD)))
        thread.start()
        assert running.client.get("/health").status_code == 200
        release.set()
        assert strategy.started.wait(30)
        assert running.client.get("/health").json()["models"] == "ready"
        assert running.setup("early") == version
        assert running.client.post("/webhook", json={"action": "START_TRAINING"}).status_code == 201
        strategy.gate.set()
        thread.join(30)
        assert answers[0][0]["model_version"] == version


def test_models_that_cannot_be_loaded_leave_the_service_up(tmp_path: Path) -> None:
    def load() -> RedThings:
        raise RuntimeError("there are no weights; run make weights")

    with backend(tmp_path, load) as running:
        assert running.predict(GOOD, GOOD) == [[], []]
        health = running.client.get("/health")
        assert health.status_code == 200
        assert health.json()["models"] == "failed"
        assert running.client.get("/status").json()["why"] == "there are no weights; run make weights"
        assert "run make weights" in running.problems()


def test_what_is_late_is_empty_and_comes_from_the_cache_next_time(tmp_path: Path) -> None:
    strategy = RedThings()
    strategy.gate.clear()
    other = {"image": data_url(encoded(picture(box=(0, 0, 30, 30))))}
    with backend(tmp_path, strategy=strategy, deadline=0.4) as running:
        assert running.predict(GOOD, other) == [[], []]
        strategy.gate.set()
        limit = time.monotonic() + 20
        while running.client.get("/status").json()["tasks_on_their_way"]:
            assert time.monotonic() < limit
            time.sleep(0.02)
        asked = len(strategy.asked)
        first, second = running.predict(GOOD, other)
        assert first["result"]
        assert second["result"]
        assert len(strategy.asked) == asked
        assert 'outcome="late"' in running.client.get("/metrics").text


def test_projects_and_results_survive_a_restart(tmp_path: Path) -> None:
    with backend(tmp_path) as running:
        version = running.setup("remembered prompt")
        first = running.predict(GOOD)[0]
        assert len(running.strategy.asked) == 1
    with backend(tmp_path) as running:
        second = running.predict(GOOD)[0]
        assert second["model_version"] == version
        assert second["result"][0]["meta"]["text"] == first["result"][0]["meta"]["text"]
        assert second["result"][0]["id"] != first["result"][0]["id"]
        assert running.strategy.asked == []


def test_the_same_image_in_many_tasks_is_segmented_once(tmp_path: Path) -> None:
    strategy = RedThings()
    strategy.gate.clear()
    with backend(tmp_path, strategy=strategy) as running:
        answers: list[list[Any]] = []
        threads = [threading.Thread(target=lambda: answers.append(running.predict(GOOD, GOOD))) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert strategy.started.wait(20)
        time.sleep(0.2)
        strategy.gate.set()
        for thread in threads:
            thread.join(30)
        assert sum(count for _, count in strategy.asked) == 1
        assert [len(a) for a in answers] == [2] * 4


def test_concurrent_requests_share_micro_batches(tmp_path: Path) -> None:
    strategy = RedThings()
    strategy.gate.clear()
    images = [{"image": data_url(encoded(picture(box=(0, 0, 20 + i, 20))))} for i in range(9)]
    with backend(tmp_path, strategy=strategy, micro_batch=4) as running:
        answers: dict[int, list[Any]] = {}
        threads = [
            threading.Thread(target=lambda i=i: answers.update({i: running.predict(images[i])})) for i in range(9)
        ]
        for thread in threads:
            thread.start()
        limit = time.monotonic() + 20
        while running.client.get("/status").json()["waiting_for_models"] < 5:
            assert time.monotonic() < limit
            time.sleep(0.02)
        strategy.gate.set()
        for thread in threads:
            thread.join(30)
        assert all(answers[i][0]["result"] for i in range(9))
        assert max(count for _, count in strategy.asked) > 1
        assert sum(count for _, count in strategy.asked) == 9


def test_an_unexpected_failure_is_one_failed_task_with_an_incident_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.service.draw", lambda *_, **__: 1 / 0)
    with backend(tmp_path) as running:
        assert running.predict(GOOD) == [[]]
        assert "incident" in running.problems()
    assert "ZeroDivisionError" in caplog.text


def test_versions_differ_with_everything_that_changes_the_output(tmp_path: Path) -> None:
    with backend(tmp_path) as running:
        configs = [
            POLYGONS,
            POLYGONS.replace('value="Animal"', 'value="Animal" alias="a"'),
            POLYGONS.replace('value="Animal"', 'value="Animal" hint="an animal"'),
            POLYGONS.replace("<PolygonLabels ", '<PolygonLabels model_epsilon="3" '),
            CONFIGS["brushlabels"],
        ]
        versions = [running.setup(config=config) for config in configs] + [
            running.setup("prompt"),
            running.setup({"min_area": 3}),
        ]
        assert len(set(versions)) == len(versions)
        assert running.setup() == versions[0]
        styled = POLYGONS.replace('value="Animal"', 'value="Animal" background="red"').replace(
            "<View>", '<View><Header value="Look"/>'
        )
        assert running.setup(config=styled) == versions[0]


# --- auth and size ----------------------------------------------------------------------------------------------------

USER, PASSWORD = "schlüssel", "pass:wörd"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(
        tmp_path_factory.mktemp("locked"),
        basic_auth_user=USER,
        basic_auth_pass=PASSWORD,
        webhook_secret="hook",
        max_body_bytes=2048,
    ) as running:
        yield running


def basic(text: bytes) -> str:
    import base64

    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic %%%",
        "Bearer abc",
        "Token x",
        "basic",
        basic(b"x:y"),
        basic(b"\xff\xfe"),
        basic(USER.encode()),
        basic(f"{USER}:wrong".encode()),
        "Basic \xff\xfe",
        "ü:ü",
    ],
)
@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/docs", "/openapi.json", "/nope"])
def test_wrong_credentials_are_401(locked: Backend, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = locked.client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert set(answer.json()) == {"id", "error", "cure"}


def test_right_credentials_open_everything(locked: Backend) -> None:
    headers = {"Authorization": basic(f"{USER}:{PASSWORD}".encode())}
    assert locked.client.get("/health", headers=headers).status_code == 200
    assert locked.client.post("/setup", headers=headers, json={}).status_code == 200


@pytest.mark.parametrize(("secret", "status"), [(None, 401), ("wrong", 401), ("hook", 200)])
def test_webhooks_bring_their_secret(locked: Backend, secret: str | None, status: int) -> None:
    headers = {} if secret is None else {"X-Webhook-Secret": secret}
    assert locked.client.post("/webhook", json={}, headers=headers).status_code == status


def test_long_bodies_are_413(locked: Backend) -> None:
    headers = {"Authorization": basic(f"{USER}:{PASSWORD}".encode())}
    answer = locked.client.post("/setup", headers=headers, content=b"x" * 3000)
    assert answer.status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    assert locked.client.post("/setup", headers=headers, content=endless()).status_code == 413


def test_health_may_be_open(tmp_path: Path) -> None:
    with backend(tmp_path, basic_auth_user="u", basic_auth_pass="p", open_health=True) as running:
        assert running.client.get("/health").status_code == 200
        assert running.client.get("/metrics").status_code == 401
