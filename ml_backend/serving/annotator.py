"""From a task to its prediction, whoever asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass

from int_model.io.errors import ImageError
from int_model.runner.results import StoredResult
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.pages import Page, pages_of
from ml_backend.labelstudio.predictions import ImageRegions, image_regions
from ml_backend.labelstudio.task_prompt import PromptError, PromptGroup, group_by_prompt
from ml_backend.labelstudio.wire import PredictionOut, TaskIn
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.plan import Plan
from ml_backend.serving.queue import Priority, Request, Waiter
from ml_backend.serving.results import Results, image_key

_NOTHING = "what was found is below the score threshold, too small, or has no fitting label"
_PAGES_AT_ONCE = 100
"""Pages of a task that are asked for together: beginning thousands would hold the event loop for a second."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a task; ``reason`` says why the prediction is empty or lacks an image, or is ""."""

    prediction: PredictionOut
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    """An image of a task, and what is asked of it: a request for each group."""

    page: Page
    groups: list[PromptGroup]
    requests: list[Request]


class TaskAnnotator:
    """Annotates tasks; lives in one event loop.

    Args:
        facilities: of the service.
        results: what the models find.
    """

    def __init__(self, facilities: Facilities, results: Results) -> None:
        self.engine = facilities.engine
        self._facilities = facilities
        self._results = results
        self._at_work = 0
        self._hurried = 0
        self._hurried_at = -math.inf

    @property
    def quiet_for(self) -> float:
        """Seconds since somebody last waited for a prediction; batch work does not count."""
        return 0.0 if self._hurried else time.monotonic() - self._hurried_at

    @property
    def at_work(self) -> int:
        """Tasks on their way, also those whose requests have been answered without them."""
        return self._at_work + self._results.in_background

    async def annotate(self, task: TaskIn, plan: Plan, waiter: Waiter | None = None) -> Answer:
        """A task's prediction, however long it takes.

        Args:
            task: its data name the images.
            plan: of its project.
            waiter: how urgent it is; like a batch run if None.

        Raises:
            ConfigError, EngineError, FetchError, ImageError, PromptError: this task cannot be annotated, and why.
        """
        self._at_work += 1
        waiting = waiter or Waiter(Priority.BATCH)
        hurried = waiting.priority < Priority.BATCH
        self._hurried += hurried
        try:
            answer = await self._annotate(task, plan, waiting)
        except Exception as error:
            self._facilities.metrics.tasks.labels("failed").inc()
            self._facilities.status.report(f"task {task.id}", error)
            raise
        finally:
            self._at_work -= 1
            if hurried:
                self._hurried -= 1
                self._hurried_at = time.monotonic()
            self._results.leave(waiting)
        self._facilities.metrics.tasks.labels("annotated" if answer.prediction.result else "nothing_found").inc()
        return answer

    async def hurry(self, task: TaskIn, plan: Plan) -> None:
        """Someone looks at a task now: what is being done for it goes before other batch work."""
        with contextlib.suppress(PromptError):  # the run says what is wrong with the task
            for asked in await self._asked(task, plan):
                self._results.hurry(asked.requests)

    async def _annotate(self, task: TaskIn, plan: Plan, waiter: Waiter) -> Answer:
        asked = await self._asked(task, plan)
        found: list[list[StoredResult] | ValueError] = []
        for start in range(0, len(asked), _PAGES_AT_ONCE):
            works = [asyncio.ensure_future(self._found(one, waiter)) for one in asked[start : start + _PAGES_AT_ONCE]]
            try:
                found += await asyncio.gather(*works)
            finally:
                for work in works:  # what is not asked yet must not be once the task has failed
                    work.cancel()
        drawn, reasons, missing = [], [], []
        for one, results in zip(asked, found, strict=True):
            if isinstance(results, ValueError):
                missing.append((one.page, results))
            else:
                reasons += [result.reason for result in results if result.reason]
                drawn.append(await self._draw(plan, one, results))
        if missing and not drawn:
            raise missing[0][1]
        left_out = "; ".join(f"{page.name} is left out: {error}" for page, error in missing)
        if left_out:
            self._facilities.status.report(f"task {task.id}", left_out)
        shown = [entry for entry in drawn if entry.regions]
        score = sum(entry.score for entry in shown) / len(shown) if shown else 0.0
        regions = [region for entry in shown for region in entry.regions]
        prediction = PredictionOut(result=regions, score=round(score, 4), model_version=plan.version)
        empty = "" if regions else "; ".join(dict.fromkeys(reasons)) or _NOTHING
        return Answer(prediction, "; ".join(filter(None, (left_out, empty))))

    async def _asked(self, task: TaskIn, plan: Plan) -> list[_Asked]:
        settings, own = self._facilities.settings, self._facilities.identity.strategy
        other = {name: options.strategy for name, options in plan.options.items() if options.strategy != own}
        asked, most = [], settings.max_prompts
        for page in pages_of(plan.config, task.data):
            targets, address = plan.config.targets(page.image.name), page.address
            groups = group_by_prompt(targets, plan.params, settings.prompt, task.data, plan.typed, other, most)
            source = await self._facilities.threads(image_key, task.id, address)
            requests = [Request(source, address, task.id, one.prompt, one.strategy, plan.adapter) for one in groups]
            asked.append(_Asked(page, groups, requests))
        return asked

    async def _found(self, asked: _Asked, waiter: Waiter) -> list[StoredResult] | ValueError:
        """What is found in one image, or why it is left out."""
        if asked.page.error is not None:
            return asked.page.error
        try:
            return await self._results.of_image(waiter, asked.requests)
        except (FetchError, ImageError) as error:
            if isinstance(error, FetchError) and error.transient:
                raise  # the whole task may do later
            return error

    async def _draw(self, plan: Plan, asked: _Asked, results: list[StoredResult]) -> ImageRegions:
        pairs = list(zip(asked.groups, results, strict=True))
        limit, index = self._facilities.settings.max_regions, asked.page.item_index
        with self._facilities.metrics.stage.labels("draw").time():
            return await self._facilities.threads(image_regions, plan.config, pairs, plan.options, limit, index)
