"""Recipe 2: a small SAM, from boxes and points to masks, on scenes that never show some of the animals."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
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
SIDE, CELL = 192, 8
LOW = 4 * SIDE // CELL
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_UNSEEN = {NAMES.index(name) for name in UNSEEN_BY_SEGMENTER}


def config() -> SamConfig:
    """1.6 M parameters; 24 x 24 image tokens, masks of 96 x 96 logits. Absolute positions only, so that windows fit."""
    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=128,
            output_channels=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=CELL,
            mlp_dim=512,
            window_size=12,
            global_attn_indexes=[1, 3],
            use_rel_pos=False,
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


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N pictures of S pixels with P prompts each, all of one kind: ``box``, ``both`` (box and points) or ``points``.

    Attributes:
        pixels: ``float32 [N, 3, S, S]``; ``inside [N, S, S]`` is 1 where the picture is no padding.
        masks: ``float32 [N, P, S, S]`` in {0, 1}; all 0 where there was nothing to ask for.
        boxes, points, labels: the prompts, in pixels of the whole input.
        corners: ``int64 [N, 2]``: row and column of the picture's first token in the whole input's grid.
    """

    pixels: torch.Tensor
    inside: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    labels: torch.Tensor
    corners: torch.Tensor
    kind: str

    def prompts(self) -> dict[str, torch.Tensor | None]:
        """Arguments of SAM's prompt encoder."""
        boxes = self.boxes if self.kind != "points" else None
        points, labels = (self.points, self.labels) if self.kind != "box" else (None, None)
        return {"input_points": points, "input_labels": labels, "input_boxes": boxes, "input_masks": None}

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) for name, value in moved.items() if isinstance(value, torch.Tensor)}
        return replace(self, **moved)


def scene_batch(scenes: Sequence[PooledScene], kind: str, rng: np.random.Generator) -> Batch:
    """Whole scenes, mirrored at random, padded to ``SIDE`` at the right and bottom."""
    pictures: list[_Picture] = []
    for scene in scenes:
        mirrored = rng.random() < 0.5
        image, ids = (scene.image[:, ::-1], scene.ids[:, ::-1]) if mirrored else (scene.image, scene.ids)
        numbers = [n for n in range(1, len(scene.names) + 1) if (ids == n).sum() > 40]
        asked = [numbers[(p + len(pictures)) % len(numbers)] for p in range(3)] if numbers else []
        pictures.append((image, ids, asked, (0, 0)))
    return _batch(pictures, SIDE, 3, kind, rng)


def window_batch(scenes: Sequence[PooledScene], kind: str, rng: np.random.Generator) -> Batch:
    """Windows of half a side around single things: a quarter of the tokens, so four times as many things."""
    pictures = [_window(scene, rng) for scene in scenes]
    return _batch(pictures, SIDE // 2, 2, kind, rng)


_Picture = tuple[NDArray[np.uint8], NDArray[np.uint8], list[int], tuple[int, int]]


def _window(scene: PooledScene, rng: np.random.Generator) -> _Picture:
    half = SIDE // 2
    number = int(rng.integers(1, len(scene.names) + 1))
    mask = scene.ids == number
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size < 6 or cols.size < 6:
        return scene.image[:half, :half], scene.ids[:half, :half], [], (0, 0)
    extent = max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1
    scale = min(1.25, float(rng.uniform(42, 94)) / extent)
    centre = np.array([rows[0] + rows[-1], cols[0] + cols[-1]]) / 2 + rng.uniform(-10, 10, 2) / scale
    sign = float(rng.choice([-1.0, 1.0]))
    move = np.array([[sign * scale, 0, half / 2 - sign * scale * centre[1]], [0, scale, half / 2 - scale * centre[0]]])
    flags = cv2.INTER_LINEAR if scale > 0.9 else cv2.INTER_AREA
    image = cv2.warpAffine(np.ascontiguousarray(scene.image), move, (half, half), flags=flags)
    ids = cv2.warpAffine(np.ascontiguousarray(scene.ids), move, (half, half), flags=cv2.INTER_NEAREST, borderValue=255)
    others = [n for n in range(1, len(scene.names) + 1) if n != number and (ids == n).sum() > 150]
    second = others[int(rng.integers(len(others)))] if others else number
    room = half // CELL
    return image, ids, [number, second], (int(rng.integers(room + 1)), int(rng.integers(room + 1)))


def _batch(pictures: Sequence[_Picture], side: int, count: int, kind: str, rng: np.random.Generator) -> Batch:
    size = len(pictures)
    images = np.zeros((size, side, side, 3), dtype=np.uint8)
    inside = np.zeros((size, side, side), dtype=np.float32)
    masks = np.zeros((size, count, side, side), dtype=np.float32)
    boxes = np.zeros((size, count, 4), dtype=np.float32)
    points = np.zeros((size, count, 3, 2), dtype=np.float32)
    labels = np.zeros((size, count, 3), dtype=np.int64)
    positives = int(rng.integers(1, 4))
    for row, (image, ids, asked, corner) in enumerate(pictures):
        height, width = ids.shape
        jitter = image.astype(np.float32) * rng.uniform(0.85, 1.15, (1, 1, 3)) + rng.uniform(-12, 12)
        images[row, :height, :width] = np.clip(jitter, 0, 255)
        inside[row, :height, :width] = ids != 255
        shift = np.array([corner[1], corner[0]], dtype=np.float32) * CELL
        for p, number in enumerate(asked):
            mask = ids == number
            if not mask.any():
                continue
            masks[row, p, :height, :width] = mask
            box = _jittered_box(mask, rng)
            boxes[row, p] = box + np.tile(shift, 2)
            points[row, p, :positives] = _points(mask, positives, rng) + shift
            labels[row, p, :positives] = 1
            if positives < 3:
                points[row, p, positives:] = _points(_around(mask, box), 3 - positives, rng) + shift
    keep = torch.from_numpy(inside)
    return Batch(
        pixels=to_tensor(images) * keep[:, None],
        inside=keep,
        masks=torch.from_numpy(masks),
        boxes=torch.from_numpy(boxes),
        points=torch.from_numpy(points),
        labels=torch.from_numpy(labels),
        corners=torch.tensor([corner for *_, corner in pictures]),
        kind=kind,
    )


def _jittered_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], dtype=np.float32)
    box += (rng.normal(0, 0.045, 4) * np.array([cols.size, rows.size] * 2)).astype(np.float32)
    height, width = mask.shape
    return np.clip(box, 0, np.array([width, height] * 2, dtype=np.float32))


def _around(mask: NDArray[np.bool_], box: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where negative points may lie: near the thing, not on it."""
    near = np.zeros_like(mask)
    near[max(0, int(box[1]) - 12) : int(box[3]) + 12, max(0, int(box[0]) - 12) : int(box[2]) + 12] = True
    free: NDArray[np.bool_] = near & ~mask
    return free if free.any() else ~mask


def predict(model: SamModel, batch: Batch, *, multimask: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits ``[N, P, C, h, w]`` and predicted IoUs ``[N, P, C]``.

    On whole inputs this is SAM's forward pass. A window's tokens get the position codes of the place in the whole
    input's grid that its corner names, and its prompts' coordinates already refer to that place.
    """
    encoder, grid = model.vision_encoder, batch.pixels.shape[-1] // CELL
    steps = torch.arange(grid, device=batch.pixels.device)
    rows, cols = batch.corners[:, 0, None] + steps, batch.corners[:, 1, None] + steps
    hidden = encoder.patch_embed.projection(batch.pixels).permute(0, 2, 3, 1)
    hidden = hidden + encoder.pos_embed[0][rows[:, :, None], cols[:, None, :]]
    for layer in encoder.layers:
        hidden = layer(hidden)
    embedding = encoder.neck(hidden)
    places = model.get_image_wide_positional_embeddings()[0].permute(1, 2, 0)
    places = places[rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    sparse, dense = model.prompt_encoder(**batch.prompts())
    logits, iou = model.mask_decoder(
        image_embeddings=embedding.float(),
        image_positional_embeddings=places,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense[..., :grid, :grid],
        multimask_output=multimask,
    )
    return logits.float(), iou.float()


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
    batch: int
    peak: float
    windows: bool
    kinds: tuple[float, float, float] = (0.55, 0.3, 0.15)  # box, both, points


PHASES = (Phase(2000, 32, 1e-3, windows=True), Phase(300, 12, 4e-4, windows=False))


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
    model = fresh()
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True, map_location="cpu"))
    model = model.to(device).train()
    allowed = [i for i in range(len(pool)) if pool.names(i) and not _UNSEEN & set(pool.names(i))]
    out.parent.mkdir(parents=True, exist_ok=True)
    for phase in phases:
        _run(model, pool, allowed, phase, rng, out)
    return out


def _run(
    model: SamModel, pool: ScenePool, allowed: Sequence[int], phase: Phase, rng: np.random.Generator, out: Path
) -> None:
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, weight_decay=0.02, betas=(0.9, 0.98))
    draw = window_batch if phase.windows else scene_batch
    started, shown, mean_iou = time.monotonic(), 0.0, 0.0
    for step in range(phase.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, phase.steps, phase.peak)
        kind = str(rng.choice(["box", "both", "points"], p=phase.kinds))
        scenes = [pool[allowed[int(i)]] for i in rng.integers(0, len(allowed), phase.batch)]
        batch = draw(scenes, kind, rng).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            logits, iou = predict(model, batch, multimask=bool(rng.random() < 0.75))
        loss, reached = loss_of(logits, iou, batch.masks, batch.inside)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        shown, mean_iou = shown + loss.item() / 50, mean_iou + reached.item() / 50
        if step % 50 == 49:
            rate = (step + 1) * phase.batch / (time.monotonic() - started)
            text = "segmenter %d/%d loss %.3f best-of IoU %.3f, %.1f pictures/s"
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
