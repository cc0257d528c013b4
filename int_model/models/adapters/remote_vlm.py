"""``RemoteVisionLanguage``: a model behind an OpenAI-compatible server (vLLM's dialect). Knows no torch.

A dialogue is one chat per image, the image first, so that the server's prefix cache holds it for the later turns.
Answers are scored along the trie of their tokens: one request per inner node, which asks for one token and for the
log-probabilities of that node's children (``logprob_token_ids``; servers that do not know it give the likeliest 20).
Where a child is missing from the answer, its answer is scored by ``prompt_logprobs``, which every vLLM knows but which
bypasses the prefix cache.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.core.caches import LruCache
from int_model.core.types import Floats, Image, check_image
from int_model.models.adapters.imaging import CLIP_MEAN, pad_to_square, same_length, shrink, to_pil
from int_model.models.adapters.openai_client import OpenAIClient, ServerRefusalError
from int_model.models.adapters.reducers import REDUCERS
from int_model.models.profile import OpenAIRole
from int_model.models.protocols import Answer, CoordinateFrame, Reduce

_TOP = 20
_SPECIAL = re.compile(r"^<[^<>\s]+>$")
Ids = tuple[int, ...]
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Node:
    """A place in the trie of an image's answers: what was said so far, and what may come next."""

    job: int
    said: Ids
    children: Ids


class RemoteVisionLanguage:
    """A vision-language model on a server.

    Args:
        settings: the server, the model's name there, and what the model sees of an image.
        client: for tests; made from the settings by default.
    """

    def __init__(self, settings: OpenAIRole, client: OpenAIClient | None = None) -> None:
        self.frame = CoordinateFrame(padded=settings.padded, units=settings.units)
        self._settings = settings
        self._client = client or OpenAIClient(settings)
        self._tokens: LruCache[tuple[str, str], Ids] = LruCache(4096)

    # ---------------------------------------------------------------- dialogue

    def dialogue(
        self, images: Sequence[Image], questions: Sequence[Sequence[str]], max_new_tokens: Sequence[int]
    ) -> list[tuple[str, ...]]:
        same_length(images=images, questions=questions)
        if any(len(turns) != len(max_new_tokens) for turns in questions):
            raise ValueError("every image is asked as many questions as max_new_tokens has entries")

        def hold(index: int) -> tuple[str, ...]:
            chat: list[Message] = []
            answers: list[Answer] = []
            for question, limit in zip(questions[index], max_new_tokens, strict=True):
                chat.append(self._question(question, None if chat else images[index]))
                answers.append(self._client.post("/v1/chat/completions", self._asking(chat, limit), _said))
                chat.append(_answer(str(answers[-1])))
            return tuple(answers)

        return self._client.all(hold, range(len(images)))

    def _asking(self, chat: Sequence[Message], limit: int) -> dict[str, Any]:
        return {"messages": list(chat), "max_tokens": limit, "temperature": 0.0}

    def _question(self, text: str, image: Image | None) -> Message:
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if image is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": self._url(image)}})
        return {"role": "user", "content": content}

    def _url(self, image: Image) -> str:
        """The image as the model shall see it, without loss."""
        check_image(image)
        if self._settings.max_side:
            image = shrink(image, self._settings.max_side)
        if self._settings.padded:
            image = pad_to_square(image, CLIP_MEAN)
        out = io.BytesIO()
        to_pil(image).save(out, format="PNG", compress_level=1)
        return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"

    # ---------------------------------------------------------------- scoring

    def score(
        self, images: Sequence[Image], questions: Sequence[str], names: Sequence[Sequence[str]], reduce: Reduce = "mean"
    ) -> list[Floats]:
        same_length(images=images, questions=questions, names=names)
        reducer = REDUCERS[reduce]
        if reduce != "prod":
            rows = self._log_probabilities(images, questions, names, ended=False)
            return [np.array([reducer(logs) for logs in row], dtype=np.float64) for row in rows]
        forms = [[self._forms(question, name) for name in row] for question, row in zip(questions, names, strict=True)]
        flat = [[form for own in row for form in own] for row in forms]
        each = [iter(row) for row in self._log_probabilities(images, questions, flat, ended=True)]
        return [
            np.array([math.fsum(reducer(next(values)) for _ in own) for own in row], dtype=np.float64)
            for row, values in zip(forms, each, strict=True)
        ]

    def answer_distributions(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Raises ``ValueError``: no server gives out the distribution over its whole vocabulary."""
        del images, questions, answers
        raise ValueError("score.domain = 'vocab' needs a model on this machine; set it to candidates")

    def _log_probabilities(
        self, images: Sequence[Image], questions: Sequence[str], names: Sequence[Sequence[str]], *, ended: bool
    ) -> list[list[Floats]]:
        """Log-probabilities ``float64 [T]`` of each answer's tokens."""
        end = self._end() if ended else ()
        answers = [[self._ids(q, name) + end for name in row] for q, row in zip(questions, names, strict=True)]
        chats = [[self._question(question, image)] for image, question in zip(images, questions, strict=True)]
        nodes = [
            _Node(job, said, tuple(sorted(children)))
            for job, row in enumerate(answers)
            for said, children in _trie(row).items()
        ]
        found = self._client.all(lambda node: self._visit(chats[node.job], questions[node.job], node), nodes)
        known = {
            (node.job, (*node.said, child)): value
            for node, row in zip(nodes, found, strict=True)
            for child, value in row.items()
        }

        def logs(place: tuple[int, int]) -> Floats:
            job, number = place
            ids = answers[job][number]
            steps = [known.get((job, ids[: step + 1])) for step in range(len(ids))]
            inner = len(ids) - len(end)
            if None in steps[:inner]:
                steps[:inner] = self._forced(chats[job], names[job][number], ids[:inner])
            if None in steps:
                raise ServerRefusalError(
                    "the model server does not give the probability of the token that ends an answer: it needs "
                    "logprob_token_ids (a newer vLLM), or set score.reduce to mean"
                )
            return np.array(steps, dtype=np.float64)

        places = [(job, number) for job, row in enumerate(answers) for number in range(len(row))]
        each = iter(self._client.all(logs, places))
        return [[next(each) for _ in row] for row in answers]

    def _visit(self, chat: list[Message], question: str, node: _Node) -> dict[int, float]:
        """Log-probabilities of a node's children; without those that the server did not give."""
        body = self._asking(chat, 1)
        if node.said:
            told = self._text(node.said)
            if not told.strip() or self._ids(question, told) != node.said:
                return {}  # what was said so far cannot be said in a text
            body = {**body, **_continuing([*chat, _answer(told.strip())])}
        wanted = {"logprobs": True, "top_logprobs": _TOP, "logprob_token_ids": list(node.children)}
        given = self._client.post(
            "/v1/chat/completions", {**body, **wanted, "return_tokens_as_token_ids": True}, _first_log_probabilities
        )
        return {child: given[child] for child in node.children if child in given}

    def _forced(self, chat: list[Message], name: str, ids: Ids) -> list[float]:
        """The whole answer in the prompt; its tokens are the last ones there."""
        body = self._asking(chat, 1) | _continuing([*chat, _answer(name.strip())]) | {"prompt_logprobs": 1}
        return self._client.post("/v1/chat/completions", body, lambda answer: _last(answer, ids))

    # ---------------------------------------------------------------- tokens

    def _ids(self, question: str, answer: str) -> Ids:
        """The token ids of an answer as the model would write it after its prompt."""
        answer = answer.strip()
        if not answer:
            raise ValueError("an answer to be scored is not blank")
        key = question, answer
        known = self._tokens.get(key)
        if known is None:
            chat = [{"role": "user", "content": [{"type": "text", "text": question}]}]
            before = self._client.post("/tokenize", {"messages": chat, "add_generation_prompt": True}, _tokens)
            both = self._client.post("/tokenize", _continuing([*chat, _answer(answer)]), _tokens)
            if both[: len(before)] != before:
                raise ServerRefusalError("the model server's chat template does not put an answer behind its prompt")
            known = both[len(before) :]
            self._tokens[key] = known
        return known

    def _end(self) -> Ids:
        """The token that ends an answer. Raises ``ServerRefusalError`` if it has to be named."""
        if self._settings.end_token:
            asked = {"prompt": self._settings.end_token, "add_special_tokens": False}
            return self._client.post("/tokenize", asked, _tokens)
        chat = [{"role": "user", "content": [{"type": "text", "text": "?"}]}, _answer("x")]
        before = self._client.post("/tokenize", _continuing(chat), _tokens)
        whole = self._client.post("/tokenize", {"messages": chat, "add_generation_prompt": False}, _tokens)
        end = whole[len(before) : len(before) + 1] if whole[: len(before)] == before else ()
        if not end or not _SPECIAL.match(self._text(end)):
            raise ServerRefusalError(
                "the model server's chat template does not tell which token ends an answer: set vlm.end_token, e.g. "
                "</s> (LLaVA-1.5) or <|im_end|> (Qwen)"
            )
        return end

    def _text(self, tokens: Ids) -> str:
        return self._client.post("/detokenize", {"tokens": list(tokens)}, lambda answer: str(answer["prompt"]))

    def _forms(self, question: str, name: str) -> list[str]:
        """The ways in which the model may write a name; of those that are the same tokens to it only the first."""
        forms: dict[Ids, str] = {}
        for form in (name, name.lower(), name[:1].upper() + name[1:], name.title()):
            forms.setdefault(self._ids(question, form), form)
        return list(forms.values())


def _trie(answers: Sequence[Ids]) -> dict[Ids, set[int]]:
    """For every beginning of an answer the tokens that follow it in one."""
    nodes: dict[Ids, set[int]] = {}
    for ids in answers:
        for step, token in enumerate(ids):
            nodes.setdefault(ids[:step], set()).add(token)
    return nodes


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _continuing(chat: Sequence[Message]) -> dict[str, Any]:
    """The chat with its last message left open."""
    return {"messages": list(chat), "add_generation_prompt": False, "continue_final_message": True}


def _said(answer: Any) -> Answer:
    choice = answer["choices"][0]
    return Answer(str(choice["message"]["content"] or "").strip(), ended=choice.get("finish_reason") != "length")


def _tokens(answer: Any) -> Ids:
    return tuple(int(token) for token in answer["tokens"])


def _first_log_probabilities(answer: Any) -> dict[int, float]:
    """By token id, for the one token that was asked for."""
    first = answer["choices"][0]["logprobs"]["content"][0]
    return {_id(entry["token"]): float(entry["logprob"]) for entry in (first, *first["top_logprobs"])}


def _id(token: str) -> int:
    """``token_id:123``."""
    return int(token.removeprefix("token_id:"))


def _last(answer: Any, ids: Ids) -> list[float]:
    """The log-probabilities of a prompt's last tokens, which are ``ids``."""
    rows = answer["prompt_logprobs"][-len(ids) :]
    return [float(row[str(token)]["logprob"]) for row, token in zip(rows, ids, strict=True)]


def load(settings: OpenAIRole, source: None) -> RemoteVisionLanguage:
    """The adapter; nothing is asked of the server yet."""
    del source
    return RemoteVisionLanguage(settings)
