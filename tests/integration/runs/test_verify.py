"""Label Studio's database is restored from an older copy: what is gone is found, and pushed again."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ml_backend.cli.main import app
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.types import RunState, TaskState
from ml_backend.runs.verify import REASON, Verifying
from ml_backend.storage.audit import Audit, operator
from tests.integration.runs.test_batch import Bench, bench
from tests.support.label_studio import with_uploads


def verifying(it: Bench) -> Verifying:
    assert it.context.client is not None
    return Verifying(it.context.client, it.context.ledger, it.context.store.database)


def test_what_a_restored_label_studio_lost_is_found_and_pushed_again(tmp_path: Path) -> None:
    fake = with_uploads(5)

    async def check(it: Bench) -> None:
        run = await it.finish(await it.begin())
        found = verifying(it).compare(run.id)
        assert (found.there, found.missing, found.doubled, found.deleted) == (5, (), (), 0)
        version = run.spec.model_version
        del it.fake.predictions[2]
        it.fake.predictions[4] = [{**it.fake.predictions[4][0], "model_version": "another"}]
        it.fake.predictions[5].append({**it.fake.predictions[5][0], "id": 7000})
        del it.fake.tasks[1]
        found = verifying(it).compare(run.id)
        assert (found.there, found.missing, found.doubled, found.deleted) == (2, (2, 4), (5,), 1)
        assert verifying(it).remove_doubles(run.id, found.doubled) == 1
        assert verifying(it).mark_missing(run.id, found.missing) == 2
        assert {record.task: record.reason for record in it.records(run, TaskState.FAILED)} == {2: REASON, 4: REASON}
        assert it.context.ledger.retry(run.id) == 2
        with pytest.raises(LedgerError, match="under way"):
            verifying(it).mark_missing(run.id, [3])
        assert (await it.finish(run)).state is RunState.FINISHED
        assert it.fake.versions() == {2: [version], 3: [version], 4: ["another", version], 5: [version]}
        assert verifying(it).compare(run.id).missing == ()

    bench(tmp_path, fake, check)


def test_who_had_a_run_verified_by_command_is_in_the_audit_log(tmp_path: Path) -> None:
    fake = with_uploads(2)

    async def check(it: Bench) -> None:
        run = await it.finish(await it.begin())
        given = {"LABEL_STUDIO_URL": fake.url, "LABEL_STUDIO_API_KEY": "legacy", "INT_DATA_DIR": str(tmp_path)}

        async def verify() -> str:
            arguments = ["runs", "verify", run.id]
            return (await asyncio.to_thread(CliRunner().invoke, app, arguments, env=given)).output

        audit = Audit(it.context.store.database)
        assert "2 predictions are in Label Studio" in await verify()
        assert audit.entries(9) == []  # it only looked
        it.fake.predictions[1].append({**it.fake.predictions[1][0], "id": 7000})
        await verify()
        assert len(it.fake.predictions[1]) == 1
        (entry,) = audit.entries(9)
        assert (entry.action, entry.who, entry.place) == ("verify", *operator())
        assert entry.what == f"run {run.id}: 1 second predictions removed, 0 pushed again"

    bench(tmp_path, fake, check)


@pytest.mark.parametrize(("status", "raised"), [(404, False), (403, True)])
def test_a_double_that_another_worker_removed_is_not_counted(tmp_path: Path, status: int, raised: bool) -> None:
    fake = with_uploads(1)

    async def check(it: Bench) -> None:
        run = await it.finish(await it.begin())
        it.fake.predictions[1] += [{**it.fake.predictions[1][0], "id": number} for number in (7000, 7001)]
        made, client = verifying(it), it.context.client
        delete = client.delete_prediction

        def gone(number: int) -> None:
            if number == 7000:
                raise LabelStudioError("no", status)
            delete(number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "delete_prediction", gone)
            if raised:
                with pytest.raises(LabelStudioError, match="no"):
                    made.remove_doubles(run.id, [1])
            else:
                assert made.remove_doubles(run.id, [1]) == 1
                assert len(it.fake.predictions[1]) == 2

    bench(tmp_path, fake, check)


def test_the_end_of_a_run_says_what_label_studio_lost_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = with_uploads(12)

    async def check(it: Bench) -> None:
        run = await it.begin()
        worker = it.worker(size=6)
        try:
            assert await worker.work(run.id)
            assert len(it.fake.predictions) == 6
            it.fake.predictions.clear()
            with caplog.at_level(logging.WARNING, "ml_backend.runs"):
                await worker.work(run.id)
        finally:
            await worker.close()
        assert it.run(run).state is RunState.FINISHED
        (said,) = [record.getMessage() for record in caplog.records if "has lost" in record.getMessage()]
        assert "has lost 6 of 12 predictions" in said
        assert f"int-backend runs verify {run.id}" in said

    bench(tmp_path, fake, check)


def test_a_push_that_arrives_after_everything_else_is_removed_at_the_end(tmp_path: Path) -> None:
    fake = with_uploads(2)

    async def check(it: Bench) -> None:
        run = await it.begin()
        it.fake.faults["POST push"] = [503]
        worker = it.worker()
        try:
            await worker.work(run.id)
            work = worker._known[run.id]
            assert not isinstance(work, str)
            first = it.fake.predictions[1][0]
            it.fake.predictions[1].append({**first, "id": 9000})
            await work.finished()
        finally:
            await worker.close()
        assert [one["id"] for one in it.fake.predictions[1]] == [first["id"]]

    bench(tmp_path, fake, check)
