"""A project's own version over a real socket, with the kit's models: promoted, used by clicks too, rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from int_model.learning.adaptation import Adaptation, Outline
from int_model.learning.bundle import Manifest, pack
from int_model.models.identity import segmenter_fingerprint
from int_model.nano.conventions import annotated_scene
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.learning.bundles import Bundles
from ml_backend.learning.versions import Versions
from ml_backend.serving.model_loading import identify, load_strategy
from ml_backend.settings import Settings
from ml_backend.storage.clicks import ClickLog
from ml_backend.storage.database import Database
from tests.support.harness import Backend, backend, data_url, encoded
from tests.support.waiting import until

PROJECT, LABEL = 5, "Region"
SCENE = annotated_scene("halo", 0)
DATA = {"image": data_url(encoded(SCENE.image))}
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    f'<KeyPointLabels name="kp" toName="image" smart="true"><Label value="{LABEL}"/></KeyPointLabels>'
    f'<BrushLabels name="b" toName="image"><Label value="{LABEL}" model_prompt="{SCENE.task}"/></BrushLabels></View>'
)
CHOSEN: dict[str, Any] = {"strategy": "grounded_sam", "device": "cpu"}


def bundle(offset: float, *, parent: str = "", base: str = "") -> bytes:
    fits = segmenter_fingerprint(Settings(**CHOSEN).models.read_profile())
    learned = Adaptation(outlines={SCENE.task: Outline(offset=offset)})
    return pack(learned, Manifest(base=base or fits, data="d", arm="outlines", parent=parent))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("versions")
    settings = Settings(data_dir=folder, **CHOSEN)
    database = Database.in_folder(folder)
    bundles = Bundles(Versions(database), settings.models.read_profile)
    load = lambda: load_strategy(settings, bundles.read)  # noqa: E731
    with backend(folder, load, identity=identify(settings), deadline=60.0, device="cpu") as made:
        yield made
    database.close()


def mask_of(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.any([decode_region(region) for region in entry["result"]], axis=0)


def predicted(running: Backend) -> tuple[np.ndarray[Any, Any], str]:
    (entry,) = running.predict(DATA, config=CONFIG, project=f"{PROJECT}.1")
    return mask_of(entry), entry["model_version"]


def clicked(running: Backend) -> tuple[np.ndarray[Any, Any], str]:
    rows, columns = np.nonzero(SCENE.masks[0])
    height, width = SCENE.image.shape[:2]
    x, y = float(np.median(columns)) / width * 100, float(np.median(rows)) / height * 100
    point = {
        "id": "p1", "from_name": "kp", "to_name": "image", "type": "keypointlabels", "origin": "manual",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.3, "keypointlabels": [LABEL], "labels": [LABEL]},
    }  # fmt: skip
    (entry,) = running.predict(DATA, config=CONFIG, project=f"{PROJECT}.1", context={"result": [point]})
    return mask_of(entry), entry["model_version"]


def test_promotion_reaches_the_next_request_and_rollback_restores_every_bit(running: Backend) -> None:
    running.setup(config=CONFIG, project=f"{PROJECT}.1")
    versions = Versions(running.app.state.context.store.database)
    before, base = predicted(running)
    before_click, click_base = clicked(running)
    assert base == click_base
    first = versions.add(PROJECT, bundle(0.12), accepted=True, serve=True)
    after, version = predicted(running)
    after_click, click_version = clicked(running)
    assert version == click_version != base
    assert after.sum() > 1.2 * before.sum()
    assert after_click.sum() > 1.1 * before_click.sum(), "clicks draw what was learned, too"
    assert versions.names(PROJECT, first.id) == [version]
    assert running.client.get("/versions", params={"project": PROJECT}).json()["versions"] == [version]
    second = versions.add(PROJECT, bundle(0.2, parent=first.id), accepted=True, serve=True)
    wider, newest = predicted(running)
    assert second.serving
    assert newest not in (base, version)
    assert not np.array_equal(wider, after)
    for mask, want, name in ((after, after_click, version), (before, before_click, base)):
        versions.rollback(PROJECT, who="test")
        again, text = predicted(running)
        by_click, _ = clicked(running)
        assert text == name
        assert np.array_equal(again, mask)
        assert np.array_equal(by_click, want)


def test_other_projects_stay_with_the_base_models(running: Backend) -> None:
    Versions(running.app.state.context.store.database).add(PROJECT + 1, bundle(0.3), accepted=True, serve=True)
    plain, _ = predicted(running)
    (entry,) = running.predict(DATA, config=CONFIG, project=f"{PROJECT + 1}.1")
    assert mask_of(entry).sum() > 1.2 * plain.sum()
    assert predicted(running)[0].sum() == plain.sum()


def test_a_version_of_another_segmenter_serves_nothing_and_says_what_to_do(running: Backend) -> None:
    versions = Versions(running.app.state.context.store.database)
    versions.add(PROJECT + 2, bundle(0.3, base="feedfeedfeedfeed"), accepted=True, serve=True)
    assert running.predict(DATA, config=CONFIG, project=f"{PROJECT + 2}.1") == [[]]
    assert "was trained on another segmenter (feedfeedfeedfeed" in running.problems()
    versions.rollback(PROJECT + 2, who="test")
    assert running.predict(DATA, config=CONFIG, project=f"{PROJECT + 2}.1")[0]["result"]


def test_clicks_are_kept_in_their_order(running: Backend) -> None:
    log = ClickLog(running.app.state.context.store.database)
    log.delete(PROJECT)
    for _ in range(3):
        clicked(running)
    until(lambda: len(log.of_tasks(PROJECT, [1]).get(1, [])) == 3)
    (first, *_) = log.of_tasks(PROJECT, [1, 2])[1]
    assert (first.label, first.size, first.signs) == (LABEL, SCENE.image.shape[:2], (1,))
    ((x, y),) = first.points
    assert SCENE.masks[0][int(y), int(x)]
    assert len(first.mask) == 64
    log.delete(PROJECT, [1])
    assert log.of_tasks(PROJECT, [1]) == {}
