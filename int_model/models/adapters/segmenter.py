"""``HFSamSegmenter``: SAM of transformers behind the ``Segmenter`` Protocol, and what SAM 2 shares with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedConfig, SamModel

from int_model.core.types import Floats, Image, check_image
from int_model.models.adapters.imaging import normalise, resize
from int_model.models.device import in_batches
from int_model.models.profile import SegmenterRole
from int_model.models.protocols import BestMask, Embedding, MaskPrompt, MaskProposal, PromptAdapter
from int_model.models.weights import Source

R = TypeVar("R")
_Signature = tuple[bool, int, bool]
_PROMPT_ARGUMENTS = ("input_points", "input_labels", "input_boxes", "input_masks")


@dataclass(frozen=True, slots=True, eq=False)
class SamEmbedding:
    """An image encoded by SAM.

    Attributes:
        features: ``[1, C, h, w]`` on the model's device.
        size: ``(height, width)`` of the image.
        inner: ``(height, width)`` of the part of SAM's square input that shows the image; the rest is padding.
    """

    features: Tensor
    size: tuple[int, int]
    inner: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes held by the features."""
        return self.features.numel() * self.features.element_size()


class PromptedSegmenter(ABC):
    """A network that encodes an image once and decodes its embedding under any number of prompts.

    A subclass encodes, decodes prompts of one make-up, and enlarges masks.

    Args:
        model: the network in evaluation mode, with ``prompt_encoder`` and ``mask_decoder`` as transformers has them.
        settings: batch size.
        side: of the square that the network sees, in pixels.
        grid: cells along a side of the embedding.
    """

    def __init__(self, model: Any, settings: SegmenterRole, side: int, grid: int) -> None:
        self._model = model
        self._settings = settings
        self._side, self._grid = side, grid

    @property
    def model(self) -> Any:
        """The network of transformers, for those who train a copy of its decoder."""
        return self._model

    # ---------------------------------------------------------------- encode

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        for image in images:
            check_image(image)
        with torch.no_grad():  # not inference_mode: its tensors could not take part in a backward pass later
            return in_batches(list(images), self._settings.max_batch, self._encode)

    @abstractmethod
    def _encode(self, images: Sequence[Image]) -> list[Embedding]:
        """Embeddings of one batch."""

    def features(self, embedding: Embedding) -> NDArray[np.float32]:
        """See ``ImageFeatures.features``."""
        return _own(embedding).features[0].float().cpu().numpy()

    # ---------------------------------------------------------------- decode

    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        own = _own(embedding)

        def work(batch: Sequence[MaskPrompt]) -> list[MaskProposal]:
            low, iou = self.decode_logits(own, batch, multimask=multimask, adapter=adapter, label=label)
            return [self._proposal(own, *row) for row in zip(low, iou.double().cpu().numpy(), strict=True)]

        return self._of_one_make_up(prompts, work)

    def decode_best(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[BestMask]:
        """See ``DecodesBest.decode_best``."""
        own = _own(embedding)

        def work(batch: Sequence[MaskPrompt]) -> list[BestMask]:
            low, iou = self.decode_logits(own, batch, multimask=multimask, adapter=adapter, label=label)
            scores = iou.double().cpu().numpy()
            best = scores.argmax(axis=1)
            chosen = low[torch.arange(len(best)), torch.from_numpy(best)]
            layers = self._full_size(chosen, own).cpu().numpy()
            return [BestMask(layer, float(row[slot])) for layer, row, slot in zip(layers, scores, best, strict=True)]

        return self._of_one_make_up(prompts, work)

    def _of_one_make_up(
        self, prompts: Sequence[MaskPrompt], work: Callable[[Sequence[MaskPrompt]], list[R]]
    ) -> list[R]:
        """``work`` on batches of prompts of one make-up, the results in order.

        transformers pads missing points with zero embeddings that still take part in attention and change the masks, so
        only prompts of the same make-up share a batch: each answer is then what it would be alone.
        """
        groups: dict[_Signature, list[int]] = {}
        for index, prompt in enumerate(prompts):
            self._check(prompt)
            groups.setdefault(_signature(prompt), []).append(index)
        results: dict[int, R] = {}
        with torch.inference_mode():
            for members in groups.values():
                decoded = in_batches([prompts[i] for i in members], self._settings.max_batch, work)
                results.update(zip(members, decoded, strict=True))
        return [results[index] for index in range(len(prompts))]

    def decode_logits(
        self,
        embedding: SamEmbedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> tuple[Tensor, Tensor]:
        """``decode`` before it leaves the device: differentiable, to train an adapter with.

        The same calls as in the network's own ``forward``, with the adapter between prompt encoder and decoder.

        Args:
            embedding: of the image.
            prompts: of one make-up (all with or without a box, with as many points, with or without a mask).
            multimask: see ``Segmenter.decode``.
            adapter: see there.
            label: see there.

        Returns:
            low-resolution logits ``float32 [B, C, h, w]`` of the network's square; predicted IoUs ``float32 [B, C]``.

        Raises ``ValueError`` for prompts of different make-up.
        """
        if len({_signature(prompt) for prompt in prompts}) != 1:
            raise ValueError("prompts that are decoded in one pass have one make-up")
        slot = None if adapter is None else adapter.slot(label)
        image = embedding.features.expand(len(prompts), -1, -1, -1)
        positions = self._model.get_image_wide_positional_embeddings().repeat(len(prompts), 1, 1, 1)
        sparse, dense = self._model.prompt_encoder(**self._prompt_tensors(embedding, prompts))
        if adapter is not None and sparse is not None:
            sparse = adapter.adjust(sparse[:, 0], image, positions, label)[:, None]
        low, iou = self._model.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask if slot is None else slot > 0,
            **self._decoder_options(embedding, len(prompts)),
        )[:2]
        kept = slice(slot - 1, slot) if slot else slice(None)
        return low[:, 0, kept].float(), iou[:, 0, kept].float()

    def _decoder_options(self, embedding: SamEmbedding, rows: int) -> dict[str, Any]:
        """What the decoder is given beside the embedding and the prompts."""
        del embedding, rows
        return {}

    def _proposal(self, embedding: SamEmbedding, low: Tensor, iou: Floats) -> MaskProposal:
        return MaskProposal(self._full_size(low, embedding).cpu().numpy(), low.cpu().numpy(), iou)

    def _check(self, prompt: MaskPrompt) -> None:
        if not set(np.unique(prompt.labels)) <= {0, 1}:
            raise ValueError("point labels are 1 (inside) or 0 (outside)")
        side = 4 * self._grid
        if prompt.mask_input is not None and prompt.mask_input.shape != (side, side):
            raise ValueError(f"a mask prompt is {side} x {side} low-resolution logits, not {prompt.mask_input.shape}")

    def _prompt_tensors(self, embedding: SamEmbedding, prompts: Sequence[MaskPrompt]) -> dict[str, Tensor | None]:
        """Arguments of SAM's prompt encoder."""
        has_box, points, has_mask = _signature(prompts[0])
        scale = np.array([embedding.inner[1] / embedding.size[1], embedding.inner[0] / embedding.size[0]])
        tensors: dict[str, Tensor | None] = dict.fromkeys(_PROMPT_ARGUMENTS)
        if has_box:
            boxes = np.array([prompt.box.as_tuple() for prompt in prompts if prompt.box is not None])
            tensors["input_boxes"] = self._tensor(boxes * np.tile(scale, 2))[:, None]
        if points:
            tensors["input_points"] = self._tensor(np.stack([p.points for p in prompts]) * scale)[:, None]
            labels = torch.from_numpy(np.stack([p.labels for p in prompts]).astype(np.int64))
            tensors["input_labels"] = labels.to(self._model.device)[:, None]
        if has_mask:
            masks = np.stack([p.mask_input for p in prompts if p.mask_input is not None])
            tensors["input_masks"] = self._tensor(masks)[:, None]
        return tensors

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._model.device, self._model.dtype)

    @abstractmethod
    def _full_size(self, low: Tensor, embedding: SamEmbedding) -> Tensor:
        """``[C, h, w]`` logits of the network's square as ``[C, H, W]`` logits of the image."""


class HFSamSegmenter(PromptedSegmenter):
    """SAM: an image is shrunk or enlarged to the network's square, which its longer side fills.

    Args:
        model: ``SamModel`` in evaluation mode.
        image_processor: its image processor (channel means, deviations, resize filter).
        settings: batch size.
    """

    def __init__(self, model: Any, image_processor: Any, settings: SegmenterRole) -> None:
        config = model.config
        grid = int(config.prompt_encoder_config.image_embedding_size)
        super().__init__(model, settings, int(config.vision_config.image_size), grid)
        self._mean, self._std = image_processor.image_mean, image_processor.image_std
        self._resample = int(image_processor.resample)

    def _encode(self, images: Sequence[Image]) -> list[Embedding]:
        inner = [self._inner(image) for image in images]
        pixels = np.zeros((len(images), 3, self._side, self._side), dtype=np.float32)
        for row, (image, (height, width)) in enumerate(zip(images, inner, strict=True)):
            resized = resize(image, height, width, self._resample)
            pixels[row, :, :height, :width] = normalise(resized, self._mean, self._std)
        batch = torch.from_numpy(pixels).to(self._model.device, self._model.dtype)
        features = self._model.get_image_embeddings(batch)
        return [
            SamEmbedding(features[row : row + 1].clone(), (image.shape[0], image.shape[1]), inner[row])
            for row, image in enumerate(images)
        ]

    def _inner(self, image: Image) -> tuple[int, int]:
        """The longer side fills SAM's input; a side never vanishes, however thin the image."""
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def _full_size(self, low: Tensor, embedding: SamEmbedding) -> Tensor:
        """``[C, h, w]`` logits of the padded square as ``[C, H, W]`` logits of the image."""
        square = F.interpolate(low[None], (self._side, self._side), mode="bilinear", align_corners=False)
        inner = square[..., : embedding.inner[0], : embedding.inner[1]]
        return F.interpolate(inner, embedding.size, mode="bilinear", align_corners=False)[0]


def _own(embedding: Embedding) -> SamEmbedding:
    if not isinstance(embedding, SamEmbedding):
        raise TypeError(f"decode takes an embedding made by this segmenter, not {type(embedding).__name__}")
    return embedding


def _signature(prompt: MaskPrompt) -> _Signature:
    return (prompt.box is not None, len(prompt.labels), prompt.mask_input is not None)


def load(settings: SegmenterRole, source: Source) -> PromptedSegmenter:
    """Load the model, SAM or SAM 2, and its image processor. Raises ``WeightsError``."""
    described, _ = source.read(PreTrainedConfig.get_config_dict, "configuration")
    if described.get("model_type") in ("sam2", "sam2_video"):
        from int_model.models.adapters.sam2 import load_folder

        return load_folder(settings, source)
    image_processor = source.read(AutoImageProcessor.from_pretrained, "image processor")
    return HFSamSegmenter(source.model(SamModel), image_processor, settings)
