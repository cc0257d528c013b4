"""Interactive calls on their way into the database, after they were answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from int_model.core.types import Instance
from int_model.interactive.prompts import ClickPrompt
from ml_backend.serving.status import Status
from ml_backend.serving.tasks import Tasks, Threads
from ml_backend.storage.clicks import ClickLog, LoggedClick
from ml_backend.storage.database import Database, StoreError


class ClickWriter:
    """Writes calls down in the order in which they were answered; lives in one event loop.

    Args:
        database: where they are kept.
        status: is told where they cannot be kept.
    """

    def __init__(self, database: Database, status: Status) -> None:
        self._log = ClickLog(database)
        self._status = status
        self._thread = Threads(1, "click-log")  # one thread keeps the order
        self._tasks = Tasks()

    def write(
        self,
        project: str,
        task: int | None,
        label: str,
        asked: tuple[ClickPrompt, tuple[int, int]],
        found: Sequence[Instance],
        version: str,
    ) -> None:
        """Keep a call on a task that Label Studio knows; returns at once.

        Args:
            project: its id.
            task: its id.
            label: that was clicked with.
            asked: what was pointed at, in pixels, and the (H, W) of the image.
            found: the masks that were answered.
            version: of the answer.
        """
        if task is None or not project.isdecimal():
            return
        self._tasks.start(self._write(int(project), task, label, asked, found, version))

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._thread.close()
        await asyncio.sleep(0)
        await self._tasks.close()

    async def _write(
        self,
        project: int,
        task: int,
        label: str,
        asked: tuple[ClickPrompt, tuple[int, int]],
        found: Sequence[Instance],
        version: str,
    ) -> None:
        prompt, size = asked

        def record() -> None:
            digest = hashlib.sha256()
            for instance in found:
                digest.update(np.packbits(instance.mask).tobytes())
            click = LoggedClick(
                task=task,
                label=label,
                size=size,
                points=tuple((round(float(x), 2), round(float(y), 2)) for x, y in prompt.points),
                signs=tuple(int(sign) for sign in prompt.labels),
                boxes=tuple(box.as_tuple() for box in prompt.boxes),
                mask=digest.hexdigest() if found else "",
                model_version=version,
            )
            self._log.record(project, click)

        try:
            await self._thread(record)
        except StoreError as error:
            self._status.report(f"the clicks of project {project}", error)
