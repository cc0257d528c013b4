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

from int_model.nano.pool import PooledScene, ScenePool
from int_model.nano.text import MAX_TEXT, TEMPLATES, clip_tokenizer
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES, TASKS
from int_model.patches import pad_to_square, square_frame

log = logging.getLogger(__name__)

SIDE, CELL, WIDTH, DEPTH, TEXT = 144, 12, 160, 5, 96
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
    """One training picture ``uint8 [S, S, 3]`` with what each cell shows and where the things are."""

    image: NDArray[np.uint8]
    cells: NDArray[np.int64]  # [G, G] index into WORDS, -100 = not asked
    word: int  # index into WORDS for the class token
    boxes: NDArray[np.float32]  # [G, G, 4] cx cy w h of the thing in this cell, relative
    things: NDArray[np.int64]  # [G, G] index into NAMES, -1 = none, -2 = not asked


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
    kind = rng.choice(4, p=[0.42, 0.28, 0.18, 0.12])
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
    return _label(np.clip(jitter, 0, 255).astype(np.uint8), np.ascontiguousarray(ids), scene, word, kind == 3)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A thing and what is around it, as it might lie somewhere in a view: ``uint8 [S/2, S/2, 3]``."""

    image: NDArray[np.uint8]
    cells: NDArray[np.int64]  # [G/2, G/2] index into WORDS, -100 = not asked
    word: int
    corner: tuple[int, int]  # row and column of its first cell in the view's grid


def make_window(scene: PooledScene, rng: np.random.Generator) -> Window:
    """A square around a random thing (sometimes around nothing), at about the scale at which views show it."""
    half, grid = SIDE // 2, GRID // 2
    height, width = scene.ids.shape
    pick = int(rng.integers(len(scene.names)))
    mask = scene.ids == pick + 1
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    image, ids = scene.image, scene.ids
    if rows.size < 8 or cols.size < 8 or rng.random() < 0.08:
        word, centre, side = -1, rng.uniform((0, 0), (height, width)), float(rng.uniform(60, 120))
    else:
        word = scene.names[pick]
        extent = max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1
        side = extent / float(rng.uniform(0.55, 1.15))
        centre = np.array([rows[0] + rows[-1], cols[0] + cols[-1]]) / 2 + rng.uniform(-0.22, 0.22, 2) * side
        if rng.random() < 0.12:
            image, ids = np.where(mask[..., None], image, 0).astype(np.uint8), np.where(mask, ids, 255).astype(np.uint8)
    scale = half / side
    move = np.array([[scale, 0, half / 2 - scale * centre[1]], [0, scale, half / 2 - scale * centre[0]]])
    if rng.random() < 0.5:
        move = np.array([[-1, 0, half], [0, 1, 0]]) @ np.vstack([move, [0, 0, 1]])
    fill = np.round(np.asarray(MEAN) * 255).tolist()
    cut = cv2.warpAffine(np.ascontiguousarray(image), move, (half, half), flags=cv2.INTER_LINEAR, borderValue=fill)
    owner = cv2.warpAffine(np.ascontiguousarray(ids), move, (half, half), flags=cv2.INTER_NEAREST, borderValue=255)
    cells = np.full((grid, grid), len(NAMES) + scene.environment, dtype=np.int64)
    blocks, best = owner.reshape(grid, CELL, grid, CELL), np.full((grid, grid), 0.25)
    for number, name in enumerate(scene.names, start=1):
        cover = (blocks == number).mean(axis=(1, 3))
        cells[cover > best], best = name, np.maximum(best, cover)
    cells[((blocks == 255).mean(axis=(1, 3)) > 0.5) & (best <= 0.25)] = -100
    if word < 0:
        inside = cells[(cells >= 0) & (cells < len(NAMES))]
        word = int(np.bincount(inside).argmax()) if inside.size else len(NAMES) + scene.environment
    jitter = cut.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
    corner = (int(rng.integers(GRID - grid + 1)), int(rng.integers(GRID - grid + 1)))
    return Window(np.clip(jitter, 0, 255).astype(np.uint8), cells, word, corner)


def _label(image: NDArray[np.uint8], ids: NDArray[np.uint8], scene: PooledScene, word: int, on_black: bool) -> View:
    cells = np.full((GRID, GRID), len(NAMES) + scene.environment, dtype=np.int64)
    things = np.full((GRID, GRID), -1, dtype=np.int64)
    boxes = np.zeros((GRID, GRID, 4), dtype=np.float32)
    blocks = ids.reshape(GRID, CELL, GRID, CELL)
    outside = (blocks == 255).mean(axis=(1, 3)) > 0.5
    best = np.zeros((GRID, GRID))
    seen: list[tuple[int, int]] = []
    for number, name in enumerate(scene.names, start=1):
        mask = ids == number
        area = int(mask.sum())
        if area < 30:
            continue
        seen.append((area, name))
        cover = (blocks == number).mean(axis=(1, 3))
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([cols[0] + cols[-1] + 1, rows[0] + rows[-1] + 1, 2 * cols.size, 2 * rows.size]) / 2
        box[2:] = [cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0]]
        take = cover > np.maximum(best, 0.25)
        cells[take], boxes[take], things[take] = name, box / SIDE, -2
        best = np.maximum(best, cover)
        ys, xs = np.nonzero(take & (cover > 0.4))
        if len(ys):  # the most central of the cells that it fills answer for it
            distance = np.hypot((xs + 0.5) * CELL - box[0], (ys + 0.5) * CELL - box[1])
            for i in np.argsort(distance)[:3]:
                things[ys[i], xs[i]] = name
    cells[outside], things[outside] = -100, -1
    if on_black:
        things[things == -1] = -2
    names = [name for _, name in seen]
    if word < len(NAMES) and word not in names:
        word = max(seen)[1] if seen else len(NAMES) + scene.environment
    return View(image, cells, word, boxes, things)


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

    def window_losses(self, windows: Sequence[Window], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The tower's losses on windows, whose cells carry the positions of where they might lie in a view."""
        device, grid = self.owl.device, GRID // 2
        vision = self.owl.owlvit.vision_model
        pixels = to_tensor([w.image for w in windows]).to(device)
        corners = torch.tensor([w.corner for w in windows], device=device)
        steps = torch.arange(grid, device=device)
        rows, cols = corners[:, 0, None] + steps, corners[:, 1, None] + steps
        places = 1 + (rows[:, :, None] * GRID + cols[:, None, :]).flatten(1)
        with torch.autocast(device.type, torch.bfloat16):
            patches = vision.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
            positions = vision.embeddings.position_embedding.weight
            start = (vision.embeddings.class_embedding + positions[0]).expand(len(windows), 1, -1)
            hidden = torch.cat([start, patches + positions[places]], dim=1)
            last = vision.encoder(inputs_embeds=vision.pre_layernorm(hidden)).last_hidden_state
        cells = torch.from_numpy(np.stack([w.cells for w in windows])).flatten(1).to(device)
        dense, whole = self._word_losses(last, self.texts(WORDS, rng), cells, [w.word for w in windows])
        return {"dense": dense, "whole": whole}

    def _word_losses(
        self, last: torch.Tensor, words: torch.Tensor, cells: torch.Tensor, whole: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropies over WORDS: of the cells ``[N, T]``, and of the class tokens."""
        hidden = self.owl.owlvit.vision_model.post_layernorm(last.float())
        features = nnf.normalize(self.owl.owlvit.visual_projection(hidden), dim=-1)
        logits = self.owl.owlvit.logit_scale.clamp(max=4.6).exp() * features @ words.T
        dense = nnf.cross_entropy(logits[:, 1:].flatten(0, 1), cells.flatten(), ignore_index=-100)
        return dense, nnf.cross_entropy(logits[:, 0], torch.tensor(whole, device=last.device))

    def losses(self, views: Sequence[View], rng: np.random.Generator, autocast: bool = True) -> dict[str, torch.Tensor]:
        device = self.owl.device
        pixels = to_tensor([v.image for v in views]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            merged, vision = self.owl.image_embedder(pixels)
        words = self.texts([*WORDS, *TASKS], rng)
        cells = torch.from_numpy(np.stack([v.cells for v in views])).flatten(1).to(device)
        dense, whole = self._word_losses(vision.last_hidden_state, words[: len(WORDS)], cells, [v.word for v in views])

        feats = merged.float().flatten(1, 2)
        queries = torch.cat([words[: len(NAMES)], words[len(WORDS) :]])
        scores, _ = self.owl.class_predictor(feats, queries[None].expand(len(views), -1, -1), None)
        things = torch.from_numpy(np.stack([v.things for v in views])).flatten(1).to(device)
        table = torch.from_numpy(_QUERY_OF).to(device)
        target = torch.where((things >= 0)[..., None], table[things.clamp(min=0)], 0.0)
        asked = (things != -2)[..., None].float()
        prob = scores.sigmoid()
        hit = prob * target + (1 - prob) * (1 - target)
        weight = (0.75 * target + 0.25 * (1 - target)) * (1 - hit) ** 2
        focal = (weight * nnf.binary_cross_entropy_with_logits(scores, target, reduction="none") * asked).sum()
        count = (things >= 0).sum().clamp(min=1)
        predicted = self.owl.box_predictor(feats, merged.float())
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


def train(
    pool: ScenePool,
    out: Path,
    *,
    windows: int = 1100,
    steps: int = 1000,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Train on ``windows`` batches of 128 windows, then ``steps`` batches of 48 views; save the weights to ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Towers().to(device).train()
    shown = [i for i in range(len(pool)) if pool.names(i)]

    def window_losses() -> dict[str, torch.Tensor]:
        return model.window_losses([make_window(pool[shown[i]], rng) for i in rng.integers(0, len(shown), 128)], rng)

    def view_losses() -> dict[str, torch.Tensor]:
        return model.losses([make_view(pool[int(i)], rng) for i in rng.integers(0, len(pool), 48)], rng)

    out.parent.mkdir(parents=True, exist_ok=True)
    _phase(model, window_losses, windows, 1.2e-3, out, "windows")
    _phase(model, view_losses, steps, 8e-4, out, "views")
    return out


WEIGHTS = {"dense": 1.0, "whole": 1.0, "focal": 0.5, "box": 0.4}


def _phase(
    model: Towers, draw: Callable[[], dict[str, torch.Tensor]], steps: int, peak: float, out: Path, name: str
) -> None:
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    started, sums = time.monotonic(), dict.fromkeys(WEIGHTS, 0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        losses = draw()
        loss = torch.stack([WEIGHTS[key] * value for key, value in losses.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for key, value in losses.items():
            sums[key] += value.item() / 50
        if step % 50 == 49:
            means = {key: round(value, 3) for key, value in sums.items()}
            log.info(
                "tower %s %d/%d %s %.2f s/step", name, step + 1, steps, means, (time.monotonic() - started) / (step + 1)
            )
            sums = dict.fromkeys(sums, 0.0)
        if step % 250 == 249 or step == steps - 1:
            torch.save(model.owl.state_dict(), out)


def export(weights: Path, checkpoints: Path) -> None:
    """Write ``detector/`` (OWL-ViT) and ``clip/`` (CLIP) in half precision, as ordinary checkpoints."""
    owl = OwlViTForObjectDetection(config())
    owl.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    tokenizer = clip_tokenizer()
    owl.half().save_pretrained(checkpoints / "detector")
    tokenizer.save_pretrained(checkpoints / "detector")
    size = {"height": SIDE, "width": SIDE}
    OwlViTImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(checkpoints / "detector")

    clip = as_clip(owl)
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
