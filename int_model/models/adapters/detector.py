"""``HFZeroShotDetector``: GroundingDINO, OWL-ViT and OWLv2 of transformers behind the ``Detector`` Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

from int_model.core.types import Box, Detection, Image
from int_model.models.adapters.imaging import same_length, to_pil
from int_model.models.device import in_batches
from int_model.models.profile import DetectorRole
from int_model.models.weights import Source, WeightsError

_GROUNDING = ("grounding-dino", "mm-grounding-dino")
_OWL = ("owlvit", "owlv2")


class HFZeroShotDetector:
    """An open-vocabulary detector, asked for one noun per image.

    GroundingDINO is asked in lower case with a final full stop, and keeps boxes whose best token reaches the box
    threshold; its text threshold only decides which words the phrase names. OWL models have one threshold and the
    phrase is the name asked for.

    Args:
        model: ``AutoModelForZeroShotObjectDetection`` of one of these families, in evaluation mode.
        image_processor, tokenizer: the checkpoint's own.
        settings: batch size and query template.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, settings: DetectorRole) -> None:
        self._model = model
        self._image_processor = image_processor
        self._tokenizer = tokenizer
        self._settings = settings
        self._kind = str(model.config.model_type)

    @property
    def model(self) -> Any:
        """The network of transformers."""
        return self._model

    def detect(
        self, images: Sequence[Image], names: Sequence[str], *, box_threshold: float, text_threshold: float
    ) -> list[list[Detection]]:
        same_length(images=images, names=names)
        if any(not name.strip(" .") for name in names):
            raise ValueError("a detector is asked for a name, not for a blank")

        def work(batch: Sequence[int]) -> list[list[Detection]]:
            return self._detect([images[i] for i in batch], [names[i] for i in batch], box_threshold, text_threshold)

        found: dict[int, list[Detection]] = {}
        with torch.inference_mode():
            for members in self._groups(images):
                found.update(zip(members, in_batches(members, self._settings.max_batch, work), strict=True))
        return [found[index] for index in range(len(images))]

    def _groups(self, images: Sequence[Image]) -> list[list[int]]:
        """Indices of images that may share a batch.

        GroundingDINO pads the images of a batch to one size, and its backbone sees the padding; only images of one size
        then give the same boxes as alone. OWL models bring every image to one size anyway.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.shape[:2] if self._kind in _GROUNDING else (), []).append(index)
        return list(groups.values())

    def _detect(
        self, images: Sequence[Image], names: Sequence[str], box_threshold: float, text_threshold: float
    ) -> list[list[Detection]]:
        tokens = self._tokenise([self._settings.template.format(name.strip(" .")) for name in names])
        pictures = self._image_processor(images=[to_pil(image) for image in images], return_tensors="pt")
        out = self._model(**self._on_device(pictures), **self._on_device(tokens))
        confidence = out.logits.float().sigmoid()
        scores = confidence.amax(dim=-1)
        corners = self._corners(out.pred_boxes.float(), images)
        found = []
        for row, (image, name) in enumerate(zip(images, names, strict=True)):
            detections = []
            # The stable order makes equal scores independent of the device's sorting algorithm.
            for query in torch.argsort(scores[row], descending=True, stable=True).tolist():
                score = float(scores[row, query])
                if score <= box_threshold:
                    break
                box = _clipped(corners[row, query].tolist(), image)
                if box is not None:
                    phrase = self._phrase(confidence[row, query], tokens["input_ids"][row], text_threshold, name)
                    detections.append(Detection(box=box, score=score, phrase=phrase))
            found.append(detections)
        return found

    def _tokenise(self, queries: Sequence[str]) -> dict[str, Tensor]:
        if self._kind in _GROUNDING:
            texts = [f"{query.lower().rstrip('. ')}." for query in queries]
            return dict(self._tokenizer(texts, padding=True, return_token_type_ids=True, return_tensors="pt"))
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(queries), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _on_device(self, batch: Any) -> dict[str, Tensor]:
        device, dtype = self._model.device, self._model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }

    def _corners(self, centred: Tensor, images: Sequence[Image]) -> Tensor:
        """Relative ``(cx, cy, w, h)`` as ``(x1, y1, x2, y2)`` in image pixels, ``[B, Q, 4]``."""
        centre, size = centred[..., :2], centred[..., 2:]
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        sizes = [image.shape[:2] for image in images]
        if self._kind == "owlv2":  # it sees the image padded at the bottom or right to a square
            sizes = [(max(size), max(size)) for size in sizes]
        scale = torch.tensor([(w, h, w, h) for h, w in sizes], dtype=corners.dtype, device=corners.device)
        return corners * scale[:, None]

    def _phrase(self, confidence: Tensor, ids: Tensor, text_threshold: float, name: str) -> str:
        if self._kind in _OWL:
            return name
        named = (confidence[: len(ids)] > text_threshold).cpu()
        return str(self._tokenizer.decode(ids[named], skip_special_tokens=True)).strip(" .")


def _clipped(corners: Sequence[float], image: Image) -> Box | None:
    x1, y1, x2, y2 = corners
    height, width = image.shape[:2]
    x1, x2 = max(0.0, x1), min(float(width), x2)
    y1, y2 = max(0.0, y1), min(float(height), y2)
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def load(settings: DetectorRole, source: Source) -> HFZeroShotDetector:
    """Load the model, image processor and tokenizer. Raises ``WeightsError``."""
    model = source.model(AutoModelForZeroShotObjectDetection)
    if model.config.model_type not in (*_GROUNDING, *_OWL):
        raise WeightsError(
            f"the role '{source.role}' cannot use a model of the type '{model.config.model_type}': set "
            f"{source.role}.id to a GroundingDINO, OWL-ViT or OWLv2 checkpoint"
        )
    image_processor = source.read(AutoImageProcessor.from_pretrained, "image processor")
    tokenizer = source.read(AutoTokenizer.from_pretrained, "tokenizer")
    return HFZeroShotDetector(model, image_processor, tokenizer, settings)
