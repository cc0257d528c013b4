"""Loading, deadlines, caches, restarts, batches and versions of a running backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.models.errors import TransientModelError
from tests.support.harness import (
    CONFIGS,
    GOOD,
    POLYGONS,
    Backend,
    RedThings,
    backend,
    data_url,
    encoded,
    overlap,
    picture,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("data")) as running:
        yield running


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


def test_models_that_cannot_answer_now_are_asked_again(tmp_path: Path) -> None:
    class Away(RedThings):
        def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
            if not self.asked:
                self.asked.append((task.text, 0))
                raise TransientModelError("the endpoint answered 503")
            return super().segment(images, task)

    with backend(tmp_path, strategy=Away()) as running:
        assert running.predict(GOOD) == [[]]
        assert "answered 503" in running.problems()
        assert running.predict(GOOD)[0]["result"]


def test_what_is_late_is_empty_and_comes_from_the_cache_next_time(tmp_path: Path) -> None:
    strategy = RedThings()
    strategy.gate.clear()
    other = {"image": data_url(encoded(picture(box=(0, 0, 30, 30))))}
    with backend(tmp_path, strategy=strategy, deadline=0.4) as running:
        assert running.predict(GOOD, other) == [[], []]
        strategy.gate.set()
        until(lambda: not running.client.get("/status").json()["tasks_on_their_way"], "they are done")
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


class TwoWays(RedThings):
    """Finds what is red; its other strategy finds the same and says so by its score."""

    def __init__(self) -> None:
        super().__init__()
        self.other = RedThings()
        self.other.scores["Animal"] = 0.4

    def of_strategy(self, name: str) -> RedThings:
        assert name == "grounded_sam"
        return self.other


BOTH_WAYS = (
    '<View><Image name="image" value="$image"/>'
    '<PolygonLabels name="own" toName="image"><Label value="Animal"/></PolygonLabels>'
    '<BrushLabels name="other" toName="image" model_skip="false" model_strategy="{}"><Label value="Animal"/>'
    "</BrushLabels></View>"
)


def test_a_control_has_its_own_strategy_and_its_own_results(tmp_path: Path) -> None:
    config, strategy = BOTH_WAYS.format("grounded_sam"), TwoWays()
    with backend(tmp_path, strategy=strategy) as running:
        (first,) = running.predict(GOOD, config=config)
        assert [(r["from_name"], r["score"]) for r in first["result"]] == [("own", 0.9), ("other", 0.4)]
        (plain,) = running.predict(GOOD, config=BOTH_WAYS.format("int"))
        assert [r["score"] for r in plain["result"]] == [0.9, 0.9]
        assert plain["model_version"] != first["model_version"]
    with backend(tmp_path, strategy=TwoWays()) as again:  # both were kept, each under its strategy
        (second,) = again.predict(GOOD, config=config)
        assert [r["score"] for r in second["result"]] == [0.9, 0.4]
        assert again.strategy.asked == []
    assert (strategy.asked, strategy.other.asked) == ([("Animal", 1)], [("Animal", 1)])


def test_an_unknown_strategy_is_told_and_the_services_is_taken(tmp_path: Path) -> None:
    config = BOTH_WAYS.format("inter")
    with backend(tmp_path) as running:
        running.setup(config=config)
        assert [r["score"] for r in running.predict(GOOD, config=config)[0]["result"]] == [0.9, 0.9]
        assert "strategy = 'inter' in <... name='other'> is ignored" in running.problems()
        assert "choose one of: int" in running.problems()


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
        until(lambda: running.client.get("/status").json()["waiting_for_models"] >= 5, "five wait")
        strategy.gate.set()
        for thread in threads:
            thread.join(30)
        assert all(answers[i][0]["result"] for i in range(9))
        assert max(count for _, count in strategy.asked) > 1
        assert sum(count for _, count in strategy.asked) == 9


def test_an_unexpected_failure_is_one_failed_task_with_an_incident_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.serving.annotator.image_regions", lambda *_, **__: 1 / 0)
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


def test_the_whole_loop_over_the_wire(tmp_path: Path) -> None:
    """The INT pipeline itself, on the fake models of its own tests."""
    from int_model.strategies.registry import make_strategy
    from tests.support.fakes import TASK, fake_suite, scene

    image, (frog, snake) = scene(objects=[("frog", 30, 40, 15), ("snake", 90, 60, 14)])
    only_frogs, (first, second) = scene(objects=[("frog", 30, 40, 15), ("frog", 95, 60, 12)])
    with backend(tmp_path, load=lambda: make_strategy("int", fake_suite())) as running:
        running.setup(TASK)
        one, two = running.predict(*({"image": data_url(encoded(i))} for i in (image, only_frogs)))
    assert max(overlap(r, m) for r in one["result"] for m in (frog, snake)) > 0.8
    for mask in (first, second):
        assert max(overlap(r, mask) for r in two["result"]) > 0.8
    assert two["result"][0]["meta"]["text"][0].startswith(f"{TASK}: frog, contrast +")
    assert 0.0 < two["score"] <= 1.0
