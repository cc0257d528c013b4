"""Spatial CLIP: from patch and text features to a similarity map and points (paper eq. 10, after GenSAM).

CLIP Surgery's single-text map: the features of the patches times the text feature, from which the feature of the empty
text has been taken away (it stands for what every text has in common). Features come from ``TextImage.embed_patches``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.config import IntConfig, SpatialClipConfig
from int_model.core.types import Floats, SoftMask
from int_model.models.calls import ModelCalls
from int_model.point_prompting.role import PointPrompts, PointQuery

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

_QUALITIES = (
    "bad",
    "good",
    "blurry",
    "bright",
    "dark",
    "close-up",
    "cropped",
    "low resolution",
    "black and white",
    "pixelated",
    "jpeg corrupted",
    "noisy",
)
_OBJECT_WORDS = ("clean", "dirty", "small", "large", "weird", "nice", "cool", "hard to see")
_MEDIA = (
    "sculpture",
    "rendering",
    "drawing",
    "painting",
    "sketch",
    "cartoon",
    "doodle",
    "tattoo",
    "toy version",
    "video game version",
    "plush version",
    "origami version",
    "plastic version",
    "embroidered version",
)


def _ensemble() -> tuple[str, ...]:
    articles = ("a", "the")
    photos = [f"{a} {quality} photo of a {{}}." for a in articles for quality in _QUALITIES]
    objects = [f"a photo of {a} {word} {{}}." for a in articles for word in _OBJECT_WORDS]
    media = [f"a {medium} of {a} {{}}." for a in articles for medium in _MEDIA]
    counts = [f"a photo of {a} {{}}." for a in ("a", "the", "one", "my", "many")]
    scenes = [f"there is {a} {{}} in the scene." for a in ("a", "the", "this", "one")]
    shows = [f"this is {a} {{}} in the scene." for a in ("a", "the", "one")]
    arts = [f"{kind} of {a} {{}}." for kind in ("art", "a snapshot") for a in articles]
    return (*photos, *objects, *media, *counts, *scenes, *shows, *arts, "itap of a {}.")


TEMPLATES: dict[str, tuple[str, ...]] = {
    "ensemble": _ensemble(),
    "photo": ("a photo of a {}.",),
    "plain": ("{}",),
}
"""Sentences that a text is put into; 85 in the ensemble, as in the ancestor code (with wording of our own)."""


class SpatialClip:
    """The ``PointPrompter`` of the paper; it needs no training."""

    def __init__(self, config: SpatialClipConfig) -> None:
        self._config = config

    def prompt(self, calls: ModelCalls, queries: Sequence[PointQuery]) -> list[PointPrompts]:
        """See ``PointPrompter.prompt``."""
        owners, images = [query.owner for query in queries], [query.image for query in queries]
        features = calls.embed_patches(owners, images, self._config.normalise)
        return [self._points(calls, query, grid) for query, grid in zip(queries, features, strict=True)]

    def _points(self, calls: ModelCalls, query: PointQuery, grid: NDArray[np.float32]) -> PointPrompts:
        options = self._config
        name, environment, empty = (
            calls.embed_text(query.owner, sentences(text, options.templates))
            for text in (query.name, query.background, "")
        )
        background = environment[None] if options.use_background else None
        similarity = similarity_map(grid, name[None], background, empty, strategy=options.strategy)
        points, labels = map_to_points(
            similarity,
            (query.image.shape[0], query.image.shape[1]),
            down_sample=options.down_sample,
            threshold=options.attn_thr,
            max_points=options.max_points,
        )
        return PointPrompts(points, labels, similarity)


def make(suite: ModelSuite, config: IntConfig) -> SpatialClip:
    """The point prompter over the suite's CLIP, which it reaches through ``ModelCalls``."""
    del suite
    return SpatialClip(config.sclip)


def sentences(text: str, templates: Literal["ensemble", "photo", "plain"]) -> tuple[str, ...]:
    """The text in every sentence of a template set."""
    return tuple(template.format(text) for template in TEMPLATES[templates])


def min_max(values: NDArray[np.floating]) -> Floats:
    """Values scaled to ``[0, 1]``; all zero if they are equal."""
    wide = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    return np.asarray(np.zeros_like(wide) if high - low < 1e-12 else (wide - low) / (high - low))


def similarity_map(
    patch_features: NDArray[np.float32],
    foreground: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    empty: NDArray[np.float32],
    *,
    strategy: Literal["FgBgHm", "FgBgHmClamp"] = "FgBgHm",
) -> SoftMask:
    """Where the foreground texts are, ``float32 [gh, gw]`` in ``[0, 1]``.

    Args:
        patch_features: ``[gh, gw, D]``, scaled as ``TextImage.embed_patches`` was asked; they are not scaled again.
        foreground: features of the object's names, ``[n, D]``, n >= 1.
        background: features of the environment's names, ``[m, D]``, whose map is subtracted; None to leave it out.
        empty: feature of the empty text, ``[D]``.
        strategy: ``FgBgHm`` the plain difference, ``FgBgHmClamp`` clamped to ``[0, 1]`` before the last scaling.
    """
    features = patch_features.astype(np.float64)
    heat = _mean_map(features, foreground, empty)
    if background is not None and len(background):
        heat = heat - _mean_map(features, background, empty)
        if strategy == "FgBgHmClamp":
            heat = heat.clip(0.0, 1.0)
    return min_max(heat).astype(np.float32)


def _mean_map(features: Floats, texts: NDArray[np.float32], empty: NDArray[np.float32]) -> Floats:
    specific = (texts - empty[None]).astype(np.float64)
    maps = features @ specific.T
    return np.asarray(np.mean([min_max(maps[..., i]) for i in range(maps.shape[-1])], axis=0))


def map_to_points(
    similarity: SoftMask,
    size: tuple[int, int],
    *,
    down_sample: float = 0.5,
    threshold: float = 0.9,
    max_points: int = 32,
) -> tuple[Floats, NDArray[np.int64]]:
    """Positive and as many negative points from a similarity map of an image of ``size`` (height, width).

    The map is resized by ``1 / down_sample`` and scaled to ``[0, 1]``; cells at or above ``threshold`` are positive
    (the best half of the cells at most, and at most ``max_points``), the lowest cells negative. A flat map has none.

    Returns:
        ``float64 [P, 2]`` cell centres (x, y) in image pixels, positives first, and labels ``int64 [P]`` 1 or 0.
    """
    rows, cols = (max(1, round(n / down_sample)) for n in similarity.shape)
    fine = min_max(cv2.resize(similarity, (cols, rows), interpolation=cv2.INTER_LINEAR)).ravel()
    if not fine.any():
        return np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    count = int(min((fine >= threshold).sum(), fine.size // 2, max_points))
    order = np.argsort(fine, kind="stable")
    cells = np.concatenate([order[::-1][:count], order[:count]])
    x = (cells % cols + 0.5) * size[1] / cols
    y = (cells // cols + 0.5) * size[0] / rows
    labels = np.repeat(np.array([1, 0], dtype=np.int64), count)
    return np.stack([x, y], axis=1), labels
