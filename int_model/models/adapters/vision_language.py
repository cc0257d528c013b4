"""``HFVisionLanguage``: any image-text-to-text model of transformers behind the ``VisionLanguage`` Protocol."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessorList

from int_model.core.caches import LruCache
from int_model.core.types import Floats, Image
from int_model.models.adapters.chat import Chat, Message
from int_model.models.adapters.contrastive import ContrastBranch
from int_model.models.adapters.conversation import Conversation, is_plain_greedy
from int_model.models.adapters.imaging import by_size, content_key, same_length
from int_model.models.adapters.quantisation import check_quantised, quantisation
from int_model.models.adapters.reading import Kept, Read, Reader
from int_model.models.adapters.reducers import REDUCERS
from int_model.models.adapters.teacher_forcing import TeacherForcing
from int_model.models.adapters.templates import chat_template
from int_model.models.adapters.vlm_inputs import (
    ImageFitting,
    InputBuilder,
    ProcessorInputs,
    ProjectedInputs,
    VlmInputs,
)
from int_model.models.device import in_batches
from int_model.models.profile import VisionLanguageRole
from int_model.models.protocols import Answer, CoordinateFrame, Reduce
from int_model.models.weights import Source, WeightsError

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One image with its rendered prompt and the answers to force, as token ids."""

    image: Image
    prompt: str
    answers: tuple[tuple[int, ...], ...]


Prefix = tuple[bytes, tuple[int, ...]]
"""What tells one beginning of a prompt from another: the image and the token ids up to it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Contrast:
    """The images of the second branch, its weight, and how likely a token must be."""

    images: Sequence[Image]
    alpha: float
    plausible: float


class HFVisionLanguage:
    """An image-text-to-text model with its processor.

    Prompts are rendered by the processor's chat template; decoding is greedy; batches are padded on the left.

    Args:
        model: ``AutoModelForImageTextToText`` in evaluation mode.
        processor: its processor, with a chat template.
        settings: the role's options (``id``, ``dtype`` and ``quantize`` were used by ``load``).
    """

    def __init__(self, model: Any, processor: Any, settings: VisionLanguageRole) -> None:
        self.frame = CoordinateFrame(padded=settings.padded, units=settings.units)
        self._model = model
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._chat = Chat(processor)
        self._max_batch = settings.max_batch
        self._inputs = _input_builder(model, processor, settings)
        self._forcing = TeacherForcing(model, share_prefix=settings.share_prefix, max_rows=settings.max_batch)
        self._generation = self._greedy_config()
        self._reader = Reader(model)
        self._shares = settings.share_prefix and is_plain_greedy(self._generation)
        self._kept: LruCache[Prefix, Kept] = LruCache(settings.prefix_cache_mb << 20, lambda kept: kept.nbytes)

    # ---------------------------------------------------------------- dialogue

    def dialogue(
        self, images: Sequence[Image], questions: Sequence[Sequence[str]], max_new_tokens: Sequence[int]
    ) -> list[tuple[str, ...]]:
        same_length(images=images, questions=questions)
        if any(len(turns) != len(max_new_tokens) for turns in questions):
            raise ValueError("every image is asked as many questions as max_new_tokens has entries")

        def hold(batch: Sequence[int]) -> list[tuple[str, ...]]:
            return self._hold([images[i] for i in batch], [questions[i] for i in batch], max_new_tokens)

        self._kept.clear()
        order = by_size(images)
        with torch.inference_mode():
            answers = dict(zip(order, in_batches(order, self._max_batch, hold), strict=True))
        return [answers[i] for i in range(len(images))]

    def contrast(
        self,
        images: Sequence[Image],
        others: Sequence[Image],
        questions: Sequence[Sequence[str]],
        max_new_tokens: Sequence[int],
        alpha: float,
        plausible: float = 0.0,
    ) -> list[tuple[str, ...]]:
        same_length(images=images, others=others, questions=questions)
        if any(len(turns) != len(max_new_tokens) for turns in questions):
            raise ValueError("every image is asked as many questions as max_new_tokens has entries")

        def hold(batch: Sequence[int]) -> list[tuple[str, ...]]:
            against = _Contrast([others[i] for i in batch], alpha, plausible)
            return self._hold([images[i] for i in batch], [questions[i] for i in batch], max_new_tokens, against)

        with torch.inference_mode():
            return in_batches(range(len(images)), self._max_batch, hold)

    def _hold(
        self,
        images: Sequence[Image],
        questions: Sequence[Sequence[str]],
        limits: Sequence[int],
        against: _Contrast | None = None,
    ) -> list[tuple[str, ...]]:
        chats: list[list[Message]] = [[] for _ in images]
        answers: list[list[Answer]] = [[] for _ in images]
        talk: Conversation | None = None
        for turn, limit in enumerate(limits):
            for chat, turns in zip(chats, questions, strict=True):
                chat.append(self._chat.question(turns[turn], with_image=turn == 0))
            texts = [self._chat.render(chat) for chat in chats]
            if turn == 0:
                talk = None if against is not None else self._begin(images, texts)
            elif talk is not None and not talk.ask([self._chat.ids(text) for text in texts]):
                talk = None
            if talk is None:
                replies = self._generate(images, texts, limit, against)
            else:
                replies = self._decoded(*talk.answer(limit))
            for chat, said, reply in zip(chats, answers, replies, strict=True):
                chat.append(self._chat.answer(reply))
                said.append(reply)
        return [tuple(said) for said in answers]

    def _generate(
        self, images: Sequence[Image], texts: Sequence[str], max_new_tokens: int, against: _Contrast | None
    ) -> list[Answer]:
        inputs = self._inputs(images, texts)
        config = copy.deepcopy(self._generation)
        config.max_new_tokens = max_new_tokens
        skip = inputs.mask.shape[1] if inputs.echoes_prompt else 0
        processors = LogitsProcessorList()
        if against is not None:
            other = self._inputs(against.images, texts)
            alpha, plausible = against.alpha, against.plausible
            processors.append(ContrastBranch(self._model, other, skip=skip, alpha=alpha, plausible=plausible))
        ids = self._model.generate(**inputs.tensors, generation_config=config, logits_processor=processors)[:, skip:]
        ends = torch.tensor(self._end_tokens(), device=ids.device)
        ended = torch.isin(ids, ends).any(dim=1).tolist() if len(ends) else [ids.shape[1] < max_new_tokens] * len(ids)
        return self._decoded(ids, ended)

    def _decoded(self, ids: Any, ended: Sequence[bool]) -> list[Answer]:
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [Answer(text.strip(), ended=done) for text, done in zip(texts, ended, strict=True)]

    # ---------------------------------------------------------------- what has been read

    def _begin(self, images: Sequence[Image], texts: Sequence[str]) -> Conversation | None:
        """A conversation that has read the first prompts; None where the model's cache cannot be gone on from.

        What it has read of each image is kept for the first scoring after this dialogue.
        """
        prompts = [self._chat.ids(text) for text in texts]
        anchors = [anchor for prompt in prompts if (anchor := self._chat.anchor(prompt)) is not None]
        if not self._shares or len(anchors) < len(prompts):
            return None
        inputs = self._inputs(images, texts)
        tails = [prompt[anchor:] for prompt, anchor in zip(prompts, anchors, strict=True)]
        read = self._reader.prefill(inputs) if _ends_with(inputs, tails) else None
        if read is None:
            self._shares = False
            return None
        for row, (image, prompt, anchor) in enumerate(zip(images, prompts, anchors, strict=True)):
            key = content_key(image), tuple(prompt[:anchor])
            tokens = int(inputs.mask[row].sum()) - len(tails[row])
            if key not in self._kept and self._kept.currsize + Reader.size(read, tokens) <= self._kept.maxsize:
                self._kept[key] = Reader.keep(read, row, tokens)
        pad = int(self._tokenizer.pad_token_id or 0)
        return Conversation(self._reader, read, prompts, anchors, self._end_tokens(), pad)

    def _greedy_config(self) -> Any:
        config = copy.deepcopy(self._model.generation_config)
        # A checkpoint's own sampling and penalty settings would make answers random, or differ from what `score` sees.
        config.do_sample, config.num_beams, config.repetition_penalty, config.max_length = False, 1, 1.0, None
        config.temperature = config.top_p = config.top_k = None
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id
        return config

    # ---------------------------------------------------------------- scoring

    def score(
        self, images: Sequence[Image], questions: Sequence[str], names: Sequence[Sequence[str]], reduce: Reduce = "mean"
    ) -> list[Floats]:
        same_length(images=images, questions=questions, names=names)
        reducer = REDUCERS[reduce]

        def probability(logits: Tensor, ids: Tensor) -> float:
            logs = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[:, None])[:, 0]
            return reducer(logs.double().cpu().numpy())

        if reduce != "prod":
            forced = self._force(images, questions, names, probability)
            return [np.array(row, dtype=np.float64) for row in forced]
        forms = [[self._chat.forms(name) for name in row] for row in names]
        flat = [[form for own in row for form in own] for row in forms]
        each = [iter(row) for row in self._force(images, questions, flat, probability, ended=True)]
        return [
            np.array([math.fsum(next(values) for _ in own) for own in row], dtype=np.float64)
            for row, values in zip(forms, each, strict=True)
        ]

    def answer_distributions(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        same_length(images=images, questions=questions, answers=answers)

        def distribution(logits: Tensor, ids: Tensor) -> NDArray[np.float32]:  # noqa: ARG001
            return torch.softmax(logits.float(), dim=-1).cpu().numpy()

        return [row[0] for row in self._force(images, questions, [[answer] for answer in answers], distribution)]

    def _force(
        self,
        images: Sequence[Image],
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        pick: Callable[[Tensor, Tensor], R],
        *,
        ended: bool = False,
    ) -> list[list[R]]:
        """``pick(logits [T, V], ids [T])`` for every answer. Equal (image, question, answers) are computed once.

        ``ended``: the token that ends an answer is the last of the T.
        """
        end = self._end_token() if ended else ()
        jobs: dict[tuple[bytes, str, tuple[str, ...]], _Job] = {}
        keys = []
        for image, question, row in zip(images, questions, answers, strict=True):
            key = (content_key(image), question, tuple(row))
            if key not in jobs:
                prompt = self._chat.render([self._chat.question(question, with_image=True)])
                forced = tuple((*self._chat.continuation(question, prompt, answer), *end) for answer in row)
                jobs[key] = _Job(image, prompt, forced)
            keys.append(key)

        def work(batch: Sequence[_Job]) -> list[list[R]]:
            build = lambda rows: self._inputs([batch[i].image for i in rows], [batch[i].prompt for i in rows])  # noqa: E731
            return self._forcing.run(build, [job.answers for job in batch], pick, self._known(batch))

        done: dict[tuple[bytes, str, tuple[str, ...]], list[R]] = {}
        with torch.inference_mode():
            for todo in self._by_kept(jobs):
                done.update(zip(todo, in_batches([jobs[k] for k in todo], self._max_batch, work), strict=True))
        self._kept.clear()
        return [done[key] for key in keys]

    def _by_kept(self, jobs: Mapping[K, _Job]) -> list[list[K]]:
        """The jobs whose image a dialogue has left read, and the others, each ordered by size."""
        keys = list(jobs)
        keys = [keys[i] for i in by_size([job.image for job in jobs.values()])]
        known = {key for key in keys if self._prefix(jobs[key]) is not None}
        return [[key for key in keys if (key in known) == wanted] for wanted in (True, False)]

    def _prefix(self, job: _Job) -> tuple[Kept, list[int]] | None:
        """What is kept of a job's prompt, and the token ids after it."""
        prompt = self._chat.ids(job.prompt)
        anchor = self._chat.anchor(prompt)
        kept = None if anchor is None else self._kept.get((content_key(job.image), tuple(prompt[:anchor])))
        return None if kept is None or anchor is None else (kept, prompt[anchor:])

    def _known(self, batch: Sequence[_Job]) -> Callable[[], Read] | None:
        found = [self._prefix(job) for job in batch] if self._kept else []
        pairs = [pair for pair in found if pair is not None]
        if not pairs or len(pairs) < len(batch):
            return None
        return lambda: self._reader.join([kept for kept, _ in pairs], [text for _, text in pairs])

    def _end_token(self) -> tuple[int, ...]:
        """The token at which this model's answers end, the first of several; nothing where it has none."""
        return self._end_tokens()[:1]

    def _end_tokens(self) -> tuple[int, ...]:
        ends = self._generation.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        return tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (int(ends),)


def _ends_with(inputs: VlmInputs, tails: Sequence[Sequence[int]]) -> bool:
    """Whether every row of a batch ends with the token ids that its text alone has after the image."""
    rows = inputs.ids.tolist()
    return all(row[len(row) - len(tail) :] == list(tail) for row, tail in zip(rows, tails, strict=True))


def _input_builder(model: Any, processor: Any, settings: VisionLanguageRole) -> InputBuilder:
    fit = ImageFitting(processor.image_processor, padded=settings.padded, max_side=settings.max_side)
    if model.config.model_type == "llava":
        return ProjectedInputs(model, processor, fit, cache_bytes=settings.feature_cache_mb << 20)
    return ProcessorInputs(model, processor, fit)


def load(settings: VisionLanguageRole, source: Source) -> HFVisionLanguage:
    """Load the model and its processor. Raises ``WeightsError``, ``ValueError`` for an unknown chat template."""
    processor = source.read(AutoProcessor.from_pretrained, "processor")
    if settings.chat_template:
        processor.chat_template = chat_template(settings.chat_template)
    if not getattr(processor, "chat_template", None):
        raise WeightsError(
            f"the processor of the role '{source.role}' ({source.location}) has no chat template: add a "
            f"chat_template.jinja to its folder, or set {source.role}.chat_template or {source.role}.id to a chat model"
        )
    options: dict[str, Any] = {}
    if source.device.type == "cuda":
        options["device_map"] = {"": source.device}
    if settings.quantize == "none":
        return HFVisionLanguage(source.model(AutoModelForImageTextToText, **options), processor, settings)
    options["quantization_config"] = quantisation(settings.quantize, source)
    model = source.model(AutoModelForImageTextToText, **options)
    check_quantised(model, source.role)
    return HFVisionLanguage(model, processor, settings)
