"""``HFSam2Segmenter``: SAM 2 and 2.1 of transformers, on single images, behind the ``Segmenter`` Protocol.

The library's image processor needs torchvision; its options are read, and its work is done here, without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import ImageProcessingMixin, Sam2Model

from int_model.core.types import Floats, Image
from int_model.models.adapters.segmenter import PromptedSegmenter, SamEmbedding
from int_model.models.profile import SegmenterRole
from int_model.models.protocols import Embedding, MaskProposal
from int_model.models.weights import Source

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLAMP = 32.0


@dataclass(frozen=True, slots=True, eq=False)
class Sam2Embedding(SamEmbedding):
    """As of SAM, and the finer features that the decoder adds while it enlarges a mask.

    Attributes:
        fine: ``[1, C / 8, 4 h, 4 w]`` and ``[1, C / 4, 2 h, 2 w]``, on the model's device.
    """

    fine: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes held by all features."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.features, *self.fine))


class HFSam2Segmenter(PromptedSegmenter):
    """SAM 2: an image is squashed to the network's square.

    Without alternatives the network itself takes the best of them where its single mask is unstable, as the original.

    Args:
        model: ``Sam2Model`` in evaluation mode.
        image_options: the image processor's ``image_mean`` and ``image_std``.
        settings: batch size.
    """

    def __init__(self, model: Any, image_options: dict[str, Any], settings: SegmenterRole) -> None:
        prompts = model.config.prompt_encoder_config
        super().__init__(model, settings, int(prompts.image_size), int(prompts.image_size) // int(prompts.patch_size))
        self._mean, self._std = (
            torch.tensor(image_options.get(name) or usual, dtype=torch.float32)[:, None, None]
            for name, usual in (("image_mean", _MEAN), ("image_std", _STD))
        )

    def _encode(self, images: Sequence[Image]) -> list[Embedding]:
        pixels = torch.stack([self._square(image) for image in images])
        *fine, features = self._model.get_image_embeddings(pixels.to(self._model.device, self._model.dtype))
        inner = (self._side, self._side)
        return [
            Sam2Embedding(
                features[row : row + 1].clone(),
                (image.shape[0], image.shape[1]),
                inner,
                tuple(level[row : row + 1].clone() for level in fine),
            )
            for row, image in enumerate(images)
        ]

    def _square(self, image: Image) -> Tensor:
        """``float32 [3, side, side]``, resized as the original does: linearly, anti-aliased, before any rounding."""
        whole = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255
        size = (self._side, self._side)
        square = F.interpolate(whole, size, mode="bilinear", align_corners=False, antialias=True)[0]
        return (square - self._mean) / self._std

    def _decoder_options(self, embedding: SamEmbedding, rows: int) -> dict[str, Any]:
        if not isinstance(embedding, Sam2Embedding):
            raise TypeError(f"decode takes an embedding made by this segmenter, not {type(embedding).__name__}")
        return {"high_resolution_features": [level.expand(rows, -1, -1, -1) for level in embedding.fine]}

    def _proposal(self, embedding: SamEmbedding, low: Tensor, iou: Floats) -> MaskProposal:
        logits = self._full_size(low, embedding).cpu().numpy()
        return MaskProposal(logits, low.clamp(-_CLAMP, _CLAMP).cpu().numpy(), iou)

    def _full_size(self, low: Tensor, embedding: SamEmbedding) -> Tensor:
        return F.interpolate(low[None], embedding.size, mode="bilinear", align_corners=False)[0]


def load_folder(settings: SegmenterRole, source: Source) -> HFSam2Segmenter:
    """Load a folder or hub repository of transformers. Raises ``WeightsError``.

    Those published are for videos; what only videos need is not loaded.
    """
    options, _ = source.read(ImageProcessingMixin.get_image_processor_dict, "image processor")
    return HFSam2Segmenter(source.model(Sam2Model), options, settings)
