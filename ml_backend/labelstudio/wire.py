"""Label Studio's payloads: tolerant of what comes in, exact in what goes out."""

from __future__ import annotations

import math
import secrets
import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_ALPHABET = string.ascii_letters + string.digits


class RequestError(ValueError):
    """The request's body cannot be understood; the message says what was expected."""


def project_key(value: Any) -> str:
    """A project's key: the text before the dot of ``1.1795238777``, or an id, or ""."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        value = str(int(value)) if math.isfinite(value) else ""
    return clean_text(str(value)).strip().partition(".")[0][:64]


def clean_text(value: Any) -> str:
    """Text that can be stored and sent: without lone surrogates; "" for anything that is no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


ProjectKey = Annotated[str, BeforeValidator(project_key)]
Text = Annotated[str, BeforeValidator(clean_text)]


class _In(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class SetupIn(_In):
    """``POST /setup``. The token in it is never read."""

    project: ProjectKey = ""
    label_config: Text = Field("", alias="schema")
    extra_params: Any = None


class TaskIn(_In):
    """One task of ``POST /predict``; annotations, drafts and predictions in it are not read."""

    id: Annotated[int | None, BeforeValidator(_number)] = None
    data: Annotated[dict[str, Any], BeforeValidator(lambda value: value if isinstance(value, Mapping) else {})] = Field(
        default_factory=dict
    )


class PredictIn(_In):
    """``POST /predict``. ``tasks`` keeps one entry per task whatever it holds, so that as many results go back."""

    tasks: list[Any]
    project: ProjectKey = ""
    label_config: Text = ""
    context: Annotated[
        dict[str, Any] | None, BeforeValidator(lambda value: dict(value) if isinstance(value, Mapping) else None)
    ] = None

    @property
    def is_interactive(self) -> bool:
        """Whether an annotator waits for the answer; an empty context says nothing of one."""
        return bool(self.context)

    @property
    def typed_prompt(self) -> str:
        """What the annotator typed into a TextArea, the last of several; or ""."""
        regions = (self.context or {}).get("result")
        typed = ""
        for region in regions if isinstance(regions, list) else []:
            if isinstance(region, Mapping) and str(region.get("type", "")).lower() == "textarea":
                value = region.get("value")
                texts = value.get("text") if isinstance(value, Mapping) else None
                texts = texts if isinstance(texts, list) else [texts]
                typed = next((t for t in reversed(texts) if isinstance(t, str) and t.strip()), typed)
        return clean_text(typed).strip()


class RegionOut(BaseModel):
    """One entry of a prediction's ``result``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    from_name: str
    to_name: str
    type: str
    value: dict[str, Any]
    original_width: int = Field(ge=1)
    original_height: int = Field(ge=1)
    image_rotation: Literal[0] = 0
    score: float = Field(ge=0.0, le=1.0, allow_inf_nan=False)
    meta: dict[str, list[str]] | None = None
    origin: Literal["prediction"] = "prediction"
    item_index: int | None = None


class PredictionOut(BaseModel):
    """One prediction. ``result`` may be empty: looked, found nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    result: list[RegionOut] = Field(default_factory=list)
    score: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    model_version: str

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the fields that are not set."""
        return self.model_dump(mode="json", exclude_none=True)


def parse_setup(body: Any) -> SetupIn:
    """A ``/setup`` body. Raises ``RequestError``."""
    return SetupIn.model_validate(_object(body))


def parse_predict(body: Any) -> PredictIn:
    """A ``/predict`` body. Raises ``RequestError`` if it has no list of tasks."""
    plain = _object(body)
    params = plain.get("params")
    context = params.get("context") if isinstance(params, Mapping) else None
    if not isinstance(plain.get("tasks"), list):
        raise RequestError('the body needs "tasks", a list of tasks')
    return PredictIn.model_validate({**plain, "context": context})


def parse_task(entry: Any) -> TaskIn:
    """One task, whatever it is."""
    return TaskIn.model_validate(dict(entry) if isinstance(entry, Mapping) else {})


def with_fresh_ids(prediction: dict[str, Any]) -> dict[str, Any]:
    """The prediction with new region ids; the halves of a split pair keep sharing theirs."""
    ids: dict[str, str] = {}
    result = [{**region, "id": ids.setdefault(region["id"], fresh_id())} for region in prediction["result"]]
    return {**prediction, "result": result}


def fresh_id() -> str:
    """A new region id; 12 letters and digits do not collide."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(12))


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, Mapping):
        raise RequestError("the body needs to be a JSON object")
    return {str(key): value for key, value in body.items()}
