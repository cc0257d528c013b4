"""``int-backend learn --project`` in a process of its own, killed with SIGKILL in the middle, and begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from ml_backend.learning.versions import Versions
from ml_backend.storage.database import Database
from ml_backend.storage.tables import JournalRow
from tests.integration.runs.test_training import PROJECT, corrected
from tests.support.label_studio import LabelStudio, label_studio

PATIENCE = 240


def learn(folder: Path, fake: LabelStudio) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("INT_", "LABEL_STUDIO"))}
    env |= {
        "LABEL_STUDIO_URL": fake.url,
        "LABEL_STUDIO_API_KEY": "legacy",
        "INT_DATA_DIR": str(folder),
        "INT_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "ml_backend.cli.main", "learn", "--project", str(PROJECT)]
    return subprocess.Popen(
        [*command, "--strategy", "grounded_sam"],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_killed_training_leaves_what_serves_and_the_next_process_goes_on(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    versions = Versions(database)

    def steps() -> list[tuple[str, str]]:
        with database.read() as connection:
            rows = connection.execute(select(JournalRow.key, JournalRow.value).order_by(JournalRow.key))
            return [(row.key, row.value) for row in rows]

    with label_studio(corrected("halo", 4)) as fake:
        first = learn(tmp_path, fake)
        limit = time.monotonic() + PATIENCE
        while len(steps()) < 3:
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < limit
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        assert first.wait(PATIENCE) == -signal.SIGKILL
        kept = steps()
        assert versions.of_project(PROJECT) == []
        assert versions.serving(PROJECT).name == "base"
        second = learn(tmp_path, fake)
        while not (version := versions.of_run("1")):
            assert second.poll() is None, second.communicate()[0]
            assert time.monotonic() < limit
            if found := steps():
                assert dict(kept).items() <= dict(found).items(), "finished steps are not done again"
            time.sleep(0.05)
        output = second.communicate(timeout=PATIENCE)[0]
        assert second.returncode == (0 if version.accepted else 1), output
        assert "is under way already; joined it" in output
        assert f"int-backend models show --project {PROJECT} v1" in output
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(JournalRow)) == 0
    assert versions.serving(PROJECT).id == (version.id if version.accepted else "")
    database.close()
