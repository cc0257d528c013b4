"""Regions that cost more than they say: points, sizes, runs, numbers of them; in clicks, pictures and exports."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.api.run_pictures import draw
from ml_backend.labelstudio.exports import ExportedExamples, read_tasks
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.regions.rle import decode_mask, encode_mask
from tests.support.harness import GOOD, JSON, POLYGONS, encoded, picture
from tests.support.interpreter import longest_hold
from tests.support.served import Served, memory_of, served

HEIGHT, WIDTH = 60, 80


def zigzag(count: int) -> list[list[float]]:
    """Every edge runs over the whole height."""
    return [[100 * index / count, 100.0 * (index % 2)] for index in range(count)]


def region(value: dict[str, Any], height: Any = HEIGHT, width: Any = WIDTH) -> dict[str, Any]:
    return {"id": "a", "type": "polygonlabels", "from_name": "label", "to_name": "image", "original_width": width,
            "original_height": height, "image_rotation": 0, "value": {"polygonlabels": ["Animal"]} | value}  # fmt: skip


def shortest_runs(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[int]:
    """A brush code of runs of one value, which need 14 bits each."""
    bits = f"{height * width * 4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "10000000000000" * count
    padded = bits + "0" * (-len(bits) % 8)
    return [int(padded[at : at + 8], 2) for at in range(0, len(padded), 8)]


def growth(work: Callable[[], Any]) -> float:
    """By how many MB the work makes this process grow at most."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_of(os.getpid(), "VmRSS")
    work()
    return memory_of(os.getpid(), "VmHWM") - before


IMAGE = np.full((1000, 1500, 3), 90, np.uint8)
HOSTILE = {
    "10,000 points": region({"points": zigzag(10_000)}, 1000, 1500),
    "100,000 points": region({"points": zigzag(100_000)}, 1000, 1500),
    "1,000,000 points": region({"points": zigzag(1_000_000)}, 1000, 1500),
    "30,000 squared": region({"points": zigzag(9)}, 30_000, 30_000),
    "10 million squared": region({"points": zigzag(9)}, 10**7, 10**7),
    "a brush of 10 million squared": region({"rle": [0] * 99}, 10**7, 10**7),
    "a brush of the shortest runs": region({"rle": shortest_runs(1_200_000)}, 1000, 1500),
    "infinity": region({"points": zigzag(9)}, math.inf, math.inf),
    "NaN": region({"points": zigzag(9)}, math.nan, 5),
    "points that are no numbers": region({"points": [["a", "b"]] * 9}, 1000, 1500),
    "points at NaN": region({"points": [[math.nan, 0.0]] * 9}, 1000, 1500),
    "a rectangle of infinite size": region({"x": 0, "y": 0, "width": math.inf, "height": 1}, 1000, 1500),
    "no size": {"value": {"points": zigzag(9)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_pictures_of_imported_predictions_cost_an_image_not_more(name: str) -> None:
    assert growth(lambda: draw(IMAGE, [HOSTILE[name]])) < 250


def test_100_000_regions_on_a_picture_are_drawn_as_far_as_people_can_see() -> None:
    honest = region({"points": [[10, 10], [60, 10], [60, 60]]}, 1000, 1500)
    assert draw(IMAGE, [honest] * 100_000) == draw(IMAGE, [honest] * 300)


@pytest.mark.parametrize("name", HOSTILE)
def test_exports_with_them_are_read_and_the_region_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(IMAGE))
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"id": 1, "result": [HOSTILE[name]]}]},
        {"id": 2, "data": {"image": "a.png"}, "annotations": 5},
        {"id": 3, "data": {"image": "a.png"}, "annotations": [{"id": 2, "result": [region(
            {"points": [[0, 0], [50, 0], [50, 50]]}, 1000, 1500)]}]},
    ]  # fmt: skip
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    told: list[str] = []
    assert len(list(read_tasks(export))) == 3

    def read() -> None:
        examples = list(ExportedExamples.read(export, tmp_path, "x", tell=told.append))
        assert len(examples) == 2
        assert examples[1].instances[0].any()  # type: ignore[union-attr]
        broken = getattr(examples[0], "error", "")
        assert told or broken or name in ("10,000 points",)

    assert growth(read) < 300


@pytest.mark.parametrize("height", [200, 4000])
def test_points_are_drawn_in_blocks(height: int) -> None:
    """10,000 points cost 565 MB where they were drawn all at once."""
    hostile = region({"points": zigzag(7_000)}, height, 100)
    assert growth(lambda: decode_region(hostile, (height, 100))) < 250


# --- clicks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data")) as made:
        click(made, body_of(region({"points": [[10, 10], [60, 10], [60, 60]]})))
        yield made


def body_of(region: dict[str, Any]) -> bytes:
    """A click; made before anything is measured, since it holds this process's interpreter, too."""
    context = {"result": [{**region, "type": "brushlabels"}]}
    body = {"tasks": [{"id": 1, "data": GOOD}], "label_config": POLYGONS, "params": {"context": context}}
    return json.dumps(body).encode()


def click(running: Served, body: bytes) -> Any:
    return running.client.post("/predict", content=body, headers=JSON)


@pytest.mark.parametrize(
    "value",
    [
        {"points": zigzag(10_000)},
        {"points": zigzag(100_000)},
        {"points": zigzag(390_000)},
        {"rle": shortest_runs(1_300_000)},
    ],
)
def test_clicks_with_them_cost_little(running: Served, value: dict[str, Any]) -> None:
    running.forget_peak()
    before = running.resident
    body = body_of(region(value))
    begun = time.thread_time()
    json.loads(body)
    naive = time.thread_time() - begun
    answers: list[Any] = []
    most = max(0.5 * naive, 0.15)
    assert running.held(lambda: answers.append(click(running, body)), most) < most
    assert {answer.status_code for answer in answers} == {200}
    assert running.peak - before < 250 + 8 * len(body) / 1e6


@pytest.mark.parametrize("value", [{"points": zigzag(1_000_000)}, {"rle": [128] * 10_000_000}])
def test_clicks_of_a_million_points_or_10_mb_of_runs_are_refused(running: Served, value: dict[str, Any]) -> None:
    running.forget_peak()
    before = running.resident
    body = body_of(region(value))
    begun = time.thread_time()
    json.loads(body)
    most = max(0.5 * (time.thread_time() - begun), 0.15)
    answers: list[Any] = []
    assert running.held(lambda: answers.append(click(running, body)), most) < most
    assert {answer.status_code for answer in answers} == {413}
    assert running.peak - before < 6 * len(body) / 1e6


def test_honest_runs_of_a_textured_mask_are_read() -> None:
    mask = np.random.default_rng(0).random((1080, 900)) > 0.5
    assert (decode_mask(encode_mask(mask), 1080, 900) == mask).all()


def test_brushes_on_large_images_are_read_without_holding_the_interpreter() -> None:
    """In one go, the values of all pixels are written while no other thread has its turn."""
    mask = np.zeros((5000, 5000), bool)
    mask[100:4000, 200:3000] = True
    code = encode_mask(mask)
    lengths = np.full(mask.size * 4 // 50_000, 50_000)
    begun = time.thread_time()
    np.repeat(np.zeros(len(lengths), np.uint8), lengths)
    naive = time.thread_time() - begun
    found = []
    held, _ = longest_hold(lambda: found.append(decode_mask(code, 5000, 5000)), 2)
    assert held < 0.5 * naive
    assert (found[0] == mask).all()


def test_pictures_of_honest_regions_are_as_before() -> None:
    small = picture()
    assert draw(small, [region({"points": [[25, 17], [62, 17], [62, 66], [25, 66]]})]) != draw(small, [])
