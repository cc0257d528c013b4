"""One Label Studio project per task prompt, each telling the prompt in another of the documented ways."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from ml_backend.connect.labeling import amended
from ml_backend.demo.samples import Sample


@dataclass(frozen=True, slots=True)
class ProjectPlan:
    """What to create: title, labeling config, samples, and the connection's extra parameters (the prompt) if used."""

    title: str
    task: str
    label: str
    kind: str
    label_config: str
    extra_params: str | None
    samples: tuple[Sample, ...]


def _config(kind: str, label: str, prompt: str | None) -> str:
    """A mask control, with the colours and the tools for clicks and boxes that ``int-backend connect`` adds."""
    attribute = "" if prompt is None else f" model_prompt={quoteattr(prompt)}"
    plain = (
        f'<View><{kind} name="mask" toName="image"><Label value={quoteattr(label)}{attribute}/></{kind}>'
        '<Image name="image" value="$image" zoom="true" zoomControl="true"/></View>'
    )
    return amended(plain, control=None, label=label, field="image", smart=True)[0]


def plan_projects(groups: dict[str, list[Sample]]) -> list[ProjectPlan]:
    """Alternate polygons with the prompt on the ``<Label>``, and brush masks with it in the connection's parameters."""
    plans = []
    for index, (task, samples) in enumerate(groups.items()):
        kind = ("PolygonLabels", "BrushLabels")[index % 2]
        on_label = index % 2 == 0
        label = task.split()[-1].capitalize()
        plans.append(
            ProjectPlan(
                title=f"INT: {task}"[:50],
                task=task,
                label=label,
                kind=kind,
                label_config=_config(kind, label, task if on_label else None),
                extra_params=None if on_label else task,
                samples=tuple(samples),
            )
        )
    return plans
