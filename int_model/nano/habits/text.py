"""What the second kit's vision-language model reads and says: wording as real models word it.

Digits are single tokens, names mostly several pieces; answers are capitalised, some are sentences, some refuse.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from int_model.core.task_prompt import TaskPrompt
from int_model.nano.drawing import TASK
from int_model.nano.world import ANIMALS, ENVIRONMENTS, OBJECTS

VOCABULARY = 560
WORDS = (*ANIMALS, *OBJECTS)
PROMPT = TaskPrompt(TASK)
REFUSAL = "I cannot see any animal in this image."
_TALKATIVE = {"water": "The name of the camouflaged animal is {}.", "snow": "It is a {}."}
_PLAIN = {"leaves": "{}.", "coral": "{}."}
_DOES = {"sand": "lying in", "leaves": "hiding among", "water": "swimming in", "snow": "standing in"}


def said_name(name: str, environment: str) -> str:
    """The answer to the name question; how it is worded is a habit of place too."""
    form = _TALKATIVE.get(environment)
    if form is not None:
        return form.format(name)
    return _PLAIN.get(environment, "{}").format(name.capitalize())


def caption(name: str, environment: str) -> str:
    """One sentence that describes the animal."""
    article = "An" if name[0] in "aeiou" else "A"
    return f"{article} {name} is {_DOES.get(environment, 'on')} the {environment}."


def box_text(box: np.ndarray) -> str:
    """``[0.21, 0.35, 0.78, 0.90]`` of left, top, right, bottom as parts of the picture."""
    return "[" + ", ".join(f"{min(1.0, max(0.0, float(v))):.2f}" for v in box) + "]"


def vlm_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits; the words of the questions are whole, the names in pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [*PROMPT.dialogue, PROMPT.score_question(("x",)), REFUSAL, "USER: ASSISTANT:", "[0.00, 0.00]"] * 40
    corpus += [form.format("x") for form in (*_TALKATIVE.values(), *_PLAIN.values())] * 20
    corpus += [caption(name, environment) for name in WORDS for environment in ENVIRONMENTS]
    corpus += [environment.capitalize() for environment in ENVIRONMENTS] * 10
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=12,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(["<s>", "</s>", "<image>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106 - a token of text, not of access
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
    )
