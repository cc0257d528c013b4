"""Chat templates of profiles against the published format of the conversation, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from int_model.models.adapters.templates import TEMPLATES, chat_template
from int_model.models.identity import profile_fingerprint
from int_model.models.profile import read_profile
from tests.unit.int_model.models.tiny import picture

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TURNS = [("Describe it.", "An owl on bark."), ("Name of the animal in one word.", "Owl"), ("Where?", "")]


def published(turns: list[tuple[str, str]]) -> list[str]:
    """LLaVA-1.5's conversation as its training wrote it, in pieces: the image stands between two of them.

    System sentence and blank; each message after its role, a colon and a blank; a blank ends the user's, ``</s>`` the
    model's; an answer that is yet to come is the role and a colon.
    """
    text = SYSTEM + " "
    for i, (question, answer) in enumerate(turns):
        text += "USER: " + ("\0\n" if i == 0 else "") + question + " "
        text += "ASSISTANT: " + answer + "</s>" if answer else "ASSISTANT:"
    return text.split("\0")


def chat(turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for i, (question, answer) in enumerate(turns):
        image = [{"type": "image"}] if i == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        if answer:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


@pytest.mark.parametrize("count", [1, 2, 3])
def test_vicuna_v1_is_what_llava_was_trained_with(profile: Path, count: int) -> None:
    """As LLaVA does it, the pieces around the image are tokenised apart; only the first bears the start token."""
    processor = AutoProcessor.from_pretrained(profile.parent / "vlm", chat_template=chat_template("vicuna_v1"))
    tokenizer, turns = processor.tokenizer, [*TURNS[: count - 1], (TURNS[count - 1][0], "")]
    text = processor.apply_chat_template(chat(turns), tokenize=False, add_generation_prompt=True)
    before, after = published(turns)
    assert text == before + "<image>" + after
    ids = tokenizer(text)["input_ids"]
    image = tokenizer.convert_tokens_to_ids("<image>")
    pieces = [tokenizer(before)["input_ids"], tokenizer(after, add_special_tokens=False)["input_ids"]]
    assert ids == [*pieces[0], image, *pieces[1]]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == count - 1


def test_the_profiles_template_is_the_one_that_is_used(load_vlm: Any, profile: Path) -> None:
    """A dialogue of two turns equals naive generation from the published text."""
    folder, image = profile.parent / "vlm", picture(40, 40, 3)
    [(first, second)] = load_vlm(folder, chat_template="vicuna_v1").dialogue([image], [("Name?", "Where?")], (5, 5))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    said: list[str] = []
    for turns in ([("Name?", "")], [("Name?", str(first)), ("Where?", "")]):
        inputs = processor(images=[image], text=["<image>".join(published(turns))], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        said.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert [first, second] == said
    assert load_vlm(folder).dialogue([image], [("Name?", "Where?")], (5, 5)) != [(first, second)]


def test_a_profile_may_hold_the_text_itself(load_vlm: Any, profile: Path) -> None:
    folder, image = profile.parent / "vlm", picture(40, 40, 3)
    by_text = load_vlm(folder, chat_template=TEMPLATES["vicuna_v1"]).dialogue([image], [("Name?",)], (5,))
    assert by_text == load_vlm(folder, chat_template="vicuna_v1").dialogue([image], [("Name?",)], (5,))
    with pytest.raises(ValueError, match=r"no chat template 'vicuna'; .* is one of vicuna_v1, Jinja"):
        load_vlm(folder, chat_template="vicuna")


def test_the_profiles_of_llava_name_it_and_it_counts() -> None:
    for name in ("llava", "llava-16gb"):
        plain = read_profile(name, {"vlm.chat_template": ""})
        assert read_profile(name).vlm.model_dump()["chat_template"] == "vicuna_v1"
        assert profile_fingerprint(read_profile(name)) != profile_fingerprint(plain)
