"""What ``/projects/ID/learning`` answers, for the OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class HeldOutOut(_Out):
    """Mean IoU on held-out images with given prompts; null where the report does not say."""

    base: float | None
    own: float | None


class GainOut(_Out):
    """What the gate judged: the mean gain over what served, its lower bound, and on how many images."""

    value: float
    lower: float
    images: int


class EndToEndOut(_Out):
    """Mean union IoU with the strategy's own prompts."""

    before: float
    after: float


class VersionOut(_Out):
    """A version; ``verdict`` is the gate's, in words."""

    name: str
    id: str
    serving: bool
    accepted: bool
    arm: str
    images: int
    verdict: str
    held_out_iou: HeldOutOut
    gain: GainOut | None
    end_to_end: EndToEndOut | None
    parent: str
    run: str
    created_at: str


class EffortOut(_Out):
    """What images cost that began with a version: median seconds, mean human correction efforts (HCE)."""

    version: str
    images: int
    seconds: float | None
    correction_efforts: float | None
    compared: int


class LearningOut(_Out):
    """What a project learned."""

    project: int
    serving: str
    corrections: int
    versions: list[VersionOut]
    efforts: list[EffortOut]
    history: list[dict[str, Any]]


class ServingOut(_Out):
    """What serves now."""

    project: int
    serving: str
    id: str
