"""Files of tasks for Label Studio's import: how many of them, what is in them, and addresses of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from int_model.datasets.contents import Abstention, DatasetObject, Entry, Item, LabelPlan
from int_model.runner.results import StoredObject
from ml_backend.labelstudio import task_files
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.task_files import (
    LabelStudioWriter,
    check_local_root,
    labeling_config,
    local_address,
    url_address,
)

LABELS = [LabelPlan("Cat", "a cat", "id-1"), LabelPlan("Dog & co", 'a "dog"', "id-2")]
SIZE = (30, 40)


def item(number: int = 1, objects: tuple[tuple[int, float], ...] = (), path: Path = Path("/data/a b.png")) -> Item:
    """An image with an object, a class and a score, for each pair; they stand beside each other."""
    found = []
    for index, (category, score) in enumerate(objects):
        mask = np.zeros(SIZE, bool)
        mask[5:15, 10 * index : 10 * index + 6] = True
        label = LABELS[category - 1].label
        found.append(DatasetObject(category, label, "thing", score, StoredObject.of(mask, "thing", 0.99)))
    entry = Entry(path, f"sub/{number} b.png", f"sub-{number}", f"{number:064d}", SIZE, 0, "train")
    missing = [plan for index, plan in enumerate(LABELS, 1) if index not in {category for category, _ in objects}]
    return Item(entry, tuple(found), tuple(Abstention(plan.label, plan.prompt, "none") for plan in missing))


def written(folder: Path, *items: Item) -> list[list[dict[str, Any]]]:
    """The tasks of each file."""
    address = url_address("https://images.example/photos/")
    writer = LabelStudioWriter(folder, LABELS, geometry="rectangle", address=address, version="int-v")
    for one in items:
        writer.add(one)
    writer.close()
    files = sorted((folder / "label-studio").glob("tasks-*.json"))
    assert [file.name for file in files] == [f"tasks-{number:04d}.json" for number in range(1, len(files) + 1)]
    return [json.loads(file.read_text()) for file in files]


def test_a_task_has_one_prediction_with_the_lowest_score(tmp_path: Path) -> None:
    ((both, none),) = written(tmp_path, item(1, ((1, 0.9), (2, 0.40004))), item(2))
    assert both["data"] == {
        "image": "https://images.example/photos/sub/1%20b.png",
        "file": "sub/1 b.png",
        "split": "train",
        "nothing_found": "",
    }
    (prediction,) = both["predictions"]
    assert (prediction["score"], prediction["model_version"]) == (0.4, "int-v")
    assert [region["value"]["rectanglelabels"] for region in prediction["result"]] == [["Cat"], ["Dog & co"]]
    assert none["data"]["nothing_found"] == "Cat, Dog & co"
    assert (none["predictions"][0]["score"], none["predictions"][0]["result"]) == (0.0, [])


def test_the_same_data_set_gives_the_same_files(tmp_path: Path) -> None:
    items = [item(number, ((1, 0.9), (2, 0.8))) for number in (1, 2)]
    first, again = (written(tmp_path / name, *items) for name in ("a", "b"))
    assert first == again
    ids = [region["id"] for task in first[0] for region in task["predictions"][0]["result"]]
    assert len(set(ids)) == 4
    assert {len(one) for one in ids} == {12}


def test_a_file_has_so_many_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_files, "TASKS_PER_FILE", 3)
    files = written(tmp_path, *(item(number) for number in range(7)))
    assert [len(tasks) for tasks in files] == [3, 3, 1]
    assert [task["data"]["file"] for tasks in files for task in tasks] == [f"sub/{number} b.png" for number in range(7)]


def test_a_file_has_so_many_bytes_but_a_task_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((one,),) = written(tmp_path / "one", item(1))
    size = len(json.dumps(one, separators=(",", ":")))
    for most, expected in ((2 * size + 1, [2, 2, 1]), (2 * size, [2, 2, 1]), (2 * size - 1, [1] * 5), (1, [1] * 5)):
        monkeypatch.setattr(task_files, "BYTES_PER_FILE", most)
        files = written(tmp_path / str(most), *(item(number) for number in range(1, 6)))
        assert [len(tasks) for tasks in files] == expected


def test_without_images_there_is_one_empty_file(tmp_path: Path) -> None:
    assert written(tmp_path) == [[]]


def test_the_labeling_config_that_is_written_is_the_one_that_fits(tmp_path: Path) -> None:
    written(tmp_path)
    text = (tmp_path / "label-studio" / "labeling_config.xml").read_text(encoding="utf-8")
    assert text == labeling_config(LABELS, "rectangle")
    targets = parse_label_config(text).targets("image")
    assert [target.label.value for target in targets if target.label] == ["Cat", "Dog & co"]


@pytest.mark.parametrize(
    "prefix", ["http://h/p", "https://h/p", "s3://bucket/p", "gs://bucket/p", "azure-blob://p", "/p"]
)
def test_addresses_begin_with_what_serves_the_folder(prefix: str) -> None:
    assert url_address(f"{prefix}/")(item()) == url_address(prefix)(item()) == f"{prefix}/sub/1%20b.png"


def test_what_is_no_address_is_said() -> None:
    with pytest.raises(ValueError, match="'photos' is no address"):
        url_address("photos")


def test_local_files_lie_below_the_folder_that_label_studio_reads(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    address = local_address(tmp_path)
    assert address(item(path=root / "sub" / "a b.png")) == "/data/local-files/?d=sub/a%20b.png"
    with pytest.raises(ValueError, match="lies outside"):
        address(item(path=root.parent / "a.png"))
    with pytest.raises(ValueError, match="is no folder"):
        check_local_root(tmp_path / "none", [])
