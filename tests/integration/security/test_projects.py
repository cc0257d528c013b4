"""Labeling configs, prompts and project ids in numbers that nobody needs; and projects that take turns."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ml_backend.labelstudio.label_config import ConfigError, parse_label_config
from ml_backend.labelstudio.task_prompt import parse_extra_params
from ml_backend.serving.known_projects import Known, KnownProjects
from ml_backend.storage.store import Project, Store
from tests.support.harness import GOOD, POLYGONS, Backend, backend, data_url, encoded, picture
from tests.support.http_server import Raw, http_server
from tests.support.served import Served, served

SHARED = '<View><Image name="image" value="$image"/>{}</View>'


def labels(count: int, attributes: str = "") -> str:
    inside = "".join(f"<Label value='{number}'{attributes}/>" for number in range(count))
    return SHARED.format(f'<PolygonLabels name="label" toName="image">{inside}</PolygonLabels>')


def brushes(count: int) -> str:
    inside = "".join(f"<Label value='{number}'/>" for number in range(100))
    shapes = "".join(f"<Brush name='b{number}' toName='image'/>" for number in range(count))
    return SHARED.format(f'<Labels name="labels" toName="image">{inside}</Labels>{shapes}')


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data"), max_projects=50) as made:
        made.client.get("/health")
        yield made


def predict(running: Served, config: str = POLYGONS, project: str = "1", **task: Any) -> Any:
    body = {"tasks": [{"id": 1, "data": GOOD} | task], "project": project, "label_config": config}
    return running.client.post("/predict", json=body).json()["results"][0]


def problems(running: Served) -> str:
    return "\n".join(running.client.get("/status").json()["problems"])


@pytest.mark.parametrize(("config", "said"), [(labels(20_000), "20000 labels"), (brushes(20_000), "20000 controls")])
def test_20_000_labels_or_brushes_are_refused_quickly(running: Served, config: str, said: str) -> None:
    begun = time.thread_time()
    json.dumps([{"value": str(number), "alias": ""} for number in range(20_000)])
    unit = time.thread_time() - begun  # of this machine

    def ask() -> None:
        assert running.client.post("/setup", json={"project": "9", "schema": config}).status_code == 200
        assert predict(running, config) == []

    before, most = running.cpu, max(0.2, 15 * unit)
    assert running.held(ask, most) < most
    assert running.cpu - before < max(6.0, 300 * unit)  # at most three times; it was quadratic: minutes
    assert f"{said}; the most is INT_MAX_LABELS (500)" in problems(running)


@pytest.mark.parametrize("make", [labels, brushes])
def test_parsing_takes_linear_time(make: Any) -> None:
    def seconds(count: int) -> float:
        text = make(count)
        times = []
        for _ in range(3):
            begun = time.thread_time()
            config = parse_label_config(text)
            config.targets("image")
            times.append(time.thread_time() - begun)
        return min(times)

    assert seconds(8000) < 16 * seconds(1000) + 0.02


def test_the_number_of_labels_is_a_setting(tmp_path: Path) -> None:
    assert len(parse_label_config(labels(500), 500).controls[0].labels) == 500
    with pytest.raises(ConfigError, match=r"501 labels; the most is INT_MAX_LABELS \(500\)"):
        parse_label_config(labels(501), 500)
    with backend(tmp_path, max_labels=600, max_prompts=2) as made:
        assert made.predict(GOOD, config=labels(501, " model_prompt='red'"))[0]["result"]
        assert made.predict(GOOD, config=labels(601, " model_prompt='red'")) == [[]]


def test_700_prompts_are_refused_while_another_project_is_answered(running: Served) -> None:
    many = labels(100)
    prompts = {"prompts": {str(number): f"thing {number}" for number in range(700)}}
    assert (
        running.client.post("/setup", json={"project": "7", "schema": many, "extra_params": prompts}).status_code == 200
    )
    single = '<PolygonLabels name="l{0}" toName="image"><Label value="{0}"/></PolygonLabels>'
    other = SHARED.format("".join(single.format(number) for number in range(400)))
    for config in (many, other):
        assert predict(running, config, project="7") == []
        assert predict(running, project="8")["result"]
    assert "different prompts; the most is INT_MAX_PROMPTS (32)" in problems(running)
    state = running.client.get("/status").json()
    assert (state["waiting_for_models"], state["tasks_on_their_way"]) == (0, 0)


def test_prompts_by_label_are_found_in_linear_time() -> None:
    given = {"prompts": {f"Label {number}": "x" for number in range(100_000)}}
    begun = time.thread_time()
    params = parse_extra_params(given)
    reading = time.thread_time() - begun
    (target, *_) = parse_label_config(labels(2)).targets("image")
    begun = time.thread_time()
    params.for_label(target)
    assert time.thread_time() - begun < 0.1 * reading  # it read all of them again for each label


def test_siblings_of_a_failed_image_are_not_asked_any_more(tmp_path: Path) -> None:
    pages = SHARED.replace('value="$image"', 'valueList="$images"').format(
        '<PolygonLabels name="label" toName="image"><Label value="Animal"/></PolygonLabels>'
    )
    good = [data_url(encoded(picture(60 + number))) for number in range(40)]
    data = {"images": ["http://127.0.0.1:1/unreachable.png", *good]}
    with http_server(lambda _: None) as gone, backend(tmp_path, allowed_hosts="127.0.0.0/8", downloads=1) as made:
        data["images"][0] = f"http://127.0.0.1:{gone.port}/a.png"
        assert made.predict(data, config=pages) == [[]]
        state = made.client.get("/status").json()
        assert (state["tasks_on_their_way"], state["waiting_for_models"]) == (0, 0)
        asked = len(made.strategy.asked)
        other = {"image": data_url(encoded(picture(300)))}
        assert made.predict(other)[0]["result"]
        assert len(made.strategy.asked) == asked + 1


# --- /setup -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_project_ids_leave_no_trace(running: Served, count: int) -> None:
    assert running.client.post("/setup", json={"project": "kept", "schema": POLYGONS}).status_code == 200

    def introduce(start: int) -> None:
        for number in range(start, count, 4):
            body = {"project": f"p{number}", "schema": POLYGONS, "extra_params": f"prompt {number} " + "x" * 1000}
            assert running.client.post("/setup", json=body).status_code == 200
            if number % 20 == 0:
                predict(running, project="kept")

    running.client.get("/status")
    before = running.resident
    running.together(*[lambda start=start: introduce(start) for start in range(4)])
    page = running.client.get("/status")
    assert len(page.content) < 50_000
    assert len(page.json()["versions"]) <= 50
    assert len(running.client.get("/versions").json()["versions"]) <= 50
    assert running.resident - before < 60
    assert running.client.get("/versions?project=kept").json()["versions"]


def test_those_used_longest_ago_go(tmp_path: Path) -> None:
    known = KnownProjects(2)
    for name in "abc":
        gone = known.put(Known(Project(name), name))
        known.get("a")
    assert gone == ["b"]
    assert [one.version for one in known.newest()] == ["a", "c"]
    store = Store.in_folder(tmp_path)
    for name in "abcd":
        store.save_project(Project(name))
    store.choose_adapter("a", "learned")
    store.forget_projects(["a", "b"])
    assert [one.id for one in store.projects()] == ["a", "c", "d"]
    assert len(store.newest_projects(1)) == 1
    assert next(one.id for one in store.projects()) == "a"  # what was chosen here is never forgotten
    store.close()


def test_much_text_counts_as_many_projects() -> None:
    known = KnownProjects(1000)
    for number in range(40):
        known.put(Known(Project(str(number), "x" * 4_000_000), str(number)))
    assert len(known.newest()) == 16


# --- turns ------------------------------------------------------------------------------------------------------------

PAGES = SHARED.replace('value="$image"', 'valueList="$images"').format(
    '<PolygonLabels name="label" toName="image"><Label value="Animal"/></PolygonLabels>'
)


def crowd(made: Backend, count: int, port: int) -> None:
    tasks = [{"id": n, "data": {"image": f"http://127.0.0.1:{port}/{n}.png"}} for n in range(count)]
    made.client.post("/predict", json={"tasks": tasks, "project": "1", "label_config": POLYGONS})


def waits(made: Backend, other: Any, limit: float) -> float:
    """How long project 2 waits for one image, while that goes on."""
    crowding = threading.Thread(target=other)
    crowding.start()
    try:
        time.sleep(1.0)
        begun = time.perf_counter()
        assert made.predict(GOOD, project="2")[0]["result"]
        return time.perf_counter() - begun
    finally:
        crowding.join()


def silence(end: threading.Event) -> Any:
    def answer(_: Any) -> Raw:
        end.wait(30)
        return Raw([])

    return answer


@pytest.mark.parametrize("how", ["48 silent hosts", "10,000 slow pages"])
def test_another_project_does_not_wait_for_silent_hosts(tmp_path: Path, how: str) -> None:
    end = threading.Event()
    with (
        http_server(silence(end)) as silent,
        backend(tmp_path, allowed_hosts="127.0.0.0/8", deadline=6.0, image_timeout=5.0) as made,
    ):
        pages = {"images": [f"http://127.0.0.1:{silent.port}/{n}.png" for n in range(10_000)]}
        other = (
            (lambda: crowd(made, 48, silent.port))
            if how.startswith("48")
            else (lambda: made.predict(pages, config=PAGES, project="1"))
        )
        try:
            assert waits(made, other, 6.0) < 4.0  # the hosts are waited for five seconds
        finally:
            end.set()


def test_projects_take_turns_at_the_models(tmp_path: Path) -> None:
    """A project with a hundred images, and one with a single image that comes later."""
    with backend(tmp_path, micro_batch=1, deadline=30.0) as made, ThreadPoolExecutor(1) as pool:
        made.strategy.gate.clear()
        images = [{"image": data_url(encoded(picture(60 + number)))} for number in range(60)]
        first = pool.submit(lambda: made.client.post("/predict", json={
            "tasks": [{"id": n, "data": data} for n, data in enumerate(images)],
            "project": "1", "label_config": POLYGONS.replace("Animal", "crowd")}))  # fmt: skip
        assert made.strategy.started.wait(20)
        with ThreadPoolExecutor(1) as second:
            late = second.submit(lambda: made.predict(GOOD, project="2"))
            time.sleep(1.0)
            made.strategy.gate.set()
            assert late.result()[0]["result"]
        first.result()
        place = [text for text, _ in made.strategy.asked].index("Animal")
        assert place < 30
