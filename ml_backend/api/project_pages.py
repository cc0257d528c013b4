"""Projects as pages: which there are, what each looks for, what it still needs. Server-rendered, without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from int_model.html.environment import render
from int_model.strategies.registry import STRATEGIES
from ml_backend.connect.labeling import CONTROLS
from ml_backend.connect.plan import Plan, Wanted
from ml_backend.doctor.diagnosis import Diagnosis, Level
from ml_backend.labelstudio.connections import VERSION_PREFIX, prelabel_obstacles
from ml_backend.labelstudio.label_config import ConfigError, parse_label_config
from ml_backend.labelstudio.task_prompt import PromptError, parse_extra_params, prompt_of

_TONES = {Level.OK: "good", Level.WARNING: "warn", Level.PROBLEM: "bad"}


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """What is looked for under one label, and where that prompt comes from."""

    label: str
    prompt: str
    source: str


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project as the pages show it.

    Attributes:
        id: in Label Studio.
        title: in Label Studio.
        tasks: how many.
        predictions: how many, of all versions.
        annotations: how many.
        prompts: by label; empty where the backend has not been introduced to the project, or its config cannot be used.
        version: of this backend's next predictions, or "".
        address: of the project in Label Studio.
        remarks: what in its settings keeps annotators from seeing predictions, as far as the list of projects tells.
    """

    id: int
    title: str
    tasks: int
    predictions: int
    annotations: int
    prompts: tuple[LabelPrompt, ...]
    version: str
    address: str
    remarks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        prompts = [{"label": one.label, "prompt": one.prompt, "source": one.source} for one in self.prompts]
        names = ("id", "title", "tasks", "predictions", "annotations", "version", "address")
        return {name: getattr(self, name) for name in names} | {"prompts": prompts, "remarks": list(self.remarks)}


def view_of(row: Mapping[str, Any], base: str, extra_params: Any, default: str, version: str) -> ProjectView:
    """A project from Label Studio's description.

    Args:
        row: one of ``/api/projects``.
        base: Label Studio's address.
        extra_params: of the connection, as ``/setup`` brought them.
        default: the prompt of the environment.
        version: of the next predictions, or "" if the backend does not know the project.
    """
    number = int(row["id"])
    return ProjectView(
        id=number,
        title=str(row.get("title") or ""),
        tasks=int(row.get("task_number") or 0),
        predictions=int(row.get("total_predictions_number") or 0),
        annotations=int(row.get("total_annotations_number") or 0),
        prompts=_prompts(str(row.get("label_config") or ""), extra_params, default) if version else (),
        version=version,
        address=f"{base}/projects/{number}/data",
        remarks=tuple(obstacle.text for obstacle in prelabel_obstacles(row, version, _own_choice(row)))
        if version
        else (),
    )


def _own_choice(row: Mapping[str, Any]) -> str:
    """The project's choice where it is no version of ours: the title of a connection, which the list does not tell."""
    chosen = str(row.get("model_version") or "")
    return "" if chosen.startswith(VERSION_PREFIX) else chosen


def list_page(projects: Sequence[ProjectView], more: bool) -> str:
    """The page ``/projects``; ``more``: there are others that are not listed."""
    return _render("projects.html.j2", "", projects=projects, more=more)


def project_page(
    view: ProjectView, findings: Sequence[Diagnosis], plans: Sequence[Plan], wanted: Wanted, refused: str = ""
) -> str:
    """The page of one project.

    Args:
        view: the project.
        findings: of the doctor.
        plans: what connecting it as ``wanted`` would change.
        wanted: what the form asks for.
        refused: why it cannot be connected so, or "".
    """
    changes = [change.text for plan in plans for change in plan.changes]
    remarks = [remark for plan in plans for remark in plan.remarks]
    difference = [line for plan in plans for line in plan.difference()]
    return _render(
        "project.html.j2",
        "../",
        view=view,
        findings=findings,
        tones=_TONES,
        changes=changes,
        remarks=remarks,
        difference=difference,
        wanted=wanted,
        controls=list(CONTROLS),
        strategies=list(STRATEGIES),
        refused=refused,
    )


def _prompts(config: str, extra_params: Any, default: str) -> tuple[LabelPrompt, ...]:
    try:
        parsed = parse_label_config(config)
    except ConfigError:
        return ()
    params, found = parse_extra_params(extra_params), []
    for target in (target for image in parsed.images for target in parsed.targets(image)):
        name = target.label.value if target.label else target.control.name
        try:
            found.append(LabelPrompt(name, *prompt_of(target, params, default, {})))
        except PromptError as error:
            found.append(LabelPrompt(name, "", str(error)))
    return tuple(dict.fromkeys(found))


def _render(template: str, root: str, **values: Any) -> str:
    return render("ml_backend.api", template, root=root, busy=False, **values)
