"""SAM's decoder as something that can be trained: an fp32 copy over cached image features, all four mask slots."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from torch import Tensor, nn

from int_model.core.types import Image, Mask
from int_model.models.adapters.segmenter import HFSamSegmenter, SamEmbedding
from int_model.models.protocols import Embedding, MaskPrompt

Pause = Callable[[], None]
"""Called between pieces of work of a fraction of a second; it may wait, and what it raises ends the training."""

SLOTS = 4
"""SAM's mask tokens: slot 0 is its single-mask answer, slots 1 to 3 are the alternatives."""

Adjust = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(sparse prompt tokens [B, T, D], image features [B, D, h, w], positions [1, D, h, w]) -> tokens [B, T, D]."""


_ENCODED_AT_ONCE = 4  # between two pauses


def _go_on() -> None:
    """Nobody has to be let in."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One encoded image.

    Attributes:
        features: ``float32 [D, h, w]``, detached.
        size: ``(height, width)`` of the image.
        inner: ``(height, width)`` of the part of the square input that shows the image, in input pixels.
    """

    features: Tensor
    size: tuple[int, int]
    inner: tuple[int, int]


class TrainableSam(nn.Module):
    """Prompt encoder and mask decoder of a loaded SAM, copied to float32 and frozen until an arm says otherwise.

    The segmenter that serves is never touched: half-precision weights would turn into NaN under AdamW, and clicks are
    answered meanwhile.
    """

    def __init__(self, segmenter: HFSamSegmenter, pause: Pause | None = None) -> None:
        super().__init__()
        model = segmenter.model
        self._pause = pause or _go_on
        self._segmenter = segmenter
        self.prompt_encoder = copy.deepcopy(model.prompt_encoder).float()
        self.mask_decoder = copy.deepcopy(model.mask_decoder).float()
        for parameter in self.parameters():
            parameter.requires_grad = False
        with torch.inference_mode():
            positions = model.get_image_wide_positional_embeddings().float()
        self.positions: Tensor
        self.register_buffer("positions", positions.clone(), persistent=False)
        self.side = int(model.config.vision_config.image_size)
        self.width = int(model.config.mask_decoder_config.hidden_size)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the copy is."""
        device: torch.device = self.positions.device
        return device

    def encode(self, images: Sequence[Image]) -> list[Encoded]:
        """Images through the frozen encoder; the results can take part in autograd."""
        found = []
        for start in range(0, len(images), _ENCODED_AT_ONCE):
            self._pause()
            found += [self.adopt(entry) for entry in self._segmenter.encode(images[start : start + _ENCODED_AT_ONCE])]
        return found

    def adopt(self, embedding: Embedding) -> Encoded:
        """An embedding of the segmenter as this decoder takes it: a float32 copy outside of inference mode."""
        if not isinstance(embedding, SamEmbedding):
            raise TypeError(f"this takes an embedding of the segmenter, not {type(embedding).__name__}")
        return Encoded(embedding.features[0].detach().clone().float(), embedding.size, embedding.inner)

    def prompt_tokens(self, encoded: Sequence[Encoded], prompts: Sequence[MaskPrompt]) -> tuple[Tensor, Tensor]:
        """Sparse tokens ``[B, T, D]`` and dense embeddings ``[B, D, h, w]`` of one prompt per image.

        All prompts have the same make-up: a box or none, equally many points, a mask or none.
        """
        scale = torch.tensor([[e.inner[1] / e.size[1], e.inner[0] / e.size[0]] for e in encoded], device=self.device)
        points = labels = boxes = None
        if len(prompts[0].labels):
            stacked = torch.from_numpy(np.stack([prompt.points for prompt in prompts])).float().to(self.device)
            points = (stacked * scale[:, None])[:, None]
            labels = torch.from_numpy(np.stack([p.labels for p in prompts]).astype(np.int64)).to(self.device)[:, None]
        if prompts[0].box is not None:
            corners = np.array([prompt.box.as_tuple() for prompt in prompts if prompt.box is not None])
            boxes = (torch.from_numpy(corners).float().to(self.device) * scale.repeat(1, 2))[:, None]
        masks = None
        if prompts[0].mask_input is not None:
            stacked_masks = np.stack([prompt.mask_input for prompt in prompts if prompt.mask_input is not None])
            masks = torch.from_numpy(stacked_masks).float().to(self.device)[:, None]
        sparse, dense = self.prompt_encoder(
            input_points=points, input_labels=labels, input_boxes=boxes, input_masks=masks
        )
        if sparse is None:
            sparse = torch.zeros(len(prompts), 1, 0, self.width, device=self.device)
        return sparse[:, 0], dense.expand(len(prompts), -1, -1, -1)

    def logits(
        self, encoded: Sequence[Encoded], prompts: Sequence[MaskPrompt], slots: Sequence[int], adjust: Adjust | None
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[B, len(slots), 4h, 4w]`` of the padded square, and predicted IoUs ``[B, len(slots)]``.

        With gradients where they are wanted.
        """
        features = torch.stack([entry.features for entry in encoded]).to(self.device)
        sparse, dense = self.prompt_tokens(encoded, prompts)
        if adjust is not None:
            sparse = adjust(sparse, features, self.positions)
        return self.decode(features, sparse, dense, slots)

    def decode(self, features: Tensor, sparse: Tensor, dense: Tensor, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The decoder's logits and predicted IoUs of the wanted slots; one pass for slot 0, one for slots 1 to 3."""
        self._pause()
        found: dict[int, Tensor] = {}
        quality: dict[int, Tensor] = {}
        for multiple in sorted({slot > 0 for slot in slots}):
            masks, scores = self.mask_decoder(
                image_embeddings=features,
                image_positional_embeddings=self.positions.expand(len(features), -1, -1, -1),
                sparse_prompt_embeddings=sparse[:, None],
                dense_prompt_embeddings=dense,
                multimask_output=multiple,
            )
            for index in range(masks.shape[2]):
                slot = index + 1 if multiple else 0
                found[slot], quality[slot] = masks[:, 0, index], scores[:, 0, index]
        return torch.stack([found[s] for s in slots], dim=1), torch.stack([quality[s] for s in slots], dim=1)

    def low_resolution(self, mask: Mask, encoded: Encoded) -> Tensor:
        """A mask on the grid of the logits ``[4h, 4w]``: the share of each cell that it covers."""
        return torch.from_numpy(shrink(mask, encoded, self.side, 4 * encoded.features.shape[-1])).to(self.device)

    def inside(self, encoded: Encoded) -> Tensor:
        """1 where a cell of the logits shows the image, 0 where it is padding, ``float32 [4h, 4w]``."""
        cells = 4 * encoded.features.shape[-1]
        grid = torch.zeros(cells, cells, device=self.device)
        grid[: round(encoded.inner[0] * cells / self.side), : round(encoded.inner[1] * cells / self.side)] = 1
        return grid

    def full_size(self, low: Tensor, encoded: Encoded) -> NDArray[np.float32]:
        """``[C, 4h, 4w]`` logits of the padded square as ``float32 [C, H, W]`` logits of the image."""
        square = nnf.interpolate(low[None].float(), (self.side, self.side), mode="bilinear", align_corners=False)
        inner = square[..., : encoded.inner[0], : encoded.inner[1]]
        full = nnf.interpolate(inner, encoded.size, mode="bilinear", align_corners=False)[0]
        return np.asarray(full.detach().cpu().numpy(), dtype=np.float32)


def shrink(mask: Mask, encoded: Encoded, side: int, cells: int) -> NDArray[np.float32]:
    """A mask of the image as shares of the ``cells`` x ``cells`` grid over the padded square of ``side`` pixels."""
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    inner = nnf.interpolate(values, encoded.inner, mode="bilinear", align_corners=False, antialias=True)
    square = nnf.pad(inner, (0, side - encoded.inner[1], 0, side - encoded.inner[0]))
    grid: Any = nnf.interpolate(square, (cells, cells), mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(grid[0, 0].numpy(), dtype=np.float32)
