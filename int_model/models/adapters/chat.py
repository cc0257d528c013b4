"""The texts of a chat as a processor's template and tokenizer write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from int_model.models.adapters.vlm_inputs import start_options

Message = dict[str, Any]


class Chat:
    """Questions and answers as messages, rendered prompts, and the token ids of both.

    Args:
        processor: of an image-text-to-text model, with a chat template.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer

    def question(self, text: str, *, with_image: bool) -> Message:
        """A turn of the user, with the image before the text if wanted."""
        content = [{"type": "image"}] if with_image else []
        return {"role": "user", "content": [*content, {"type": "text", "text": self.plain(text)}]}

    def answer(self, text: str) -> Message:
        """A turn of the model."""
        return {"role": "assistant", "content": [{"type": "text", "text": self.plain(text)}]}

    def plain(self, text: str) -> str:
        """The text without image placeholders, which would stand for images that are not there."""
        token = getattr(self._processor, "image_token", None)
        return text.replace(token, "") if token else text

    def render(self, chat: Sequence[Message]) -> str:
        """The prompt, up to where the model's answer begins."""
        return str(self._processor.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True))

    def ids(self, text: str) -> list[int]:
        """A rendered chat's token ids, the image's placeholder once."""
        return list(self._tokenizer(text, **start_options(self._tokenizer, [text]))["input_ids"])

    def anchor(self, prompt: Sequence[int]) -> int | None:
        """How many of a prompt's ids end with the image's placeholder; None where there is not exactly one."""
        token = getattr(self._processor, "image_token", None)
        places = [i for i, t in enumerate(prompt) if t == self._tokenizer.convert_tokens_to_ids(token)] if token else []
        return places[0] + 1 if len(places) == 1 else None

    def forms(self, name: str) -> list[str]:
        """The ways in which the model may write a name; of those that are the same tokens to it only the first."""
        forms: dict[tuple[int, ...], str] = {}
        for form in (name, name.lower(), name[:1].upper() + name[1:], name.title()):
            ids = tuple(self._tokenizer(" " + form, add_special_tokens=False)["input_ids"])
            if not forms or self._tokenizer.unk_token_id not in ids:
                forms.setdefault(ids, form)
        return list(forms.values())

    def continuation(self, question: str, prompt: str, answer: str) -> tuple[int, ...]:
        """The token ids of ``answer`` as the model would have generated them after ``prompt``.

        The chat template says what stands between prompt and answer (LLaVA: a space; ChatML: nothing); prompt and
        answer are tokenised together, so that a word-initial piece is chosen where one is. Raises ``ValueError`` for a
        blank answer.
        """
        answer = self.plain(answer).strip()
        if not answer:
            raise ValueError("an answer to be scored is not blank")
        chat = [self.question(question, with_image=True), self.answer(answer)]
        told = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)
        if told.startswith(prompt) and answer in told[len(prompt) :]:
            lead = told[len(prompt) : told.index(answer, len(prompt))]
        else:
            lead = "" if prompt[-1:].isspace() else " "
        before = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        both = self._tokenizer(prompt + lead + answer, add_special_tokens=False)["input_ids"]
        if both[: len(before)] == before:
            return tuple(both[len(before) :])
        return tuple(self._tokenizer(lead + answer, add_special_tokens=False)["input_ids"])
