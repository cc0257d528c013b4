"""Recipe 2: a small SAM, from boxes and points to masks, on scenes that never show some of the animals."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from int_model.nano.pool import PooledScene, ScenePool
from int_model.nano.tower import learning_rate
from int_model.nano.world import NAMES, UNSEEN_BY_SEGMENTER

log = logging.getLogger(__name__)
SIDE, CELL = 192, 12
LOW = 4 * SIDE // CELL
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPTS = 3
_UNSEEN = {NAMES.index(name) for name in UNSEEN_BY_SEGMENTER}


def config() -> SamConfig:
    """1.6 M parameters; 16 x 16 image tokens, masks of 64 x 64 logits."""
    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=128,
            output_channels=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=CELL,
            mlp_dim=512,
            window_size=8,
            global_attn_indexes=[1, 3],
            num_pos_feats=48,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=96, image_size=SIDE, patch_size=CELL, mask_input_channels=8
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=96,
            mlp_dim=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            iou_head_hidden_dim=64,
            attention_downsample_rate=1,
        ),
    )


def fresh() -> SamModel:
    """An untrained model that can learn.

    The library's start is meant to be overwritten by weights: 0.02 everywhere leaves the decoder asleep, and position
    frequencies of 64 (SAM's own: 1) turn a box's corners into noise.
    """
    model = SamModel(config())
    for part in model.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Embedding):
            part.reset_parameters()
    frequencies = model.shared_image_embedding.positional_embedding
    torch.nn.init.normal_(frequencies)
    frequencies.requires_grad_(requires_grad=False)
    return model


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """``float32 [N, 3, H, W]`` normalised as SAM's image processor does it."""
    array = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (array - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def usable(scene: PooledScene) -> bool:
    """Whether the segmenter may be shown this scene."""
    return bool(scene.names) and not _UNSEEN & set(scene.names)


def _points(mask: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    ys, xs = np.nonzero(mask)
    pick = rng.integers(0, len(ys), count)
    return np.stack([xs[pick] + 0.5, ys[pick] + 0.5], axis=-1).astype(np.float32)


class Batch:
    """Images with PROMPTS prompts each, all of one kind: ``box``, ``points`` or ``both``."""

    def __init__(self, scenes: list[PooledScene], kind: str, rng: np.random.Generator) -> None:
        size = len(scenes)
        images = np.zeros((size, SIDE, SIDE, 3), dtype=np.uint8)
        self.masks = np.zeros((size, PROMPTS, SIDE, SIDE), dtype=np.bool_)
        self.boxes = np.zeros((size, PROMPTS, 4), dtype=np.float32)
        self.points = np.zeros((size, PROMPTS, 3, 2), dtype=np.float32)
        self.labels = np.zeros((size, PROMPTS, 3), dtype=np.int64)
        self.inside = np.zeros((size, SIDE, SIDE), dtype=np.float32)
        positives = int(rng.integers(1, 4))
        for row, scene in enumerate(scenes):
            height, width = scene.ids.shape
            image, ids = scene.image, scene.ids
            if rng.random() < 0.5:
                image, ids = image[:, ::-1], ids[:, ::-1]
            jitter = image.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
            images[row, :height, :width] = np.clip(jitter, 0, 255)
            self.inside[row, :height, :width] = 1
            numbers = [n for n in range(1, len(scene.names) + 1) if (ids == n).sum() > 40]
            for p in range(PROMPTS):
                if not numbers:
                    continue
                mask = ids == numbers[(p + row) % len(numbers)]
                self.masks[row, p, :height, :width] = mask
                rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], dtype=np.float32)
                span = np.array([box[2] - box[0], box[3] - box[1]] * 2)
                box += rng.normal(0, 0.045, 4) * span
                self.boxes[row, p] = np.clip(box, 0, [width, height, width, height])
                self.points[row, p, :positives] = _points(mask, positives, rng)
                self.labels[row, p, :positives] = 1
                if positives < 3:
                    grown = np.zeros_like(mask)
                    y1, x1 = max(0, int(box[1] - 12)), max(0, int(box[0] - 12))
                    grown[y1 : int(box[3]) + 12, x1 : int(box[2]) + 12] = True
                    free = grown & ~mask
                    self.points[row, p, positives:] = _points(free if free.any() else ~mask, 3 - positives, rng)
        self.pixels = to_tensor(images) * torch.from_numpy(self.inside)[:, None]
        self.kind = kind

    def prompts(self) -> dict[str, torch.Tensor]:
        out = {}
        if self.kind != "points":
            out["input_boxes"] = torch.from_numpy(self.boxes)
        if self.kind != "box":
            out["input_points"] = torch.from_numpy(self.points)
            out["input_labels"] = torch.from_numpy(self.labels)
        return out


def loss_of(
    logits: torch.Tensor, iou: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """SAM's loss on the best of C masks plus the error of all predicted IoUs; also the mean IoU reached.

    ``logits [B, P, C, h, w]``, ``iou [B, P, C]``, ``masks [B, P, H, W]`` in {0, 1}, ``inside [B, H, W]``.
    """
    low = (logits.shape[-2], logits.shape[-1])
    truth = nnf.adaptive_avg_pool2d(masks, low)[:, :, None]
    weight = nnf.adaptive_avg_pool2d(inside, low)[:, None, None]
    prob = logits.sigmoid()
    bce = nnf.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    near = 1 + 4 * ((truth > 0.02) & (truth < 0.98)).float()  # the border decides the IoU
    focal = ((truth - prob).abs().clamp(0.05) * near * bce * weight).mean((-1, -2)) * 10
    common, total = (prob * truth).sum((-1, -2)), (prob + truth).sum((-1, -2))
    dice = 1 - (2 * common + 1) / (total + 1)
    per_mask = focal + dice
    hit = ((logits > 0) & (truth > 0.5)).sum((-1, -2)).float()
    either = ((logits > 0) | (truth > 0.5)).sum((-1, -2)).float()
    reached = hit / either.clamp(min=1)
    real = masks.any(-1).any(-1)
    best = per_mask.argmin(-1, keepdim=True)
    mask_loss = (per_mask.gather(-1, best)[..., 0] + 0.05 * per_mask.mean(-1))[real].mean()
    iou_loss = ((iou - reached.detach()) ** 2)[real].mean()
    return mask_loss + iou_loss, reached.gather(-1, best)[..., 0][real].mean()


@dataclass(frozen=True, slots=True)
class Phase:
    """A run of batches with a learning rate that rises, then falls along a cosine; how often each kind of prompt."""

    steps: int
    peak: float
    kinds: tuple[float, float, float]  # box, box and points, points


PHASES = (Phase(3800, 8e-4, (0.5, 0.3, 0.2)), Phase(6000, 7e-4, (0.55, 0.3, 0.15)))


def train(
    pool: ScenePool,
    out: Path,
    *,
    phases: Sequence[Phase] = PHASES,
    start: Path | None = None,
    batch: int = 12,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Train on batches of ``batch`` images, from nothing or from the weights ``start``; save the weights to ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = fresh()
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True, map_location="cpu"))
    model = model.to(device).train()
    allowed = [i for i in range(len(pool)) if pool.names(i) and not _UNSEEN & set(pool.names(i))]
    out.parent.mkdir(parents=True, exist_ok=True)
    for phase in phases:
        _run(model, pool, allowed, phase, batch, rng, out)
    return out


def _run(
    model: SamModel,
    pool: ScenePool,
    allowed: Sequence[int],
    phase: Phase,
    batch: int,
    rng: np.random.Generator,
    out: Path,
) -> None:
    device = model.device
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, weight_decay=0.02, betas=(0.9, 0.98))
    started, shown, mean_iou = time.monotonic(), 0.0, 0.0
    for step in range(phase.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, phase.steps, phase.peak)
        kind = str(rng.choice(["box", "both", "points"], p=phase.kinds))
        data = Batch([pool[allowed[int(i)]] for i in rng.integers(0, len(allowed), batch)], kind, rng)
        masks = torch.from_numpy(data.masks).float().to(device)
        inside = torch.from_numpy(data.inside).to(device)
        multimask = bool(rng.random() < 0.75)
        prompts = {k: v.to(device) for k, v in data.prompts().items()}
        with torch.autocast(device.type, torch.bfloat16):
            embedding = model.get_image_embeddings(data.pixels.to(device))
            result = model(image_embeddings=embedding.float(), **prompts, multimask_output=multimask)
        loss, reached = loss_of(result.pred_masks.float(), result.iou_scores.float(), masks, inside)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        shown, mean_iou = shown + loss.item() / 50, mean_iou + reached.item() / 50
        if step % 50 == 49:
            rate = (step + 1) * batch / (time.monotonic() - started)
            text = "segmenter %d/%d loss %.3f best-of IoU %.3f, %.1f images/s"
            log.info(text, step + 1, phase.steps, shown, mean_iou, rate)
            shown = mean_iou = 0.0
        if step % 250 == 249 or step == phase.steps - 1:
            torch.save(model.state_dict(), out)


def processor() -> SamProcessor:
    """Longest side to 192, padded at the right and bottom."""
    return SamProcessor(
        SamImageProcessor(
            size={"longest_edge": SIDE},
            pad_size={"height": SIDE, "width": SIDE},
            mask_size={"longest_edge": LOW},
            mask_pad_size={"height": LOW, "width": LOW},
        )
    )


def export(weights: Path, checkpoints: Path) -> None:
    """Write ``segmenter/`` in half precision, as an ordinary checkpoint."""
    model = SamModel(config())
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    model.half().save_pretrained(checkpoints / "segmenter")
    processor().save_pretrained(checkpoints / "segmenter")
