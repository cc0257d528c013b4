"""Training pictures cut out of pooled scenes on the device, many at once, with exact labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from int_model.nano.habits.pool import MOST, Pool
from int_model.nano.scenes import SIDE as SCENE
from int_model.nano.tower_views import CELL, MEAN, SIDE, STD

GRID = SIDE // CELL


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """B pictures of 112 x 112 pixels.

    Attributes:
        pixels: ``float32 [B, 3, S, S]``, normalised as CLIP's image processor does it.
        ids: ``uint8 [B, S, S]``: as in the pool; 255 where there is no scene.
    """

    pixels: Tensor
    ids: Tensor


def cut(pool: Pool, rows: Tensor, corners: Tensor, flip: Tensor) -> Cuts:
    """Rectangles of scenes, padded to squares with the mean colour, brought to 112 x 112, mirrored where ``flip``.

    Args:
        pool: the scenes.
        rows: ``int64 [B]``: which scenes.
        corners: ``float32 [B, 4]``: top, left, bottom, right in pixels.
        flip: ``bool [B]``.
    """
    device = rows.device
    ids = pool.ids[rows]
    images = pool.images[rows].permute(0, 3, 1, 2).float()
    mean = torch.tensor(MEAN, device=device)[:, None, None] * 255
    images = torch.where((ids == 255)[:, None], mean, images)
    top, left, bottom, right = squared(corners).unbind(1)
    sign = torch.where(flip, -1.0, 1.0)
    theta = torch.zeros(len(rows), 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 2] = sign * (right - left) / SCENE, (right + left) / SCENE - 1
    theta[:, 1, 1], theta[:, 1, 2] = (bottom - top) / SCENE, (bottom + top) / SCENE - 1
    fine = nnf.affine_grid(theta, [len(rows), 3, 2 * SIDE, 2 * SIDE], align_corners=False)
    picture = nnf.grid_sample(images, fine, align_corners=False, padding_mode="border")
    picture = nnf.avg_pool2d(torch.where(_outside(fine, corners)[:, None], mean, picture), 2)
    coarse = nnf.affine_grid(theta, [len(rows), 1, SIDE, SIDE], align_corners=False)
    owner = nnf.grid_sample(ids[:, None].float(), coarse, mode="nearest", align_corners=False, padding_mode="border")
    owner = torch.where(_outside(coarse, corners)[:, None], 255.0, owner)[:, 0].round().to(torch.uint8)
    scale = torch.empty(len(rows), 3, 1, 1, device=device).uniform_(0.9, 1.1)
    shift = torch.empty(len(rows), 1, 1, 1, device=device).uniform_(-8, 8)
    picture = (picture * scale + shift).clamp(0, 255)
    return Cuts((picture - mean) / (torch.tensor(STD, device=device)[:, None, None] * 255), owner)


def _outside(grid: Tensor, corners: Tensor) -> Tensor:
    """Where sampling places ``[B, h, w, 2]`` lie outside of their rectangles, ``bool [B, h, w]``."""
    top, left, bottom, right = (2 * corners / SCENE - 1)[:, :, None, None].unbind(1)
    x, y = grid.unbind(-1)
    return (x < left) | (x > right) | (y < top) | (y > bottom)


def extents(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Area ``[B, 9]`` and box ``[B, 9, 4]`` (left, top, right, bottom, in pixels) of objects 1 to 9 in ids."""
    present = ids[:, None] == torch.arange(1, MOST + 1, device=ids.device, dtype=ids.dtype)[:, None, None]
    area = present.sum((-1, -2))
    cols, rows = present.any(-2), present.any(-1)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        first = line.float().argmax(-1)
        last = line.shape[-1] - line.flip(-1).float().argmax(-1)
        return first, last

    (left, right), (top, bottom) = ends(cols), ends(rows)
    boxes = torch.stack([left, top, right, bottom], dim=-1).float()
    return area, torch.where(area[..., None] > 0, boxes, 0.0)


def squared(corners: Tensor) -> Tensor:
    """Rectangles ``[B, 4]`` enlarged to squares around their middles."""
    top, left, bottom, right = corners.unbind(1)
    half = torch.maximum(bottom - top, right - left) / 2
    cy, cx = (top + bottom) / 2, (left + right) / 2
    return torch.stack([cy - half, cx - half, cy + half, cx + half], dim=1)


def patch_corners(sizes: Tensor, *, whole: float) -> Tensor:
    """The whole scene (so often), or one of INT's halves and quarters, ``float32 [B, 4]``."""
    height, width = sizes[:, 0].float(), sizes[:, 1].float()
    draw = torch.randint(0, 8, (len(sizes),), device=sizes.device)
    rects = torch.tensor(
        [
            (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1),
            (0, 0, 0.5, 0.5), (0, 0.5, 0.5, 1), (0.5, 0, 1, 0.5), (0.5, 0.5, 1, 1),
        ],
        device=sizes.device,
    )[draw]  # fmt: skip
    rects = torch.where(
        (torch.rand(len(sizes), device=sizes.device) < whole)[:, None], rects.new_tensor([0, 0, 1, 1.0]), rects
    )
    return rects * torch.stack([height, width, height, width], dim=1)
