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

import cv2
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

from int_model.models.adapters.imaging import pad_to_square, square_frame
from int_model.nano.pool import PooledScene, ScenePool
from int_model.nano.text import MAX_TEXT, TEMPLATES, clip_tokenizer
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES, TASKS

log = logging.getLogger(__name__)

SIDE, CELL, WIDTH, DEPTH, TEXT = 112, 8, 160, 5, 96
WINDOW = 64
GRID = SIDE // CELL
WORDS = (*NAMES, *ALL_ENVIRONMENTS)
QUERIES = (*NAMES, *TASKS)  # what the detector is asked for: every name, and the task prompts themselves
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_QUERY_OF = np.zeros((len(NAMES), len(QUERIES)), dtype=np.float32)
for _row, _name in enumerate(NAMES):
    _QUERY_OF[_row, _row] = 1
    for _col, _task in enumerate(TASKS.values(), start=len(NAMES)):
        _QUERY_OF[_row, _col] = _name in _task.names


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One training picture ``uint8 [S, S, 3]`` of G x G cells, what each cell shows and where the things are.

    Attributes:
        cells: ``int64 [G, G]`` index into WORDS, -100 = not asked.
        word: index into WORDS for the class token.
        boxes: ``float32 [G, G, 4]`` centre and size of the thing in this cell, as parts of a whole view; 0 = none.
        things: ``int64 [G, G]`` index into NAMES, -1 = none, -2 = not asked.
        corner: row and column of the picture's first cell in a whole view's grid; (0, 0) if it is whole itself.
    """

    image: NDArray[np.uint8]
    cells: NDArray[np.int64]
    word: int
    boxes: NDArray[np.float32]
    things: NDArray[np.int64]
    corner: tuple[int, int] = (0, 0)


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


def make_view(scene: PooledScene, rng: np.random.Generator) -> View:
    """A random view: whole scene, a part like INT's patches, a thing with some margin, or a thing on black."""
    kind = rng.choice(4, p=[0.48, 0.26, 0.15, 0.11])
    image, ids = scene.image, scene.ids
    height, width = ids.shape
    word = scene.target
    if kind == 1:
        h, w = [(height // 2, width), (height, width // 2), (height // 2, width // 2)][int(rng.integers(3))]
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        image, ids = image[y : y + h, x : x + w], ids[y : y + h, x : x + w]
    elif kind >= 2 and scene.names:
        pick = int(rng.integers(len(scene.names)))
        mask = ids == pick + 1
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size > 8 and cols.size > 8:
            word = scene.names[pick]
            if kind == 3:
                image = np.where(mask[..., None], image, 0).astype(np.uint8)
                ids = np.where(mask, ids, 255).astype(np.uint8)
            margin = rng.uniform(0.0, 0.5) if kind == 2 else rng.choice([0.05, 2.0])
            my, mx = int(margin * rows.size), int(margin * cols.size)
            ys = slice(max(0, rows[0] - int(my * rng.uniform(0.3, 1))), rows[-1] + 1 + int(my * rng.uniform(0.3, 1)))
            xs = slice(max(0, cols[0] - int(mx * rng.uniform(0.3, 1))), cols[-1] + 1 + int(mx * rng.uniform(0.3, 1)))
            image, ids = image[ys, xs], ids[ys, xs]
    if rng.random() < 0.6:
        side, x, y = square_frame(*ids.shape)
        image = pad_to_square(image)
        padded = np.full((side, side), 255, dtype=np.uint8)
        padded[y : y + ids.shape[0], x : x + ids.shape[1]] = ids
        ids = padded
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if image.shape[0] > SIDE else cv2.INTER_LINEAR)
    ids = cv2.resize(ids, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    jitter = image.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
    return _label(
        np.clip(jitter, 0, 255).astype(np.uint8), np.ascontiguousarray(ids), scene, word, on_black=bool(kind == 3)
    )


def make_window(scene: PooledScene, rng: np.random.Generator) -> View:
    """A square of WINDOW pixels around a random thing (sometimes around nothing), at the scale of views."""
    height, width = scene.ids.shape
    pick = int(rng.integers(len(scene.names)))
    mask = scene.ids == pick + 1
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    image, ids = scene.image, scene.ids
    on_black = False
    if rows.size < 8 or cols.size < 8 or rng.random() < 0.08:
        word, centre, side = -1, rng.uniform((0, 0), (height, width)), float(rng.uniform(60, 120))
    else:
        word = scene.names[pick]
        extent = max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1
        side = extent / float(rng.uniform(0.5, 1.1))
        centre = np.array([rows[0] + rows[-1], cols[0] + cols[-1]]) / 2 + rng.uniform(-0.22, 0.22, 2) * side
        if rng.random() < 0.12:
            on_black = True
            image, ids = np.where(mask[..., None], image, 0).astype(np.uint8), np.where(mask, ids, 255).astype(np.uint8)
    scale = WINDOW / side
    move = np.array([[scale, 0, WINDOW / 2 - scale * centre[1]], [0, scale, WINDOW / 2 - scale * centre[0]]])
    if rng.random() < 0.5:
        move = np.array([[-1, 0, WINDOW], [0, 1, 0]]) @ np.vstack([move, [0, 0, 1]])
    fill, size = np.round(np.asarray(MEAN) * 255).tolist(), (WINDOW, WINDOW)
    cut = cv2.warpAffine(np.ascontiguousarray(image), move, size, flags=cv2.INTER_LINEAR, borderValue=fill)
    owner = cv2.warpAffine(np.ascontiguousarray(ids), move, size, flags=cv2.INTER_NEAREST, borderValue=255)
    jitter = cut.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
    room = (SIDE - WINDOW) // CELL + 1
    corner = (int(rng.integers(room)), int(rng.integers(room)))
    return _label(np.clip(jitter, 0, 255).astype(np.uint8), owner, scene, word, on_black=on_black, corner=corner)


def _label(
    image: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    scene: PooledScene,
    word: int,
    *,
    on_black: bool,
    corner: tuple[int, int] | None = None,
) -> View:
    """What a picture shows, from its ids (255 = padding); things that a window's border cuts get no box."""
    grid = ids.shape[0] // CELL
    cells = np.full((grid, grid), len(NAMES) + scene.environment, dtype=np.int64)
    things = np.full((grid, grid), -1, dtype=np.int64)
    boxes = np.zeros((grid, grid, 4), dtype=np.float32)
    blocks = ids.reshape(grid, CELL, grid, CELL)
    outside = (blocks == 255).mean(axis=(1, 3)) > 0.5
    best = np.full((grid, grid), 0.25)
    shift = np.array([corner[1], corner[0]]) * CELL if corner else np.zeros(2)
    seen: list[tuple[int, int]] = []
    for number, name in enumerate(scene.names, start=1):
        mask = ids == number
        area = int(mask.sum())
        if area < 30:
            continue
        seen.append((area, name))
        cover = (blocks == number).mean(axis=(1, 3))
        take = cover > best
        best = np.maximum(best, cover)
        cells[take], things[take], boxes[take] = name, -2, 0
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        low, high = np.array([cols[0], rows[0]]), np.array([cols[-1] + 1, rows[-1] + 1])
        if corner and (low.min() == 0 or high.max() == ids.shape[0]):
            continue
        centre = (low + high) / 2
        boxes[take] = np.concatenate([centre + shift, high - low]) / SIDE
        ys, xs = np.nonzero(take & (cover > 0.4))
        # the most central of the cells that it fills answer for it
        distance = np.hypot((xs + 0.5) * CELL - centre[0], (ys + 0.5) * CELL - centre[1])
        for i in np.argsort(distance)[:3]:
            things[ys[i], xs[i]] = name
    empty = outside & (best <= 0.25)
    cells[empty], things[empty] = -100, -1
    if on_black:
        things[things == -1] = -2
    if word < 0 or (word < len(NAMES) and word not in [name for _, name in seen]):
        word = max(seen)[1] if seen else len(NAMES) + scene.environment
    return View(image, cells, word, boxes, things, corner or (0, 0))


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
