"""Requests that nobody should send: none crashes the service, none gets a 500, the next honest one is answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.ml_backend.bodies import BODIES
from tests.support.harness import GOOD, JSON, POLYGONS, Backend, backend, data_url, encoded, picture


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("data"), deadline=5.0) as running:
        yield running


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(["/setup", "/predict", "/webhook"]), BODIES)
def test_no_json_body_makes_a_500(shared: Backend, path: str, body: Any) -> None:
    answer = shared.client.post(path, content=json.dumps(body), headers=JSON)
    assert answer.status_code in (200, 201, 400), answer.text
    content = answer.json()
    if path == "/predict" and answer.status_code == 200:
        assert len(content["results"]) == len(body["tasks"])
    if answer.status_code == 400:
        assert set(content) == {"id", "error", "cure"}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["/setup", "/predict", "/webhook"]), st.binary(max_size=60))
def test_no_bytes_make_a_500(shared: Backend, path: str, body: bytes) -> None:
    assert shared.client.post(path, content=body, headers=JSON).status_code in (200, 201, 400)


@pytest.mark.parametrize(
    "body",
    [
        '{"tasks": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"tasks": [{"id": ' + "9" * 5000 + "}]}",
        '{"tasks": [{"id": 1e999}]}',
        '{"tasks": [NaN, Infinity]}',
        json.dumps({"tasks": [{"id": 2**70, "data": GOOD}], "label_config": POLYGONS}),
        json.dumps({"tasks": [{"id": 1, "data": {str(i): i for i in range(20_000)}}], "label_config": POLYGONS}),
        json.dumps({"tasks": [{"data": GOOD}], "label_config": "<a>" * 30_000 + "</a>" * 30_000}),
    ],
    ids=["deep", "long number", "infinite id", "not numbers", "big id", "many fields", "deep config"],
)
def test_payloads_that_hurt_parsers(shared: Backend, body: str) -> None:
    assert shared.client.post("/predict", content=body, headers=JSON).status_code in (200, 400)
    assert shared.predict(GOOD)[0]["result"]


def test_many_mixed_requests_at_once_lose_nothing(shared: Backend) -> None:
    wrong: list[Any] = []
    base = str(shared.client.base_url)

    def work(seed: int) -> None:
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
            for step in range(6):
                kind = (seed + step) % 4
                if kind == 0:
                    good = client.get("/health").json()["status"] == "UP"
                elif kind == 1:
                    body = {"project": f"{seed}.1", "schema": POLYGONS, "extra_params": f"prompt {seed}"}
                    good = client.post("/setup", json=body).json()["model_version"].startswith("int-")
                elif kind == 2:
                    good = client.post("/webhook", json={"action": "TASKS_CREATED"}).status_code == 201
                else:
                    image = {"image": data_url(encoded(picture(box=(seed % 9, 5, 40, 40))))}
                    body = {"tasks": [{"id": 1, "data": image}, {"id": 2, "data": {}}], "label_config": POLYGONS}
                    results = client.post("/predict", json=body).json()["results"]
                    good = len(results) == 2 and bool(results[0]["result"]) and results[1] == []
                if not good:
                    wrong.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert shared.client.get("/status").json()["tasks_on_their_way"] == 0
