"""A suite whose models answer each question once: variants of one method ask mostly the same on the same image.

Every item of every batched call is looked up by what it depends on (pixels, texts, masks, thresholds); only new items
go to the model. Which items share a batch changes, so answers may differ from an unshared run's in the last digits.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from int_model.core.caches import LruCache
from int_model.core.types import Image
from int_model.models.adapters.imaging import content_key
from int_model.models.protocols import Embedding, MaskPrompt, MaskProposal, PromptAdapter
from int_model.models.suite import ModelSuite

_T = TypeVar("_T")
Key = tuple[Hashable, ...]

_LISTS = {
    "dialogue": 2,
    "score": 3,
    "answer_distributions": 3,
    "contrast": 3,
    "inpaint": 4,
    "detect": 2,
    "find": 2,
    "embed_images": 1,
    "embed_texts": 1,
    "embed_patches": 1,
}
"""The models' methods, and how many of their first arguments are lists with an entry per item."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, and the seconds that it took: its part of the batch in which it was made."""

    answer: Any
    seconds: float


class SharedCalls:
    """Answers by question, the least recently used dropped first.

    Args:
        megabytes: how much memory the answers may hold.

    Attributes:
        saved: seconds that the answers given from memory took when they were made. A strategy's own cost is its wall
            time plus what ``saved`` grew by in the meantime.
    """

    def __init__(self, megabytes: int = 512) -> None:
        self._kept: LruCache[Key, _Kept] = LruCache(megabytes << 20, lambda kept: _size(kept.answer))
        self.saved = 0.0

    def ask(self, keys: Sequence[Key], call: Callable[[list[int]], Sequence[_T]]) -> list[_T]:
        """The answers to ``keys``; ``call`` is given the positions of the new ones, each key once."""
        found: dict[Key, _T] = {}
        new: dict[Key, int] = {}
        for position, key in enumerate(keys):
            if key in found or key in new:
                continue
            kept = self._kept.get(key)
            if kept is None:
                new[key] = position
            else:
                found[key] = kept.answer
                self.saved += kept.seconds
        if new:
            begun = time.perf_counter()
            answers = call(list(new.values()))
            seconds = (time.perf_counter() - begun) / len(new)
            for key, answer in zip(new, answers, strict=True):
                found[key] = answer
                self._kept[key] = _Kept(answer, seconds)
        return [found[key] for key in keys]

    def over(self, suite: ModelSuite) -> ModelSuite:
        """The suite with its models behind this memory. One memory serves one suite."""
        shared: dict[str, Any] = {
            role: None if model is None else _Shared(model, self)
            for role in ("vlm", "inpainter", "detector", "text_image", "concepts")
            for model in [getattr(suite, role)]
        }
        return replace(suite, **shared, segmenter=_Segmenter(suite.segmenter, self))


def _size(answer: Any) -> int:
    if isinstance(answer, MaskProposal):
        return answer.logits.nbytes + answer.low_res.nbytes + 64
    if isinstance(answer, list):
        return 256 + sum(_size(item) for item in answer)
    return 256 + int(getattr(getattr(answer, "soft", answer), "nbytes", 0))


def _pick(values: Sequence[_T], positions: Sequence[int]) -> list[_T]:
    return [values[i] for i in positions]


def _described(value: Any) -> Hashable:
    """What tells an argument from another one."""
    if isinstance(value, np.ndarray):
        content = np.packbits(value) if value.dtype == np.bool_ else value
        return value.dtype.str, value.shape, content_key(content) if content.size else b""
    if is_dataclass(value):
        return tuple(_described(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    told: Hashable = value
    return told


class _Shared:
    """A model behind the memory. It has exactly the attributes and batched methods that the model has."""

    def __init__(self, model: Any, shared: SharedCalls) -> None:
        self._shared = shared
        for name in ("frame", "logit_scale"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        for name, lists in _LISTS.items():
            if hasattr(model, name):
                setattr(self, name, functools.partial(self._ask, name, getattr(model, name), lists))

    def _ask(self, name: str, method: Callable[..., Any], lists: int, *arguments: Any, **options: Any) -> Any:
        columns, rest = arguments[:lists], arguments[lists:]
        common = (*map(_described, rest), *sorted(options.items()))
        keys = [(name, *map(_described, item), *common) for item in zip(*columns, strict=True)]
        answers = self._shared.ask(
            keys, lambda new: list(method(*(_pick(column, new) for column in columns), *rest, **options))
        )
        return np.stack(answers) if name.startswith("embed") else answers


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """An embedding that knows which image it is of."""

    image: bytes
    inner: Embedding

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes


class _Segmenter:
    def __init__(self, model: Any, shared: SharedCalls) -> None:
        self._model, self._shared = model, shared

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        names = [content_key(image) for image in images]
        keys: list[Key] = [("encode", name) for name in names]

        def encode(new: list[int]) -> list[Embedding]:
            made = self._model.encode(_pick(images, new))
            return [_Encoded(names[i], inner) for i, inner in zip(new, made, strict=True)]

        return self._shared.ask(keys, encode)

    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        if not isinstance(embedding, _Encoded):
            raise TypeError(f"decode takes an embedding made by this segmenter, not {type(embedding).__name__}")
        inner, adapted = embedding.inner, None if adapter is None else (adapter.identity, label)
        keys = [("decode", embedding.image, _described(prompt), multimask, adapted) for prompt in prompts]
        options = {"multimask": multimask, "adapter": adapter, "label": label}
        return self._shared.ask(keys, lambda new: self._model.decode(inner, _pick(prompts, new), **options))
