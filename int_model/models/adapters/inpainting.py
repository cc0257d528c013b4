"""Inpainters: classical (OpenCV), mean colour, and Stable Diffusion through diffusers.

All of them return a black image where the mask covers everything (there is nothing to fill from) and the image itself
where the mask is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from int_model.core.types import Image, Mask, check_image
from int_model.models.adapters.imaging import resize, same_length
from int_model.models.device import in_batches
from int_model.models.profile import DiffusersRole, MeanColourRole, OpenCVRole


class OpenCVInpainter:
    """Telea's or Bertalmio's inpainting; the prompts are not used. Pixels outside the mask stay as they are."""

    def __init__(self, settings: OpenCVRole) -> None:
        self._settings = settings
        self._flag = cv2.INPAINT_TELEA if settings.method == "telea" else cv2.INPAINT_NS

    def inpaint(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        _check(images, masks, positive, negative)
        return [_with_trivial(image, mask, self._fill) for image, mask in zip(images, masks, strict=True)]

    def _fill(self, image: Image, mask: Mask) -> Image:
        height, width = image.shape[:2]
        scale = min(1.0, self._settings.max_side / max(height, width)) if self._settings.max_side else 1.0
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        hole = _shrunk_mask(mask, small)
        if hole.all():
            return MeanColourInpainter.fill(image, mask)
        radius = max(1.0, self._settings.radius * math.hypot(*small))
        source = resize(image, *small, PIL.Image.Resampling.BOX)
        filled = resize(np.asarray(cv2.inpaint(source, hole, radius, self._flag)), height, width, _BICUBIC)
        return _paste(image, filled, mask)


class MeanColourInpainter:
    """Fills with the mean colour of the pixels outside the mask, which stay as they are."""

    def __init__(self, settings: MeanColourRole | None = None) -> None:
        del settings  # it has no options

    def inpaint(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        _check(images, masks, positive, negative)
        return [_with_trivial(image, mask, self.fill) for image, mask in zip(images, masks, strict=True)]

    @staticmethod
    def fill(image: Image, mask: Mask) -> Image:
        """The image with ``mask`` (not everything) filled."""
        filled = image.copy()
        filled[mask] = np.round(image[~mask].mean(axis=0)).astype(np.uint8)
        return filled


class DiffusersInpainter:
    """Stable Diffusion inpainting. Every pixel may change slightly (the VAE); the caller pastes the others back.

    Image and mask are squashed to a square of ``size`` pixels and the result is resized back. Each image has its own
    generator with the same seed, so a result depends neither on the batch nor on earlier calls.

    Args:
        pipeline: ``StableDiffusionInpaintPipeline`` without a safety checker.
        settings: size, steps, guidance, seed, batch size.
    """

    def __init__(self, pipeline: Any, settings: DiffusersRole) -> None:
        self._pipeline = pipeline
        self._settings = settings
        pipeline.set_progress_bar_config(disable=True)

    def with_seed(self, seed: int) -> DiffusersInpainter:
        """The same model, which it shares, with other noise."""
        return DiffusersInpainter(self._pipeline, self._settings.model_copy(update={"seed": seed}))

    def inpaint(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        _check(images, masks, positive, negative)
        results = [_with_trivial(image, mask, lambda kept, _: kept) for image, mask in zip(images, masks, strict=True)]
        todo = [index for index, mask in enumerate(masks) if mask.any() and not mask.all()]

        def work(batch: Sequence[int]) -> list[Image]:
            return self._run(
                [images[i] for i in batch],
                [masks[i] for i in batch],
                [positive[i] for i in batch],
                [negative[i] for i in batch],
            )

        for index, result in zip(todo, in_batches(todo, self._settings.max_batch, work), strict=True):
            results[index] = result
        return results

    def _run(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        size = self._settings.size
        filled = self._pipeline(
            prompt=list(positive),
            negative_prompt=list(negative),
            image=[PIL.Image.fromarray(resize(image, size, size, _BICUBIC)) for image in images],
            mask_image=[PIL.Image.fromarray(255 * _shrunk_mask(mask, (size, size))) for mask in masks],
            height=size,
            width=size,
            num_inference_steps=self._settings.steps,
            guidance_scale=self._settings.guidance,
            # On the CPU, because a CUDA generator gives other numbers on other cards.
            generator=[torch.Generator("cpu").manual_seed(self._settings.seed) for _ in images],
            output_type="pil",
        ).images
        return [
            resize(np.asarray(picture.convert("RGB")), image.shape[0], image.shape[1], _BICUBIC)
            for picture, image in zip(filled, images, strict=True)
        ]


_BICUBIC = PIL.Image.Resampling.BICUBIC


def _check(images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]) -> None:
    same_length(images=images, masks=masks, positive=positive, negative=negative)
    for image, mask in zip(images, masks, strict=True):
        check_image(image)
        if mask.shape != image.shape[:2] or mask.dtype != np.bool_:
            raise ValueError(f"a mask is bool of the image's size {image.shape[:2]}, not {mask.dtype} {mask.shape}")


def _with_trivial(image: Image, mask: Mask, fill: Callable[[Image, Mask], Image]) -> Image:
    if mask.all():
        return np.zeros_like(image)
    return fill(image, mask) if mask.any() else image.copy()


def _paste(image: Image, filled: Image, mask: Mask) -> Image:
    return np.where(mask[..., None], filled, image)


def _shrunk_mask(mask: Mask, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask at ``size`` (height, width), 0/1; a pixel is set if any of the pixels it stands for is.

    Otherwise the rim of the object would stay visible, and leak into the filling.
    """
    grey = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(grey > 0).astype(np.uint8)


def load_opencv(settings: OpenCVRole, source: None) -> OpenCVInpainter:
    """An ``OpenCVInpainter``; there is nothing to load."""
    del source
    return OpenCVInpainter(settings)


def load_mean_colour(settings: MeanColourRole, source: None) -> MeanColourInpainter:
    """A ``MeanColourInpainter``; there is nothing to load."""
    del source
    return MeanColourInpainter(settings)


def load_diffusers(settings: DiffusersRole, source: Any) -> DiffusersInpainter:
    """Load the pipeline's parts, each refused if incomplete, and put them together. Raises ``WeightsError``."""
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    schedulers = {
        "unipc": diffusers.UniPCMultistepScheduler,
        "dpm++": diffusers.DPMSolverMultistepScheduler,
        "ddim": diffusers.DDIMScheduler,
    }
    scheduler = schedulers[settings.scheduler]
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        vae=source.component(diffusers.AutoencoderKL, "vae"),
        text_encoder=source.component(CLIPTextModel, "text_encoder"),
        tokenizer=source.read(CLIPTokenizer.from_pretrained, "tokenizer", subfolder="tokenizer"),
        unet=source.component(diffusers.UNet2DConditionModel, "unet"),
        scheduler=source.read(scheduler.from_pretrained, "scheduler", subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return DiffusersInpainter(pipeline, settings)
