"""The annotated tasks of a project, read from Label Studio: what was deleted or changed meanwhile is seen here."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from int_model.core.types import Image
from int_model.evaluation.examples import BrokenExample
from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.labelstudio.exports import AnnotatedImage, ExportedTask
from ml_backend.labelstudio.label_config import ConfigError, LabelingConfig
from ml_backend.labelstudio.pages import Page, pages_of
from ml_backend.labelstudio.task_prompt import ConnectionParams, PromptError, group_by_prompt

_PAGE = 50


@dataclass(frozen=True, slots=True)
class ReadProject:
    """What a project has.

    Attributes:
        tasks: the annotated tasks that were changed last, newest first, as Label Studio lists them.
        annotations: of all annotated tasks; skipped ones are not asked for.
    """

    tasks: tuple[Mapping[str, Any], ...]
    annotations: tuple[Annotation, ...]


def read_project(
    client: LabelStudioClient, project: int, most: int, stopping: Callable[[], bool] = lambda: False
) -> ReadProject:
    """Read the annotated tasks with their annotations and predictions, page by page. Blocking.

    Args:
        client: Label Studio.
        project: its id.
        most: tasks that are kept whole.
        stopping: asked before every page; reading ends early if it says so.

    Raises:
        LabelStudioError: refused, or not there.
    """
    newest: list[tuple[str, int, Mapping[str, Any]]] = []
    annotations: list[Annotation] = []
    last = 0
    while not stopping():
        rows = client.tasks_page(project, 1, _PAGE, query=_annotated_after(last), whole=True)
        fresh = [row for row in rows if isinstance(row.get("id"), int) and row["id"] > last]
        if not fresh:
            break
        for row in fresh:
            found = list(_annotations(row))
            annotations += found
            if any(not one.was_cancelled for one in found):
                changed = max(one.updated_at for one in found).isoformat()
                heapq.heappush(newest, (changed, row["id"], row))
                if len(newest) > most:
                    heapq.heappop(newest)
        last = max(row["id"] for row in fresh)
    return ReadProject(
        tuple(row for _, _, row in sorted(newest, key=lambda e: e[:2], reverse=True)), tuple(annotations)
    )


def _annotated_after(last: int) -> dict[str, Any]:
    items = [
        {"filter": f"filter:tasks:{name}", "operator": "greater", "type": "Number", "value": value}
        for name, value in (("id", last), ("total_annotations", 0))
    ]
    return {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}


def _annotations(row: Mapping[str, Any]) -> Iterator[Annotation]:
    listed = row.get("annotations")
    for entry in listed if isinstance(listed, list) else []:
        try:
            found = Annotation.model_validate({"task": row["id"], **entry})
        except (ValidationError, TypeError):
            continue  # an annotation that cannot be read teaches nothing
        if not found.unseen:
            yield found


@dataclass(frozen=True, slots=True, eq=False)
class FetchedTasks:
    """Annotated tasks with their images, for `ml_backend.learning.corrections.Corrections`.

    Attributes:
        tasks: each task with its first image ``uint8 [H, W, 3]``, or why that cannot be had.
        config: the labeling config.
        params: of the connection.
        default: the prompt of the environment, or "".
        tell: gets a line for each region that is left out.
    """

    tasks: Iterable[tuple[Mapping[str, Any], Image | str]]
    config: LabelingConfig
    params: ConnectionParams
    default: str
    tell: Callable[[str], None]

    def annotated(self) -> Iterator[AnnotatedImage | BrokenExample]:
        """The images with the annotation that counts."""
        for content, image in self.tasks:
            task = ExportedTask(f"task {content['id']}", content)
            annotation = next(iter(task.annotations()), None)
            if isinstance(image, str) or annotation is None:
                yield BrokenExample(task.name, image if isinstance(image, str) else "it has no annotation", "")
                continue
            try:
                own = {**content, "annotations": [self._first(one) for one in task.annotations(every=True)]}
                task, annotation = ExportedTask(task.name, own), self._first(annotation)
                areas = task.areas(annotation, (image.shape[0], image.shape[1]), self.tell)
                yield AnnotatedImage(task.name, task, annotation, image, tuple(areas))
            except ValueError as error:
                yield BrokenExample(task.name, str(error), "")

    def prompts(self, entry: AnnotatedImage) -> dict[str, str]:
        """The task prompt of each label, as predictions of this task use it."""
        data = entry.task.content["data"]
        page = first_page(self.config, data)
        if page is None:
            return {}
        try:
            groups = group_by_prompt(self.config.targets(page.image.name), self.params, self.default, data)
        except PromptError:
            return {}
        return {t.label.value: g.prompt.text for g in groups for t in g.targets if t.label is not None}

    def _first(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        """The annotation with the regions of the task's first image alone."""
        result = [part for part in annotation.get("result") or () if isinstance(part, Mapping)]
        return {**annotation, "result": [part for part in result if part.get("item_index") in (None, 0)]}


def first_page(config: LabelingConfig, data: Mapping[str, Any]) -> Page | None:
    """The first image of a task that some control annotates; None where its data hold no address for it."""
    try:
        page = next(iter(pages_of(config, data)), None)
    except ConfigError:
        return None
    return page if page is not None and page.address else None
