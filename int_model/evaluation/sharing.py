"""A suite whose models answer each question once: variants of one method ask mostly the same on the same image.

Every item of every batched call is looked up by what it depends on (pixels, texts, masks, thresholds); only new items
go to the model. Which items share a batch changes, so answers may differ from an unshared run's in the last digits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from int_model.core.caches import LruCache
from int_model.core.types import Detection, Floats, Image, Mask
from int_model.models.adapters.imaging import content_key
from int_model.models.protocols import (
    ConceptMask,
    Concepts,
    ContrastiveVisionLanguage,
    Detector,
    Embedding,
    Inpainter,
    MaskPrompt,
    MaskProposal,
    PromptAdapter,
    Reduce,
    Segmenter,
    TextImage,
    VisionLanguage,
)
from int_model.models.suite import ModelSuite

_T = TypeVar("_T")
Key = tuple[Hashable, ...]


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
        contrastive = isinstance(suite.vlm, ContrastiveVisionLanguage)
        return dataclasses.replace(
            suite,
            vlm=(_ContrastiveVlm if contrastive else _Vlm)(suite.vlm, self),
            inpainter=_Inpainter(suite.inpainter, self),
            detector=_Detector(suite.detector, self),
            segmenter=_Segmenter(suite.segmenter, self),
            text_image=_TextImage(suite.text_image, self),
            concepts=None if suite.concepts is None else _Concepts(suite.concepts, self),
        )


def _size(answer: Any) -> int:
    if isinstance(answer, MaskProposal):
        return answer.logits.nbytes + answer.low_res.nbytes + 64
    if isinstance(answer, list):
        return 256 + sum(_size(item) for item in answer)
    return 256 + int(getattr(getattr(answer, "soft", answer), "nbytes", 0))


def _pick(values: Sequence[_T], positions: Sequence[int]) -> list[_T]:
    return [values[i] for i in positions]


class _Vlm:
    def __init__(self, model: VisionLanguage, shared: SharedCalls) -> None:
        self._model, self._shared, self.frame = model, shared, model.frame

    def dialogue(
        self, images: Sequence[Image], questions: Sequence[Sequence[str]], max_new_tokens: Sequence[int]
    ) -> list[tuple[str, ...]]:
        limits = tuple(max_new_tokens)
        keys = [("dialogue", content_key(i), tuple(q), limits) for i, q in zip(images, questions, strict=True)]
        return self._shared.ask(
            keys, lambda new: self._model.dialogue(_pick(images, new), _pick(questions, new), max_new_tokens)
        )

    def score(
        self, images: Sequence[Image], questions: Sequence[str], names: Sequence[Sequence[str]], reduce: Reduce = "mean"
    ) -> list[Floats]:
        keys = [
            ("score", content_key(i), q, tuple(n), reduce) for i, q, n in zip(images, questions, names, strict=True)
        ]
        return self._shared.ask(
            keys, lambda new: self._model.score(_pick(images, new), _pick(questions, new), _pick(names, new), reduce)
        )

    def answer_distributions(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        keys = [("distributions", content_key(i), q, a) for i, q, a in zip(images, questions, answers, strict=True)]
        return self._shared.ask(
            keys,
            lambda new: self._model.answer_distributions(
                _pick(images, new), _pick(questions, new), _pick(answers, new)
            ),
        )


class _ContrastiveVlm(_Vlm):
    def contrast(
        self,
        images: Sequence[Image],
        others: Sequence[Image],
        questions: Sequence[Sequence[str]],
        max_new_tokens: Sequence[int],
        alpha: float,
        plausible: float = 0.0,
    ) -> list[tuple[str, ...]]:
        model: Any = self._model
        limits = tuple(max_new_tokens)
        keys = [
            ("contrast", content_key(i), content_key(o), tuple(q), limits, alpha, plausible)
            for i, o, q in zip(images, others, questions, strict=True)
        ]
        return self._shared.ask(
            keys,
            lambda new: model.contrast(
                _pick(images, new), _pick(others, new), _pick(questions, new), max_new_tokens, alpha, plausible
            ),
        )


class _Inpainter:
    def __init__(self, model: Inpainter, shared: SharedCalls) -> None:
        self._model, self._shared = model, shared

    def inpaint(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        keys = [
            ("inpaint", content_key(i), np.packbits(m).tobytes(), p, n)
            for i, m, p, n in zip(images, masks, positive, negative, strict=True)
        ]
        return self._shared.ask(
            keys,
            lambda new: self._model.inpaint(
                _pick(images, new), _pick(masks, new), _pick(positive, new), _pick(negative, new)
            ),
        )


class _Detector:
    def __init__(self, model: Detector, shared: SharedCalls) -> None:
        self._model, self._shared = model, shared

    def detect(
        self, images: Sequence[Image], names: Sequence[str], *, box_threshold: float, text_threshold: float
    ) -> list[list[Detection]]:
        keys = [
            ("detect", content_key(i), n, box_threshold, text_threshold) for i, n in zip(images, names, strict=True)
        ]
        return self._shared.ask(
            keys,
            lambda new: self._model.detect(
                _pick(images, new), _pick(names, new), box_threshold=box_threshold, text_threshold=text_threshold
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """An embedding that knows which image it is of."""

    image: bytes
    inner: Embedding

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes


class _Segmenter:
    def __init__(self, model: Segmenter, shared: SharedCalls) -> None:
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
        keys = [("decode", embedding.image, multimask, adapted, *_described(prompt)) for prompt in prompts]
        return self._shared.ask(
            keys,
            lambda new: self._model.decode(
                inner, _pick(prompts, new), multimask=multimask, adapter=adapter, label=label
            ),
        )


def _described(prompt: MaskPrompt) -> Key:
    mask = None if prompt.mask_input is None else prompt.mask_input.tobytes()
    return (prompt.box, prompt.points.tobytes(), prompt.labels.tobytes(), mask)


class _Concepts:
    def __init__(self, model: Concepts, shared: SharedCalls) -> None:
        self._model, self._shared = model, shared

    def find(self, images: Sequence[Image], names: Sequence[str], *, threshold: float) -> list[list[ConceptMask]]:
        keys = [("find", content_key(i), n, threshold) for i, n in zip(images, names, strict=True)]
        return self._shared.ask(
            keys, lambda new: self._model.find(_pick(images, new), _pick(names, new), threshold=threshold)
        )


class _TextImage:
    def __init__(self, model: TextImage, shared: SharedCalls) -> None:
        self._model, self._shared, self.logit_scale = model, shared, model.logit_scale

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        keys: list[Key] = [("embed", content_key(image)) for image in images]
        return np.stack(self._shared.ask(keys, lambda new: list(self._model.embed_images(_pick(images, new)))))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        keys: list[Key] = [("text", text) for text in texts]
        return np.stack(self._shared.ask(keys, lambda new: list(self._model.embed_texts(_pick(texts, new)))))

    def embed_patches(self, images: Sequence[Image]) -> NDArray[np.float32]:
        keys: list[Key] = [("patches", content_key(image)) for image in images]
        return np.stack(self._shared.ask(keys, lambda new: list(self._model.embed_patches(_pick(images, new)))))
