"""A trial from the request to the result: images are chosen, annotated once per side, compared. Nothing is written."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from int_model.core.types import Image, Mask, union
from int_model.io.drawing import shrink, shrink_mask
from int_model.io.errors import ImageError
from ml_backend.context import AppContext
from ml_backend.errors import EngineError
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import our_connection
from ml_backend.labelstudio.exports import ExportedTask
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.regions.decode import decode_region, region_labels
from ml_backend.labelstudio.task_prompt import PromptError
from ml_backend.labelstudio.wire import PredictionOut, TaskIn, parse_task
from ml_backend.serving.plan import Plan
from ml_backend.trial.figures import compare, figures_of, verdict
from ml_backend.trial.types import SHOWN_SIDE, Outcome, Region, Side, Trial, TrialRequest, Tried

_PAGE = 100
_LISTED = 50  # pages of ids to choose from
_WHOLE = 20
_AT_ONCE = 4
BESIDE_ANNOTATORS = 1
"""Images at once of a trial in a backend that annotators use.

They go first, but not before what is at the models already: that is one image then, not a micro-batch.
"""

QUIET_SECONDS = 2.0
MOST_HELD_SECONDS = 30.0
"""An image of a trial waits until predictions have been quiet for so long, but no longer than that."""

Progress = Callable[[int, int], None]
"""Told how many images are done, of how many."""


class TrialError(RuntimeError):
    """There is nothing to try; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """A project as Label Studio has it now, and the plan of each side."""

    title: str
    plans: tuple[Plan, ...]


async def run_trial(
    context: AppContext, request: TrialRequest, progress: Progress = lambda *_: None, at_once: int = _AT_ONCE
) -> Trial:
    """Try the sides on the project's images, with the priority of a batch run.

    Args:
        context: of the process; it has a client of Label Studio.
        request: what is tried.
        progress: told after every image.
        at_once: images that are worked on together, at least 1.

    Raises:
        TrialError: the project has no task to try, or Label Studio is not configured.
        ConfigError: the labeling config cannot be used.
        LabelStudioError: Label Studio refuses, or is away.
    """
    client = context.client
    if client is None:
        raise TrialError("a trial needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    subject = await asyncio.to_thread(_subject, context, client, request)
    rows = await asyncio.to_thread(choose, client, request)
    if not rows:
        what = "annotated task" if request.annotated else "task"
        raise TrialError(f"project {request.project} has no {what} to try")
    places, done = asyncio.Semaphore(at_once), 0

    async def one(row: Mapping[str, Any]) -> Tried:
        nonlocal done
        async with places:
            tried = await _tried(context, client, request, subject.plans, row)
        done += 1
        progress(done, len(rows))
        return tried

    images = tuple(await asyncio.gather(*map(one, rows)))
    comparisons, annotated = compare(images, len(request.sides))
    text = verdict(comparisons, request.sides, annotated)
    return Trial(request, subject.title, images, comparisons, annotated, text)


def choose(client: LabelStudioClient, request: TrialRequest) -> list[Mapping[str, Any]]:
    """The trial's tasks with their annotations, by id: drawn at random from the project's (or view's) first thousands.

    Raises ``LabelStudioError``. Blocking.
    """
    ids: list[int] = []
    for page in range(1, _LISTED + 1):
        rows = client.tasks_page(request.project, page, _PAGE, view=request.view)
        ids += [row["id"] for row in rows if isinstance(row.get("id"), int) and _wanted(row, request)]
        if len(rows) < _PAGE:
            break
    chosen = random.Random(request.seed).sample(ids, min(request.images, len(ids)))  # noqa: S311 a choice, no secret
    found: dict[int, Mapping[str, Any]] = {}
    for start in range(0, len(chosen), _WHOLE):
        part = sorted(chosen)[start : start + _WHOLE]
        query = {"selectedItems": {"all": False, "included": part}}
        rows = client.tasks_page(request.project, 1, _WHOLE, query=query, whole=True)
        found |= {row["id"]: row for row in rows if row.get("id") in part}
    return [found[task] for task in sorted(found)]


def _wanted(row: Mapping[str, Any], request: TrialRequest) -> bool:
    return bool(row.get("total_annotations")) or not request.annotated


def _subject(context: AppContext, client: LabelStudioClient, request: TrialRequest) -> _Subject:
    project = client.project(request.project)
    row = our_connection(client.connections(request.project), context.settings.port)
    known = context.projects.known(str(request.project))
    params = row.get("extra_params") if row else known.extra_params if known else None
    adapter = known.adapter if known else ""
    plan = context.projects.plan(str(project.get("label_config") or ""), params, adapter)
    return _Subject(str(project.get("title") or ""), tuple(_of_side(plan, side) for side in request.sides))


def _of_side(plan: Plan, side: Side) -> Plan:
    """The plan with the side's prompt for all labels, its strategy, and no score threshold: the page has one."""
    change: dict[str, Any] = {"score_threshold": 0.0} | ({"strategy": side.strategy} if side.strategy else {})
    options = {name: entry.model_copy(update=change) for name, entry in plan.options.items()}
    return replace(plan, typed=side.prompt or plan.typed, options=options)


async def _tried(
    context: AppContext,
    client: LabelStudioClient,
    request: TrialRequest,
    plans: Sequence[Plan],
    row: Mapping[str, Any],
) -> Tried:
    task, config = parse_task(row), plans[0].config
    base = context.settings.label_studio_public_url or client.origin.base
    where = f"{base}/projects/{request.project}/data?task={task.id}"
    image_name, template = next(iter(config.images.items()))
    try:
        address = next(filter(None, template.addresses(task.data)))
        data, _ = await context.facilities.fetch(address, task.id)
        image = await context.facilities.decode(data)
    except (ConfigError, FetchError, ImageError) as error:
        return Tried(int(row["id"]), where, None, None, tuple(Outcome(error=str(error)) for _ in plans))
    truth = await asyncio.to_thread(_truth, row, image, _labels(plans[0], image_name))
    outcomes = [await _outcome(context, task, plan, image, image_name, truth) for plan in plans]
    small = None if truth is None else shrink_mask(truth, SHOWN_SIDE)
    return Tried(int(row["id"]), where, shrink(image, SHOWN_SIDE), small, tuple(outcomes))


async def _outcome(
    context: AppContext, task: TaskIn, plan: Plan, image: Image, image_name: str, truth: Mask | None
) -> Outcome:
    await _quiet(context)
    begun = time.perf_counter()
    try:
        answer = await context.annotator.annotate(task, plan)
    except (ConfigError, EngineError, FetchError, ImageError, PromptError, LabelStudioError) as error:
        return Outcome(seconds=time.perf_counter() - begun, error=str(error))
    seconds = time.perf_counter() - begun
    size = (image.shape[0], image.shape[1])
    regions = await asyncio.to_thread(_regions, answer.prediction, image_name, size)
    figures = {} if truth is None else await asyncio.to_thread(figures_of, regions, truth)
    small = tuple(replace(region, mask=shrink_mask(region.mask, SHOWN_SIDE)) for region in regions)
    return Outcome(small, seconds, "", figures)


async def _quiet(context: AppContext) -> None:
    """Return once nobody has waited for a prediction for a moment, which is when the next one is likely."""
    held = time.monotonic()
    while context.annotator.quiet_for < QUIET_SECONDS and time.monotonic() - held < MOST_HELD_SECONDS:
        await asyncio.sleep(0.05)


def _regions(prediction: PredictionOut, image_name: str, size: tuple[int, int]) -> tuple[Region, ...]:
    """The regions on the first page of that image; halves of a split pair are one."""
    found: dict[str, Region] = {}
    for entry in prediction.result:
        if entry.to_name != image_name or entry.item_index not in (None, 0):
            continue
        plain = entry.model_dump(mode="json", exclude_none=True)
        label = next(iter(region_labels(plain)), "")
        if entry.id in found:
            found[entry.id] = replace(found[entry.id], label=found[entry.id].label or label)
        else:
            found[entry.id] = Region(label, entry.score, decode_region(plain, size))
    return tuple(found.values())


def _labels(plan: Plan, image_name: str) -> set[str]:
    targets = plan.config.targets(image_name)
    return {name for target in targets if target.label for name in (target.label.value, target.label.output)}


def _truth(row: Mapping[str, Any], image: Image, labels: set[str]) -> Mask | None:
    """What people drew under the labels that are filled; None if nobody annotated the task, or it does not fit."""
    task = ExportedTask(f"task {row.get('id')}", row)
    annotations = task.annotations()
    if not annotations:
        return None
    size = (image.shape[0], image.shape[1])
    try:
        areas = task.areas(annotations[0], size, lambda _: None)
    except ValueError:
        return None
    return union(size, [area.mask for area in areas if not labels or not area.labels or labels & set(area.labels)])
