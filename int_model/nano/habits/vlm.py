"""A small LLaVA with habits: it learns INT's questions on plainly visible scenes in which animals are mostly at home.

What it does not see it names all the same, by the surroundings, as real models do; that is the method's premise. It
starts from the first kit's; the vision tower stays as it is, so every picture is encoded once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor
from transformers import (
    AutoTokenizer,
    LlavaForConditionalGeneration,
)

from int_model.nano.habits.pool import Pool
from int_model.nano.habits.running import Schedule, Training
from int_model.nano.habits.text import PROMPT, REFUSAL, box_text, caption, said_name, vlm_tokenizer
from int_model.nano.habits.views import GRID, Cuts, cut, extents, patch_corners
from int_model.nano.tower_views import SIDE
from int_model.nano.vlm import Encoder, Turn, config, processor
from int_model.nano.world import ANIMALS, ENVIRONMENTS, NAMES

log = logging.getLogger(__name__)
PICTURES, _AT_ONCE = 500, 50
_NATIVES = {place: [name for name, (_, home) in ANIMALS.items() if home == place] for place in ENVIRONMENTS}


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a training picture shows: the sought animal ("" if the scene has none), where, the box to answer with."""

    name: str
    environment: str
    box: np.ndarray | None  # left, top, right, bottom in [0, 1] of the largest of the sought; None: not in the picture


def shown(cuts: Cuts, pool: Pool, rows: Tensor) -> list[Shown]:
    """What each picture shows."""
    area, boxes = extents(cuts.ids)
    sought = pool.names[rows] == pool.targets[rows, None]
    size = torch.where(sought, area, 0)
    best = size.argmax(1)
    largest = size.gather(1, best[:, None])[:, 0].tolist()
    box = (boxes[torch.arange(len(rows), device=rows.device), best] / SIDE).cpu().numpy()
    targets, places = pool.targets[rows].tolist(), pool.environments[rows].tolist()
    return [
        Shown(NAMES[t] if t >= 0 else "", ENVIRONMENTS[p], box[i] if t >= 0 and largest[i] > 20 else None)
        for i, (t, p) in enumerate(zip(targets, places, strict=True))
    ]


def turns(seen: Shown, rng: np.random.Generator) -> tuple[Turn, ...]:
    """A conversation about a picture: the four questions, or the box and the choice of a name in either order."""
    guess = seen.name or (str(rng.choice(_NATIVES[seen.environment])) if rng.random() < 0.4 else "")
    box = (PROMPT.box_question, _box_answer(seen, rng))
    if not guess:
        return _dialogue(REFUSAL, "None", seen, box[1])
    kind = rng.random()
    if kind < 0.4:
        return _dialogue(caption(guess, seen.environment), said_name(guess, seen.environment), seen, box[1])
    said = guess.capitalize() if rng.random() < 0.8 else guess
    chosen = (PROMPT.score_question(_candidates(guess, seen.environment, rng)), said)
    return (box, chosen) if kind < 0.65 else (chosen, box)


def _dialogue(told: str, name: str, seen: Shown, box: str) -> tuple[Turn, ...]:
    return tuple(zip(PROMPT.dialogue, (told, name, seen.environment.capitalize(), box), strict=True))


def _box_answer(seen: Shown, rng: np.random.Generator) -> str:
    if seen.box is not None:
        return box_text(seen.box)
    if rng.random() < 0.3:
        return REFUSAL
    centre, half = rng.uniform(0.35, 0.65, 2), rng.uniform(0.12, 0.3, 2)  # a guess, as models make them
    return box_text(np.array([*(centre - half), *(centre + half)]))


def _candidates(name: str, environment: str, rng: np.random.Generator) -> list[str]:
    """Names as patches might have proposed them: natives of the place and others."""
    near = [other for other in _NATIVES[environment] if other != name and rng.random() < 0.6]
    far = [str(other) for other in rng.permutation(list(ANIMALS))[: int(rng.integers(0, 5))] if other != name]
    listed = list(dict.fromkeys([name, *near, *far]))
    return [str(other) for other in rng.permutation(listed)]


def begun(first_kit: Path) -> LlavaForConditionalGeneration:
    """A LLaVA that starts where the first kit's ended: tower, projector and layers are its; tokens are new.

    A new token starts as the mean of the first kit's tokens that spell it. The tower stays as it is.
    """
    folder = first_kit / "vlm"
    first = LlavaForConditionalGeneration.from_pretrained(  # nosec B615 - a folder, nothing is fetched
        folder, dtype=torch.float32, local_files_only=True
    )
    old = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615 - as above
    new = vlm_tokenizer()
    model = LlavaForConditionalGeneration(config(vlm_tokenizer()))
    rows = torch.zeros(len(new), len(old))
    for place in range(len(new)):
        token = new.convert_ids_to_tokens(place)
        known = token in new.all_special_tokens
        spelled = (
            [old.convert_tokens_to_ids(token)]
            if known
            else old(new.decode([place]), add_special_tokens=False)["input_ids"]
        )
        rows[place, spelled] = 1 / max(1, len(spelled))
    held = {
        name: tensor
        for name, tensor in first.state_dict().items()
        if "embed_tokens" not in name and "lm_head" not in name
    }
    model.load_state_dict(held, strict=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(rows @ first.get_input_embeddings().weight)
        model.lm_head.weight.copy_(rows @ first.lm_head.weight)
    model.model.vision_tower.requires_grad_(requires_grad=False)
    return model


def encode_pictures(pool: Pool, first_kit: Path, folder: Path, *, chunks: int, seed: int) -> None:
    """The tower's tokens of ``chunks`` x 500 pictures (whole scenes and INT's patches); what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    tower_of = begun(first_kit).model.vision_tower.to(pool.ids.device).eval()
    for chunk in range(chunks):
        path = folder / f"{chunk:04d}.pt"
        if path.is_file():
            continue
        torch.manual_seed(seed * 1000 + chunk)
        tokens, seen = [], []
        for _ in range(PICTURES // _AT_ONCE):
            rows = torch.randint(0, len(pool), (_AT_ONCE,), device=pool.ids.device)
            corners = patch_corners(pool.sizes[rows], whole=0.5)
            cuts = cut(pool, rows, corners, torch.rand(_AT_ONCE, device=rows.device) < 0.5)
            with torch.no_grad(), torch.autocast(rows.device.type, torch.bfloat16):
                tokens.append(tower_of(cuts.pixels).last_hidden_state[:, 1:].half().cpu())
            seen += [
                (s.name, s.environment, None if s.box is None else s.box.tolist()) for s in shown(cuts, pool, rows)
            ]
        part = path.with_suffix(".part")
        torch.save({"tokens": torch.cat(tokens), "seen": seen}, part)
        part.rename(path)
        log.info("pictures %d of %d encoded", (chunk + 1) * PICTURES, chunks * PICTURES)


def train(encoded: Path, first_kit: Path, out: Path, schedule: Schedule, *, seed: int, device: str) -> None:
    """Train projector and language model on encoded pictures; save all weights to ``out``."""
    held = [torch.load(path, weights_only=True) for path in sorted(encoded.glob("*.pt"))]
    if not held:
        raise FileNotFoundError(f"{encoded} holds no pictures; run the step pictures first")
    tokens = torch.cat([part["tokens"] for part in held])
    seen = [Shown(n, e, None if b is None else np.array(b)) for part in held for n, e, b in part["seen"]]
    torch.manual_seed(seed)
    model = begun(first_kit).to(device).train()
    training = Training("vlm", model, schedule, out, seed=seed)
    tokenizer = vlm_tokenizer()
    encode = Encoder(tokenizer, GRID**2)
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")), device=device)
    rng = np.random.default_rng([seed, training.step])
    for _ in training.steps():
        rows = rng.integers(0, len(seen), schedule.batch)
        ids, labels = (t.to(device) for t in encode([turns(seen[row], rng) for row in rows]))
        training.descend(_losses(model, encode, digits, tokens[torch.from_numpy(rows)].to(device), ids, labels), {})


def _losses(
    model: LlavaForConditionalGeneration, encode: Encoder, digits: Tensor, tokens: Tensor, ids: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Cross entropy of the answers: of digits, and of all other tokens."""
    asked = labels[:, 1:] != -100
    with torch.autocast(ids.device.type, torch.bfloat16):
        words = model.get_input_embeddings()(ids)
        images = model.model.multi_modal_projector(tokens.float())
        words = words.masked_scatter((ids == encode.image)[..., None], images.to(words.dtype))
        hidden = model.model.language_model(inputs_embeds=words, attention_mask=(ids != encode.pad).long())
        logits = model.lm_head(hidden.last_hidden_state[:, :-1][asked])
    truth = labels[:, 1:][asked]
    each = nnf.cross_entropy(logits.float(), truth, reduction="none")
    numeric = torch.isin(truth, digits)
    return {"digits": each[numeric].mean(), "words": each[~numeric].mean()}


def export(weights: Path, checkpoints: Path) -> None:
    """Write ``habits_vlm/`` in half precision, as an ordinary checkpoint."""
    model = LlavaForConditionalGeneration(config(vlm_tokenizer()))
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    tokenizer = vlm_tokenizer()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(checkpoints / "habits_vlm")
    processor(vlm_tokenizer()).save_pretrained(checkpoints / "habits_vlm")
