"""The identity of the models is per project: a project's own adapter reaches versions, kept results, runs and workers.

The adapters are ids only: the strategy of these tests needs no weights.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from ml_backend.context import AppContext
from ml_backend.runs.queues.base import NullQueue
from ml_backend.runs.types import Run, RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from ml_backend.storage.store import Store
from ml_backend.storage.tables import ResultRow
from tests.support.harness import IDENTITY, POLYGONS, RedThings, backend, encoded, picture
from tests.support.label_studio import LabelStudio, label_studio, with_uploads

PROJECT, OURS, THEIRS = 7, "ab12cd34", "99ff99ff"
ADAPTED = replace(IDENTITY, adapter=OURS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.in_folder(tmp_path)
    yield opened
    opened.close()


def identities(store: Store) -> set[str]:
    """Under which versions results are kept."""
    with store.database.read() as connection:
        return set(connection.scalars(select(ResultRow.model_version)))


def test_without_an_adapter_every_string_is_what_it_was() -> None:
    assert IDENTITY.adapted("") is IDENTITY
    assert ADAPTED.adapted("") is ADAPTED
    assert IDENTITY.cache_version_of("") == "fake-int-0000000000000000"
    assert IDENTITY.adapted(OURS) == ADAPTED
    assert ADAPTED.cache_version_of("") == f"fake-int-0000000000000000-{OURS}"
    assert ADAPTED.adapted(THEIRS).cache_version_of("vlm_box") == f"fake-vlm_box-0000000000000000-{THEIRS}"


def test_the_adapter_of_a_project_is_part_of_its_version_alone(tmp_path: Path, store: Store) -> None:
    with backend(tmp_path, identity=ADAPTED) as adapted:
        with_adapter = adapted.setup(project="1.1")
    with backend(tmp_path) as plain:
        base, other = plain.setup(project="1.1"), plain.setup(project="2.1")
        assert base == other != with_adapter
        store.choose_adapter("1", OURS)
        assert plain.setup(project="1.1") == with_adapter, "as where all projects have that adapter"
        assert plain.setup(project="2.1") == other
        assert plain.client.get("/versions", params={"project": "1.1"}).json()["versions"] == [with_adapter]
        store.choose_adapter("1", "")
        assert plain.setup(project="1.1") == base


def test_a_backend_that_lacks_the_adapter_says_so_and_predicts_nothing(tmp_path: Path, store: Store) -> None:
    image = {"image": "data:image/png;base64," + base64.b64encode(encoded(picture())).decode()}
    with backend(tmp_path) as plain:
        plain.setup(project="1.1")
        assert plain.predict(image, project="1.1")[0]["result"]
        store.choose_adapter("1", OURS)
        version = plain.setup(project="1.1")
        assert plain.predict(image, project="1.1") == [[]]
        assert f"the project's adapter {OURS} is not loaded here; start this process with --adapter" in plain.problems()
        assert identities(store) == {IDENTITY.cache_version_of("")}
    with backend(tmp_path, identity=ADAPTED) as adapted:
        (result,) = adapted.predict(image, project="1.1")
        assert (result["model_version"], bool(result["result"])) == (version, True)
        assert len(adapted.strategy.asked) == 1, "results of the models without the adapter are not taken"
    assert identities(store) == {IDENTITY.cache_version_of(""), ADAPTED.cache_version_of("")}


def both(folder: Path, fake: LabelStudio, test: Callable[[AppContext, AppContext], Awaitable[None]]) -> None:
    """Two processes' worth of backend over one ledger: one without an adapter, one with ours."""

    async def main() -> None:
        settings = Settings(data_dir=folder, label_studio_url=fake.url, label_studio_api_key=SecretStr("legacy"))
        opened = [AppContext.open(settings, load=RedThings, identity=identity) for identity in (IDENTITY, ADAPTED)]
        for context in opened:
            await context.start()
        try:
            await test(*opened)
        finally:
            for context in opened:
                await context.close()

    with label_studio(fake):
        asyncio.run(main())


async def begin(context: AppContext) -> Run:
    started = await asyncio.to_thread(context.runs(NullQueue()).start, RunRequest(project=PROJECT))
    assert started.run is not None
    return started.run


async def work(context: AppContext, run: Run, *, alone: bool = False) -> tuple[Run, bool]:
    """Do what this process can of the run: the run afterwards, and whether the process suits it."""
    worker = context.worker(alone=alone)
    try:
        while await worker.work(run.id):
            pass
        return context.ledger.get(run.id), await asyncio.to_thread(worker.suits, run.id)
    finally:
        await worker.close()


def test_a_run_of_an_adapter_is_left_to_a_worker_that_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = with_uploads(4)

    async def check(plain: AppContext, adapted: AppContext) -> None:
        base = await begin(plain)
        assert (base.spec.adapter, await work(adapted, base)) == ("", (base, False))
        plain.ledger.cancel(base.id)
        plain.store.choose_adapter(str(PROJECT), OURS)
        run = await begin(plain)
        assert run.spec.adapter == OURS
        assert run.spec.model_version == adapted.projects.plan(POLYGONS, None).version != base.spec.model_version
        left, suits = await work(plain, run)
        assert (left.state, suits) == (RunState.ACTIVE, False)
        assert {record.attempts for record in plain.ledger.records(run.id)} == {0}
        done, suits = await work(adapted, run)
        assert (done.state, suits) == (RunState.FINISHED, True)
        assert adapted.ledger.progress(run.id).counts[TaskState.DONE] == 4
        assert set(fake.versions()[1]) == {run.spec.model_version}

    both(tmp_path, fake, check)
    assert f"the project's adapter {OURS} is not loaded here" in caplog.text


def test_a_process_of_its_own_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    async def check(plain: AppContext, adapted: AppContext) -> None:
        plain.store.choose_adapter(str(PROJECT), THEIRS)
        run = await begin(adapted)
        assert run.spec.adapter == THEIRS
        stopped, _ = await work(adapted, run, alone=True)
        assert stopped.state is RunState.STOPPED
        assert stopped.why.startswith(f"the project's adapter {THEIRS} is not loaded here; start this process with")

    both(tmp_path, with_uploads(2), check)
