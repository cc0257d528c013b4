"""Made-up segmentations with a complete trace, for tests of everything that shows or writes one."""

from __future__ import annotations

import cv2
import numpy as np

from int_model.core.types import (
    Box,
    Candidate,
    Detection,
    Image,
    Instance,
    IterationTrace,
    Mask,
    Patch,
    Segmentation,
    Trace,
    union,
)

NAMES = ("chameleon", "leaf", "frog")


def scene(height: int = 240, width: int = 320, seed: int = 0) -> tuple[Image, list[Mask]]:
    """A noisy picture with two blobs that hardly differ from it, and their masks."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 255, (height, width, 3)).astype(np.float32), (0, 0), max(2, width / 60))
    noise = 110 + (noise - noise.mean()) * 5 + np.array([0, 25, -35], np.float32)
    masks = []
    for cx, cy, rx, ry in ((0.68, 0.62, 0.15, 0.12), (0.27, 0.33, 0.10, 0.14)):
        blob = np.zeros((height, width), np.uint8)
        centre, axes = (round(cx * width), round(cy * height)), (max(1, round(rx * width)), max(1, round(ry * height)))
        cv2.ellipse(blob, centre, axes, 20, 0, 360, 1, -1)
        masks.append(blob.astype(np.bool_))
        noise[masks[-1]] += np.array([14, -16, 10], np.float32)
    return np.clip(noise, 0, 255).astype(np.uint8), masks


def nine_patches(height: int, width: int) -> tuple[Patch, ...]:
    """Whole, halves and quarters."""
    h, w = height // 2, width // 2
    boxes = [(0, 0, width, height), (0, 0, w, height), (w, 0, width, height), (0, 0, width, h), (0, h, width, height)]
    boxes += [(0, 0, w, h), (w, 0, width, h), (0, h, w, height), (w, h, width, height)]
    return tuple(Patch(i, 1 if i == 0 else 2 if i < 5 else 4, Box(*map(float, box))) for i, box in enumerate(boxes))


def made_up(
    height: int = 240,
    width: int = 320,
    *,
    names: tuple[str, ...] = NAMES,
    iterations: int = 5,
    key: str = "patch",
    seed: int = 0,
    chosen: int = 3,
) -> tuple[Image, Segmentation]:
    """An image and its segmentation: nine views, ``names[0]`` wins, two instances, one box dropped."""
    rng = np.random.default_rng(seed)
    image, masks = scene(height, width, seed)
    patches = nine_patches(height, width)
    said = [0, 1, 0, 2 % len(names), 0, 1, 1, 0, 0]
    candidates = tuple(
        Candidate(
            patch=k,
            name=names[u % len(names)],
            environment="foliage",
            caption=f"The {names[u % len(names)]} sits on a branch, its skin matching the leaves around it.",
            box=Box.of_mask(masks[k % 2]),
            answers=(f"The {names[u % len(names)]} sits ...", names[u % len(names)], "foliage", "[0.5, 0.5, 0.8, 0.8]"),
        )
        for k, u in enumerate(said)
        if k != 7
    )
    before = rng.uniform(0.15, 0.45, (9, len(names)))
    before[:, 0] += rng.uniform(0.1, 0.4, 9)
    detections = tuple(
        Detection(box, score, names[0])
        for box, score in zip(
            (*(Box.of_mask(m) for m in masks), Box(4.0, 4.0, width / 5, height / 6)), (0.81, 0.66, 0.31), strict=True
        )
        if box is not None
    )
    log_scores = np.zeros(9 if key == "patch" else len(names))
    steps = []
    for i in range(1, iterations + 1):
        after = before - rng.uniform(-0.06, 0.06, before.shape)
        after[:, 0] -= rng.uniform(0.1, 0.3, 9)
        after[8, 0] = 0.06
        after = np.clip(after, 0.001, 0.999)
        drop = before - after
        reached = drop.argmax(axis=1)
        contrast = drop.max(axis=1)
        log_scores = log_scores + np.log(np.maximum(contrast if key == "patch" else drop.max(axis=0), 1e-6))
        best = int(log_scores.argmax()) if key == "patch" else int(drop[:, int(log_scores.argmax())].argmax())
        wobble = cv2.dilate(union((height, width), masks).astype(np.uint8), np.ones((1 + 2 * abs(i - chosen),) * 2))
        soft = cv2.GaussianBlur(wobble.astype(np.float32), (0, 0), 2)
        ys, xs = np.nonzero(masks[0])
        points = np.array([[xs.mean(), ys.mean()], [xs.mean() + 6, ys.mean() + 4], [8.0, 8.0], [width - 9.0, 12.0]])
        cleaned = [
            np.where(masks[k % 2][..., None], 120, image)[p.slices].astype(np.uint8) for k, p in enumerate(patches)
        ]
        steps.append(
            IterationTrace(
                index=i,
                inpaint_mode="per_patch_box" if i == 1 else "mask_crop",
                inpaint_mask=union((height, width), masks),
                inpainted=tuple(cleaned) if i != 3 else (),
                p_original=before,
                p_inpainted=after,
                contrast=contrast,
                patch_names=tuple(names[u] for u in reached),
                log_scores=log_scores,
                normalised=contrast / contrast.sum(),
                winner_patch=best,
                winner_name=names[int(reached[best])],
                background="foliage",
                boxes=detections,
                box_source="detector",
                points=points,
                point_labels=np.array([1, 1, 0, 0]),
                similarity=cv2.resize(soft, (28, 28), interpolation=cv2.INTER_AREA).clip(0, 1),
                mask_scores=np.array([0.95, 0.78, 0.2]),
                selected=np.array([True, True, False]),
                instance_masks=(*masks, detections[-1].box.to_mask(height, width)),
                soft_mask=soft.clip(0, 1),
                mask=wobble.astype(np.bool_),
                distance=0.0004 + 0.003 * abs(i - chosen),
            )
        )
    trace = Trace(
        task="camouflaged animal",
        strategy="int",
        patches=patches,
        candidates=candidates,
        names=names,
        iterations=tuple(steps),
        final_iteration=chosen if iterations else None,
        calls={"vlm_generate": 36, "vlm_score": 54, "inpaint": 13, "detect": 1, "segmenter_encode": 1},
        seconds={"vlm_generate": 2.4, "vlm_score": 3.1, "inpaint": 0.4, "segmenter_decode": 0.2},
        notes=("iteration 3: the mask hardly moved, so the inpainted views were kept",),
    )
    instances = tuple(Instance.of_mask(m, names[0], s) for m, s in zip(masks, (0.93, 0.71), strict=True))
    return image, Segmentation((height, width), "camouflaged animal", instances, 0.87, trace, name=names[0])
