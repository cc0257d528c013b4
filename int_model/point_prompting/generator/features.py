"""What the generator sees of an image and an expression: features of the frozen CLIP and segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from torch import Tensor

from int_model.core.types import Image
from int_model.models.protocols import TextImage, TextTokens
from int_model.point_prompting.generator.expressions import head_noun
from int_model.point_prompting.generator.network import Seen

Features = NDArray[np.float32]
MOST_TOKENS = 32


@dataclass(frozen=True, slots=True, eq=False)
class TextSeen:
    """An expression: token features ``[L, D]`` (the sentence's own feature last), and the two texts of the map.

    ``maps`` is ``float32 [2, D]``: the expression's and its head noun's feature, the empty text's taken away.
    """

    tokens: Features
    maps: Features
    sentence: Features


@dataclass(frozen=True, slots=True, eq=False)
class ImageSeen:
    """An image: CLIP's patches ``float32 [gh, gw, Dp]``, the segmenter's features on the same cells or None."""

    patches: Features
    segmenter: Features | None


def see_texts(clip: TextImage, expressions: Sequence[str]) -> list[TextSeen]:
    """Features of expressions. A CLIP without token features gives the sentence's as its only token."""
    heads = [head_noun(text) for text in expressions]
    plain = [" ".join(text.lower().split()) for text in expressions]
    rows = clip.embed_texts(["", *plain, *heads])
    empty, sentences, nouns = rows[0], rows[1 : 1 + len(plain)], rows[1 + len(plain) :]
    if isinstance(clip, TextTokens):
        tokens = clip.embed_tokens(plain)
    else:
        tokens = [np.zeros((0, len(row)), dtype=np.float32) for row in sentences]
    return [
        TextSeen(
            np.concatenate([own[: MOST_TOKENS - 1], sentence[None]]).astype(np.float32),
            np.stack([_unit(sentence - empty), _unit(noun - empty)]),
            sentence,
        )
        for own, sentence, noun in zip(tokens, sentences, nouns, strict=True)
    ]


def see_images(patches: Features, images: Sequence[Image], encoded: Sequence[Features] | None) -> list[ImageSeen]:
    """Images from their patches ``[N, gh, gw, D]`` and the segmenter's ``float32 [C, h, w]`` over the padded square."""
    if encoded is None:
        return [ImageSeen(grid, None) for grid in patches]
    return [
        ImageSeen(grid, on_cells(features, (image.shape[0], image.shape[1]), (grid.shape[0], grid.shape[1])))
        for grid, image, features in zip(patches, images, encoded, strict=True)
    ]


def on_cells(features: Features, size: tuple[int, int], cells: tuple[int, int]) -> Features:
    """The segmenter's features ``[C, h, w]`` of an image of ``size`` on CLIP's cells: ``float32 [gh, gw, C]``.

    The image is in the upper left corner of the segmenter's square; CLIP saw it squashed to its own square.
    """
    grid, longer = features.shape[-1], max(size)
    rows, columns = (max(1, round(side / longer * grid)) for side in size)
    inner = torch.from_numpy(np.ascontiguousarray(features[:, :rows, :columns]))[None]
    placed = nnf.interpolate(inner, cells, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    return np.asarray(placed.numpy(), dtype=np.float32)


def similarity_channels(patches: Tensor, maps: Tensor) -> Tensor:
    """From patches ``[B, gh, gw, D]`` and maps ``[B, 2, D]`` both maps in [0, 1] and as cosines: ``[B, gh, gw, 4]``."""
    cosines = torch.einsum("bijd,bmd->bijm", patches, maps)
    low, high = cosines.amin((1, 2), keepdim=True), cosines.amax((1, 2), keepdim=True)
    return torch.cat([(cosines - low) / (high - low).clamp(min=1e-6), cosines], dim=-1)


def seen_of(patches: Tensor, segmenter: Tensor | None, texts: Sequence[TextSeen]) -> Seen:
    """A batch for the generator: image ``patches[i]`` belongs to ``texts[i]``; all on the device of ``patches``."""
    longest = max(len(text.tokens) for text in texts)
    tokens = np.zeros((len(texts), longest, texts[0].tokens.shape[1]), dtype=np.float32)
    words = np.zeros((len(texts), longest), dtype=np.bool_)
    for row, text in enumerate(texts):
        tokens[row, : len(text.tokens)] = text.tokens
        words[row, : len(text.tokens)] = True
    maps = torch.from_numpy(np.stack([text.maps for text in texts])).to(patches.device)
    return Seen(
        patches,
        similarity_channels(patches, maps),
        torch.from_numpy(tokens).to(patches.device),
        torch.from_numpy(words).to(patches.device),
        segmenter,
    )


def stacked(images: Sequence[ImageSeen], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
    """Patches ``[B, gh, gw, Dp]`` and the segmenter's features ``[B, gh, gw, Ds]`` (None where one lacks them)."""
    patches = torch.from_numpy(np.stack([image.patches for image in images])).to(device)
    segmenter = [image.segmenter for image in images if image.segmenter is not None]
    if len(segmenter) < len(images):
        return patches, None
    return patches, torch.from_numpy(np.stack(segmenter)).to(device)


def _unit(row: Features) -> Features:
    return np.asarray(row / max(float(np.linalg.norm(row)), 1e-6), dtype=np.float32)
