"""Tokenizers of the bundled checkpoints: byte-level BPE, so that any word can be written, if in pieces."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from int_model.core.task_prompt import TaskPrompt
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES, TASKS

TEMPLATES = (
    "{}",
    "a {}",
    "a photo of a {}.",
    "a picture of the {}.",
    "a photo of the hidden {}.",
    "a close-up photo of a {}.",
    "one {}.",
    "there is a {} in the scene.",
    "a bad photo of the {}.",
    "a photo of one {}.",
)
MAX_TEXT = 24


def bpe(corpus: list[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of ``size`` tokens, trained on ``corpus``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """For CLIP and OWL-ViT: lower case; the end token has the highest id, which both towers pool at."""
    words = [*NAMES, *ALL_ENVIRONMENTS, *TASKS]
    tokenizer = bpe([t.format(w) for w in words for t in TEMPLATES] * 20, 900)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    start, end = tokenizer.token_to_id("<|startoftext|>"), tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", start), ("<|endoftext|>", end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",  # noqa: S106 - a token of text, not of access
        eos_token="<|endoftext|>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_max_length=MAX_TEXT,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


def caption(name: str, environment: str, task: str) -> str:
    """What the miniature VLM is taught to say when asked to describe the sought thing."""
    return f"A {task}, the {name}, in the {environment}."


def vlm_tokenizer() -> PreTrainedTokenizerFast:
    """For LLaVA: cased, with an ``<image>`` token."""
    corpus = [f" {w}" for w in (*NAMES, *ALL_ENVIRONMENTS)] * 30 + [*NAMES, *ALL_ENVIRONMENTS] * 10
    for task in TASKS:
        prompt = TaskPrompt(task)
        corpus += [*prompt.dialogue, prompt.score_question(NAMES)] * 20
        corpus += [f"USER: {q} ASSISTANT: {caption(n, 'sand', task)}" for q in prompt.dialogue for n in NAMES]
    corpus += [f"[{x / 100:.2f}, {y / 100:.2f}]" for x in range(101) for y in range(0, 101, 10)]
    tokenizer = bpe(corpus, 1100)
    tokenizer.add_special_tokens(["<s>", "</s>", "<image>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
    )
