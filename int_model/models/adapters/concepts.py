"""``HFSam3``: SAM 3 of transformers behind the ``Concepts`` Protocol: a noun in, a mask of every instance out.

Only text prompts are used, so neither the model nor its inputs need torchvision; the library's image processor would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, ImageProcessingMixin
from transformers.models.sam3.modeling_sam3 import Sam3Model

from int_model.core.types import Box, Image, SoftMask, check_image
from int_model.models.adapters.imaging import normalise, resize, same_length
from int_model.models.device import in_batches
from int_model.models.profile import ConceptsRole
from int_model.models.protocols import ConceptMask
from int_model.models.weights import Source, WeightsError

_BILINEAR = 2
_HALF = (0.5, 0.5, 0.5)


class HFSam3:
    """SAM 3, asked for one concept per image.

    An image is squashed to the model's square. An instance's score is the probability of its query times that of the
    concept being in the image at all, as in the library's own post-processing.

    Args:
        model: ``Sam3Model`` in evaluation mode.
        image_options: the image processor's ``image_mean``, ``image_std`` and ``resample``.
        tokenizer: the checkpoint's own.
        settings: batch size.
    """

    def __init__(self, model: Any, image_options: dict[str, Any], tokenizer: Any, settings: ConceptsRole) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_batch = settings.max_batch
        self._mean = image_options.get("image_mean") or _HALF
        self._std = image_options.get("image_std") or _HALF
        self._resample = int(image_options.get("resample") or _BILINEAR)
        side = model.config.vision_config.backbone_config.image_size
        self._sides = (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))
        self._length = int(model.config.text_config.max_position_embeddings)

    def find(self, images: Sequence[Image], names: Sequence[str], *, threshold: float) -> list[list[ConceptMask]]:
        same_length(images=images, names=names)
        if any(not name.strip(" .") for name in names):
            raise ValueError("SAM 3 is asked for a name, not for a blank")
        for image in images:
            check_image(image)

        def work(batch: Sequence[int]) -> list[list[ConceptMask]]:
            return self._find([images[i] for i in batch], [names[i] for i in batch], threshold)

        with torch.inference_mode():
            return in_batches(range(len(images)), self._max_batch, work)

    def _find(self, images: Sequence[Image], names: Sequence[str], threshold: float) -> list[list[ConceptMask]]:
        pixels = [normalise(resize(image, *self._sides, self._resample), self._mean, self._std) for image in images]
        tokens = self._tokenizer(
            [name.strip(" .") for name in names],
            padding="max_length",
            max_length=self._length,
            truncation=True,
            return_tensors="pt",
        )
        device = self._model.device
        out = self._model(
            pixel_values=torch.from_numpy(np.stack(pixels)).to(device, self._model.dtype),
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
        )
        scores = out.pred_logits.float().sigmoid()
        if out.presence_logits is not None:
            scores = scores * out.presence_logits.float().sigmoid()
        return [
            self._instances(scores[row], out.pred_boxes[row].float(), out.pred_masks[row], image.shape[:2], threshold)
            for row, image in enumerate(images)
        ]

    def _instances(
        self, scores: Tensor, boxes: Tensor, masks: Tensor, size: tuple[int, ...], threshold: float
    ) -> list[ConceptMask]:
        height, width = size
        found = []
        for query in torch.argsort(scores, descending=True, stable=True).tolist():
            score = float(scores[query])
            if score <= threshold:
                break
            box = _clipped(boxes[query].tolist(), height, width)
            if box is not None:
                found.append(ConceptMask(score, box, _full_size(masks[query], height, width)))
        return found


def _full_size(logits: Tensor, height: int, width: int) -> SoftMask:
    """Mask logits ``[h, w]`` as probabilities of the image's pixels, ``float32 [height, width]``."""
    soft = F.interpolate(logits.float().sigmoid()[None, None], (height, width), mode="bilinear", align_corners=False)
    return np.asarray(soft[0, 0].cpu().numpy(), dtype=np.float32)


def _clipped(corners: Sequence[float], height: int, width: int) -> Box | None:
    """Relative corners ``(x1, y1, x2, y2)`` as a box in pixels of the image; None if nothing of it is inside."""
    x1, x2 = max(0.0, corners[0] * width), min(float(width), corners[2] * width)
    y1, y2 = max(0.0, corners[1] * height), min(float(height), corners[3] * height)
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def load(settings: ConceptsRole, source: Source) -> HFSam3:
    """Load the model, the image processor's options and the tokenizer.

    Raises ``WeightsError``; where a hub id cannot be loaded its message says how the gated weights are had.
    """
    config = _gated(source, lambda: source.read(AutoConfig.from_pretrained, "configuration"))
    if config.model_type not in ("sam3", "sam3_video"):
        raise WeightsError(
            f"the role '{source.role}' cannot use a model of the type '{config.model_type}': set {source.role}.id to a "
            "SAM 3 checkpoint"
        )
    options, _ = _gated(source, lambda: source.read(ImageProcessingMixin.get_image_processor_dict, "image processor"))
    tokenizer = _gated(source, lambda: source.read(AutoTokenizer.from_pretrained, "tokenizer"))
    return HFSam3(_gated(source, lambda: source.model(Sam3Model)), options, tokenizer, settings)


def _gated(source: Source, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except WeightsError as error:
        if source.is_folder:
            raise
        raise WeightsError(
            f"{error}; the weights of SAM 3 are given out only to those who accept the SAM License on "
            f"https://huggingface.co/{source.location} and log in with `hf auth login`"
        ) from error
