"""Recipe 1: one vision tower, one text tower, trained together for CLIP and OWL-ViT.

A LLaVA trained from nothing on whole scenes stays at chance, so everything that sees stands on this tower. It starts
with windows around single things (a quarter of the cells, so four times as many), then sees whole views. It learns from
every cell what lies there (exact masks are free here), from the class token what the view shows, and from OWL-ViT's
heads where things are. CLIP and OWL-ViT share their weights' layout; `export` writes both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
)

from int_model.nano.pool import ScenePool
from int_model.nano.text import MAX_TEXT, TEMPLATES, clip_tokenizer
from int_model.nano.tower_views import CELL, MEAN, SIDE, STD, View, make_view, make_window
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES, TASKS

log = logging.getLogger(__name__)

WIDTH, DEPTH, TEXT = 160, 5, 96
GRID = SIDE // CELL
WORDS = (*NAMES, *ALL_ENVIRONMENTS)
QUERIES = (*NAMES, *TASKS)  # what the detector is asked for: every name, and the task prompts themselves
_QUERY_OF = np.zeros((len(NAMES), len(QUERIES)), dtype=np.float32)
for _row, _name in enumerate(NAMES):
    _QUERY_OF[_row, _row] = 1
    for _col, _task in enumerate(TASKS.values(), start=len(NAMES)):
        _QUERY_OF[_row, _col] = _name in _task.names


def config() -> OwlViTConfig:
    """The towers' shape (1.6 M parameters for vision, 0.3 M for text)."""
    vocabulary = len(clip_tokenizer())
    ids = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0}
    text = {
        "vocab_size": vocabulary,
        "hidden_size": TEXT,
        "intermediate_size": 4 * TEXT,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TEXT,
        **ids,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 5,
        "image_size": SIDE,
        "patch_size": CELL,
    }
    return OwlViTConfig(text_config=text, vision_config=vision, projection_dim=TEXT)


def to_tensor(images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """Normalised ``float32 [N, 3, S, S]`` as CLIP's image processor makes it."""
    array = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (array - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Towers(torch.nn.Module):
    """OWL-ViT with the three losses on its towers."""

    def __init__(self) -> None:
        super().__init__()
        self.owl = OwlViTForObjectDetection(config())
        self.tokenizer = clip_tokenizer()
        for part in (*self.owl.box_head.modules(), *self.owl.class_head.modules()):
            if isinstance(part, torch.nn.Linear):  # the library's start (std 1) saturates the boxes for good
                part.reset_parameters()
        with torch.no_grad():  # start from "nothing is here": cosine near 0 -> logit near -3.6
            self.owl.class_head.logit_shift.bias.fill_(-0.6)
            self.owl.class_head.logit_scale.bias.fill_(5.0)

    def texts(self, words: Sequence[str], rng: np.random.Generator) -> torch.Tensor:
        """Unit embeddings ``[len(words), TEXT]``, each word in a random template."""
        lines = [TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(word) for word in words]
        batch = self.tokenizer(lines, padding=True, return_tensors="pt")
        device = self.owl.device
        out = self.owl.owlvit.text_model(batch["input_ids"].to(device), batch["attention_mask"].to(device))
        return nnf.normalize(self.owl.owlvit.text_projection(out.pooler_output), dim=-1)

    def tokens(self, pixels: torch.Tensor, corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Last tokens ``[N, 1 + G*G, C]`` after the final norm, and the cells' places in a view's grid.

        On whole views this is OWL-ViT's own pass; a window's cells carry the positions of where they might lie.
        """
        vision, grid = self.owl.owlvit.vision_model, pixels.shape[-1] // CELL
        steps = torch.arange(grid, device=pixels.device)
        rows, cols = corners[:, 0, None] + steps, corners[:, 1, None] + steps
        places = (rows[:, :, None] * GRID + cols[:, None, :]).flatten(1)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.training):
            patches = vision.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
            positions = vision.embeddings.position_embedding.weight
            start = (vision.embeddings.class_embedding + positions[0]).expand(len(pixels), 1, -1)
            hidden = torch.cat([start, patches + positions[1 + places]], dim=1)
            last = vision.encoder(inputs_embeds=vision.pre_layernorm(hidden)).last_hidden_state
        return vision.post_layernorm(last.float()), places

    def heads(
        self, hidden: torch.Tensor, places: torch.Tensor, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """OWL-ViT's scores ``[N, G*G, Q]`` (logits) and boxes ``[N, G*G, 4]`` (centre and size, relative)."""
        merged = self.owl.layer_norm(hidden[:, 1:] * hidden[:, :1])
        scores, _ = self.owl.class_predictor(merged, queries[None].expand(len(hidden), -1, -1), None)
        boxes = self.owl.box_head(merged) + self.owl.box_bias.to(hidden.device)[places]
        return scores, boxes.sigmoid()

    def losses(self, views: Sequence[View], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Words of cells and of class tokens, names and boxes of things; views of one size."""
        device = self.owl.device
        pixels = to_tensor([v.image for v in views]).to(device)
        hidden, places = self.tokens(pixels, torch.tensor([v.corner for v in views], device=device))
        words = self.texts([*WORDS, *TASKS], rng)

        features = nnf.normalize(self.owl.owlvit.visual_projection(hidden), dim=-1)
        logits = self.owl.owlvit.logit_scale.clamp(max=4.6).exp() * features @ words[: len(WORDS)].T
        cells = torch.from_numpy(np.stack([v.cells for v in views])).flatten().to(device)
        dense = nnf.cross_entropy(logits[:, 1:].flatten(0, 1), cells, ignore_index=-100)
        whole = nnf.cross_entropy(logits[:, 0], torch.tensor([v.word for v in views], device=device))

        scores, predicted = self.heads(hidden, places, torch.cat([words[: len(NAMES)], words[len(WORDS) :]]))
        things = torch.from_numpy(np.stack([v.things for v in views])).flatten(1).to(device)
        table = torch.from_numpy(_QUERY_OF).to(device)
        target = torch.where((things >= 0)[..., None], table[things.clamp(min=0)], 0.0)
        asked = (things != -2)[..., None].float()
        prob = scores.sigmoid()
        hit = prob * target + (1 - prob) * (1 - target)
        weight = (0.75 * target + 0.25 * (1 - target)) * (1 - hit) ** 2
        focal = (weight * nnf.binary_cross_entropy_with_logits(scores, target, reduction="none") * asked).sum()
        count = (things >= 0).sum().clamp(min=1)
        truth = torch.from_numpy(np.stack([v.boxes for v in views])).flatten(1, 2).to(device)
        inside = truth[..., 2] > 0
        strength = torch.where(things >= 0, 1.0, 0.3)[inside]
        p, t = predicted[inside], truth[inside]
        box = (strength * (5 * (p - t).abs().sum(-1) + 2 * (1 - giou(p, t)))).sum() / strength.sum().clamp(min=1)
        return {"dense": dense, "whole": whole, "focal": focal / count, "box": box}


def giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalised IoU of boxes ``[N, 4]`` given as centre and size."""
    a1, a2, b1, b2 = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    common = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(-1)
    total = a[:, 2:].prod(-1) + b[:, 2:].prod(-1) - common
    hull = (torch.maximum(a2, b2) - torch.minimum(a1, b1)).prod(-1)
    return common / total.clamp(min=1e-8) - (hull - total) / hull.clamp(min=1e-8)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


@dataclass(frozen=True, slots=True)
class Phase:
    """A run of batches whose learning rate rises, then falls along a cosine."""

    steps: int
    batch: int
    peak: float
    windows: bool
    focal: float = 0.5  # weights of the detector's losses beside the words'
    box: float = 0.4


PHASES = (
    Phase(620, 128, 1.4e-3, windows=True),
    Phase(850, 128, 1.2e-3, windows=True),
    Phase(700, 40, 7e-4, windows=False, focal=0.7, box=1.0),
)


def train(
    pool: ScenePool,
    out: Path,
    *,
    phases: Sequence[Phase] = PHASES,
    start: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Go through the phases, from nothing or from the weights ``start``; save the weights to ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Towers()
    if start is not None:
        model.owl.load_state_dict(torch.load(start, weights_only=True, map_location="cpu"))
    model = model.to(device).train()
    shown = [i for i in range(len(pool)) if pool.names(i)]
    out.parent.mkdir(parents=True, exist_ok=True)
    for phase in phases:
        make = make_window if phase.windows else make_view

        def draw(phase: Phase = phase, make: Callable[..., View] = make) -> dict[str, torch.Tensor]:
            return model.losses([make(pool[shown[i]], rng) for i in rng.integers(0, len(shown), phase.batch)], rng)

        _phase(model, draw, phase, out)
    return out


def _phase(model: Towers, draw: Callable[[], dict[str, torch.Tensor]], phase: Phase, out: Path) -> None:
    steps = phase.steps
    weights = {"dense": 1.0, "whole": 1.0, "focal": phase.focal, "box": phase.box}
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    started, sums = time.monotonic(), dict.fromkeys(weights, 0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, phase.peak, warmup=100)
        losses = draw()
        loss = torch.stack([weights[key] * value for key, value in losses.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for key, value in losses.items():
            sums[key] += value.item() / 50
        if step % 50 == 49:
            means = {key: round(value, 3) for key, value in sums.items()}
            seconds = (time.monotonic() - started) / (step + 1)
            log.info("tower %d/%d %s %.2f s/step", step + 1, steps, means, seconds)
            sums = dict.fromkeys(sums, 0.0)
        if step % 100 == 99 or step == steps - 1:
            torch.save(model.owl.state_dict(), out)


def load(weights: Path) -> OwlViTForObjectDetection:
    """OWL-ViT with the raw weights that `train` saved."""
    owl = OwlViTForObjectDetection(config())
    owl.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return owl


def export(weights: Path, checkpoints: Path) -> None:
    """Write ``detector/`` (OWL-ViT) and ``clip/`` (CLIP) in half precision, as ordinary checkpoints."""
    tokenizer = clip_tokenizer()
    owl = load(weights)
    owl.half().save_pretrained(checkpoints / "detector")
    tokenizer.save_pretrained(checkpoints / "detector")
    size = {"height": SIDE, "width": SIDE}
    OwlViTImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(checkpoints / "detector")

    clip = as_clip(load(weights))
    clip.half().save_pretrained(checkpoints / "clip")
    tokenizer.save_pretrained(checkpoints / "clip")
    CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(checkpoints / "clip")


def as_clip(owl: OwlViTForObjectDetection) -> CLIPModel:
    """The same two towers as a CLIPModel; every CLIP weight must come from OWL-ViT."""
    source = owl.config
    keep = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "image_size",
        "patch_size",
        "hidden_act",
        "layer_norm_eps",
    )
    parts = [{k: getattr(c, k) for k in keep if hasattr(c, k)} for c in (source.text_config, source.vision_config)]
    clip = CLIPModel(
        CLIPConfig(
            text_config=parts[0] | {"projection_dim": TEXT},
            vision_config=parts[1] | {"projection_dim": TEXT},
            projection_dim=TEXT,
        )
    )
    renamed = {
        k.removeprefix("owlvit.").replace("pre_layernorm", "pre_layrnorm"): v.float()
        for k, v in owl.state_dict().items()
        if k.startswith("owlvit.")
    }
    missing, unexpected = clip.load_state_dict(renamed, strict=False)
    missing = [k for k in missing if "position_ids" not in k]
    if missing or [k for k in unexpected if "position_ids" not in k]:
        raise RuntimeError(f"OWL-ViT and CLIP weights do not match: missing {missing}, unexpected {unexpected}")
    return clip
