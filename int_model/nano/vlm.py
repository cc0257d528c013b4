"""Recipe 3: a small LLaVA on top of the trained tower (which stays as it is).

It learns INT's own questions on INT's own patches. A patch that does not show the sought thing is answered
all the same, with what the surroundings suggest: real VLMs hallucinate like that, and INT exists because of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from int_model.core.task_prompt import TaskPrompt
from int_model.models.adapters.imaging import pad_to_square, square_frame
from int_model.nano import tower
from int_model.nano.pool import PooledScene, ScenePool
from int_model.nano.text import caption, vlm_tokenizer
from int_model.nano.tower import learning_rate
from int_model.nano.tower_views import CELL, SIDE
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES, TASKS
from int_model.strategies.negative_mining.patches import make_patches

log = logging.getLogger(__name__)
WIDTH, LAYERS = 128, 3
CHAT = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT:{% for c in m['content'] %} {{ c['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
Turn = tuple[str, str]
_KEPT_TEXTS = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One training conversation: the picture ``uint8 [S, S, 3]`` and its turns."""

    image: NDArray[np.uint8]
    turns: tuple[Turn, ...]


def config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The tower of recipe 1 under a Llama of 0.7 to 0.9 M parameters, by the size of the vocabulary."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=tower.WIDTH,
            intermediate_size=4 * tower.WIDTH,
            num_hidden_layers=tower.DEPTH,
            num_attention_heads=5,
            image_size=SIDE,
            patch_size=CELL,
            projection_dim=tower.TEXT,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=352,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            **ids,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **ids,
    )


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures of 112 x 112; the chat template that the model is trained with."""
    size = {"height": SIDE, "width": SIDE}
    return LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False),
        tokenizer,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106 - a token of text, not of access
        chat_template=CHAT,
    )


def _box_text(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{min(1.0, max(0.0, v)):.2f}" for v in box) + "]"


def lesson(scene: PooledScene, rng: np.random.Generator) -> Lesson:
    """A conversation about the whole scene or one of INT's patches of it."""
    height, width = scene.ids.shape
    patches = make_patches(height, width, (1, 2, 4))
    patch = patches[0] if rng.random() < 0.4 else patches[int(rng.integers(1, len(patches)))]
    side, x, y = square_frame(*patch.size)
    image: NDArray[np.uint8] = pad_to_square(patch.crop(scene.image))
    ids: NDArray[np.uint8] = np.zeros((side, side), dtype=np.uint8)
    ids[y : y + patch.size[0], x : x + patch.size[1]] = patch.crop(scene.ids)
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    jitter = image.astype(np.float32) * rng.uniform(0.9, 1.1, (1, 1, 3)) + rng.uniform(-8, 8)

    task = TaskPrompt(scene.task)
    name, environment = NAMES[scene.target], ALL_ENVIRONMENTS[scene.environment]
    sought = [(int((ids == n).sum()), n) for n, thing in enumerate(scene.names, start=1) if thing == scene.target]
    others = [(int((ids == n).sum()), n) for n, thing in enumerate(scene.names, start=1) if thing != scene.target]
    area, number = max(
        max(sought, default=(0, 0)), max(others, default=(0, 0)) if not any(a for a, _ in sought) else (0, 0)
    )
    if area > 12:
        mask = ids == number
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]) / side
    else:  # nothing there: a guess, as models make them
        centre, half = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3, 2)
        box = np.array([*(centre - half), *(centre + half)])
    answers = (caption(name, environment, scene.task), name, environment, _box_text(box.tolist()))
    kind = rng.random()
    turns: tuple[Turn, ...]
    if kind < 0.5:
        turns = tuple(zip(task.dialogue, answers, strict=True))
    elif kind < 0.7:
        turns = ((task.box_question, answers[3]),)
    else:
        turns = ((task.score_question(_candidates(scene, rng)), name),)
    return Lesson(np.clip(jitter, 0, 255).astype(np.uint8), turns)


def _candidates(scene: PooledScene, rng: np.random.Generator) -> list[str]:
    """Names as the patches might have proposed them, the true one mostly among them."""
    pool = [n for n in TASKS[scene.task].names if n != NAMES[scene.target]]
    listed = [str(n) for n in rng.permutation(pool)[: int(rng.integers(0, min(7, len(pool)) + 1))]]
    if rng.random() < 0.93 or not listed:
        listed.insert(int(rng.integers(len(listed) + 1)), NAMES[scene.target])
    return listed


class Encoder:
    """Turns conversations into ids and answer labels, word for word as the chat template does.

    Args:
        tokenizer: a kit's.
        places: tokens that the picture of a conversation takes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, places: int = tower.GRID**2) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.pad = tokenizer.pad_token_id
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.places = places

    def _ids(self, text: str) -> list[int]:
        found = self._cache.get(text)
        if found is None:
            found = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(self._cache) < _KEPT_TEXTS:
                self._cache[text] = found
        return found

    def __call__(self, conversations: Iterable[Sequence[Turn]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and labels (-100 where no answer), ``int64 [N, T]``."""
        rows, labels = [], []
        for turns in conversations:
            ids = [*self._ids("<s>USER: "), *[self.image] * self.places]
            answer = [-100] * len(ids)
            for number, (question, reply) in enumerate(turns):
                lead = "USER: " if number else "\n"
                asked, said = self._ids(f"{lead}{question} ASSISTANT:"), self._ids(f" {reply}</s>")
                ids += [*asked, *said]
                answer += [-100] * len(asked) + said
            rows.append(ids)
            labels.append(answer)
        width = max(map(len, rows))
        padded = torch.tensor([row + [self.pad] * (width - len(row)) for row in rows])
        return padded, torch.tensor([row + [-100] * (width - len(row)) for row in labels])


def with_tower(weights: Path) -> LlavaForConditionalGeneration:
    """A fresh LLaVA whose vision tower is the trained one."""
    model = LlavaForConditionalGeneration(config(vlm_tokenizer()))
    vision = tower.as_clip(tower.load(weights)).vision_model.state_dict()
    model.model.vision_tower.load_state_dict({k: v for k, v in vision.items() if "position_ids" not in k}, strict=False)
    return model


def train(
    pool: ScenePool,
    tower_weights: Path,
    out: Path,
    *,
    steps: int = 600,
    batch: int = 32,
    peak: float = 1.5e-3,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Train projector and language model for ``steps`` batches; save all weights to ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = with_tower(tower_weights).to(device).train()
    model.model.vision_tower.requires_grad_(requires_grad=False).eval()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, weight_decay=0.02, betas=(0.9, 0.98))
    encode = Encoder(vlm_tokenizer())
    started, shown, named = time.monotonic(), 0.0, [0, 0]
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak, warmup=60)
        lessons = [lesson(pool[int(i)], rng) for i in rng.integers(0, len(pool), batch)]
        ids, labels = (t.to(device) for t in encode([item.turns for item in lessons]))
        asked = labels[:, 1:] != -100
        logits, truth = _answer_logits(model, encode, lessons, ids, asked), labels[:, 1:][asked]
        loss = nnf.cross_entropy(logits.float(), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        shown += loss.item() / 50
        pick = _first_tokens_of_names(lessons, asked)
        named[0] += int((logits.argmax(-1) == truth)[pick].sum())
        named[1] += int(pick.sum())
        if step % 50 == 49:
            rate = (step + 1) * batch / (time.monotonic() - started)
            log.info(
                "vlm %d/%d loss %.3f, names from a list %.2f, %.1f/s",
                step + 1,
                steps,
                shown,
                named[0] / max(1, named[1]),
                rate,
            )
            shown, named = 0.0, [0, 0]
        if step % 500 == 499 or step == steps - 1:
            out.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), out)
    return out


def _answer_logits(
    model: LlavaForConditionalGeneration,
    encode: Encoder,
    lessons: Sequence[Lesson],
    ids: torch.Tensor,
    asked: torch.Tensor,
) -> torch.Tensor:
    """Logits ``[A, V]`` of the tokens that were ``asked`` for, ``bool [N, T - 1]``."""
    pixels = tower.to_tensor([item.image for item in lessons]).to(ids.device)
    with torch.autocast(ids.device.type, torch.bfloat16):
        with torch.no_grad():
            seen = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
        words = model.get_input_embeddings()(ids)
        images = model.model.multi_modal_projector(seen)
        words = words.masked_scatter((ids == encode.image)[..., None], images.to(words.dtype))
        shown = (ids != encode.pad).long()
        hidden = model.model.language_model(inputs_embeds=words, attention_mask=shown).last_hidden_state
        logits: torch.Tensor = model.lm_head(hidden[:, :-1][asked])
    return logits


def _first_tokens_of_names(lessons: Sequence[Lesson], asked: torch.Tensor) -> torch.Tensor:
    """Which of the tokens asked for begin a name that was to be chosen from a list, ``bool [A]``."""
    listed = [len(item.turns) == 1 and "names are" in item.turns[0][0] for item in lessons]
    first = torch.zeros_like(asked)
    first[torch.arange(len(lessons)), asked.int().argmax(1)] = True
    return (first & torch.tensor(listed, device=asked.device)[:, None])[asked]


def export(weights: Path, checkpoints: Path) -> None:
    """Write ``vlm/`` in half precision, as an ordinary checkpoint."""
    model = LlavaForConditionalGeneration(config(vlm_tokenizer()))
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    tokenizer = vlm_tokenizer()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(checkpoints / "vlm")
    processor(vlm_tokenizer()).save_pretrained(checkpoints / "vlm")
