"""Images as the frozen models see them, encoded once: the generator's inputs and the segmenter's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from int_model.core.types import Image, Mask
from int_model.learning.sam import Encoded, TrainableSam, shrink
from int_model.models.protocols import TextImage
from int_model.point_prompting.generator.features import TextSeen, see_images, see_texts, seen_of
from int_model.point_prompting.generator.network import Seen

Step = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(slots=True, eq=False)
class Gallery:
    """Encoded images by number, texts by their wording.

    Attributes:
        clip: gives patches and texts.
        sam: gives embeddings.
        sees_segmenter: whether the generator reads the segmenter's features.
        device: where features are kept (half precision).
    """

    clip: TextImage
    sam: TrainableSam
    sees_segmenter: bool = True
    device: str = "cpu"
    sizes: list[tuple[int, int]] = field(default_factory=list)
    inner: list[tuple[int, int]] = field(default_factory=list)
    _patches: list[Tensor] = field(default_factory=list)
    _segmenter: list[Tensor] = field(default_factory=list)
    _embeddings: list[Tensor] = field(default_factory=list)
    _texts: dict[str, TextSeen] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, images: Sequence[Image], step: Step | None = None, batch: int = 64) -> range:
        """Encode images; their numbers."""
        first = len(self)
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            encoded = self.sam.encode(some)
            for entry in encoded:
                self.sizes.append(entry.size)
                self.inner.append(entry.inner)
                self._embeddings.append(self._keep(entry.features))
            features = [entry.features.cpu().numpy() for entry in encoded] if self.sees_segmenter else None
            for seen in see_images(self.clip.embed_patches(some), some, features):
                self._patches.append(self._keep(torch.from_numpy(seen.patches)))
                if seen.segmenter is not None:
                    self._segmenter.append(self._keep(torch.from_numpy(seen.segmenter)))
            if step is not None:
                step(min(start + batch, len(images)), len(images))
        return range(first, len(self))

    def _keep(self, features: Tensor) -> Tensor:
        return features.to(self.device, torch.float16)

    def texts(self, wordings: Sequence[str]) -> list[TextSeen]:
        """Features of expressions, each computed once."""
        new = [text for text in dict.fromkeys(wordings) if text not in self._texts]
        if new:
            self._texts.update(zip(new, see_texts(self.clip, new), strict=True))
        return [self._texts[text] for text in wordings]

    def seen(self, images: Sequence[int], wordings: Sequence[str]) -> Seen:
        """The generator's input: image ``images[i]`` with expression ``wordings[i]``, on the segmenter's device."""
        place = self.sam.device
        patches = torch.stack([self._patches[i] for i in images]).to(place).float()
        segmenter = None
        if self.sees_segmenter:
            segmenter = torch.stack([self._segmenter[i] for i in images]).to(place).float()
        return seen_of(patches, segmenter, self.texts(wordings))

    def embeddings(self, images: Sequence[int]) -> Tensor:
        """The segmenter's embeddings ``float32 [B, D, h, w]``."""
        return torch.stack([self._embeddings[i] for i in images]).to(self.sam.device).float()

    def to_square(self, images: Sequence[int]) -> Tensor:
        """Factors from [0, 1] of the image to pixels of the segmenter's square, ``float32 [B, 2]`` (x, y)."""
        inner = [(self.inner[i][1], self.inner[i][0]) for i in images]
        return torch.tensor(inner, dtype=torch.float32, device=self.sam.device)

    def inside(self, images: Sequence[int]) -> Tensor:
        """1 where a cell of the logits shows the image, ``float32 [B, 4h, 4w]``."""
        grid = torch.zeros(len(images), self.cells, self.cells)
        for row, image in enumerate(images):
            high, wide = self.shown(image)
            grid[row, :high, :wide] = 1
        return grid.to(self.sam.device)

    @property
    def cells(self) -> int:
        """Cells of the low-resolution logits along each side."""
        return 4 * int(self._embeddings[0].shape[-1])

    def shown(self, image: int) -> tuple[int, int]:
        """Rows and columns of the logits' cells that show the image."""
        scale = self.cells / self.sam.side
        return max(1, round(self.inner[image][0] * scale)), max(1, round(self.inner[image][1] * scale))

    def coarse(self, mask: Mask, image: int) -> Mask:
        """A mask of the image on the logits' cells ``bool [4h, 4w]``."""
        like = Encoded(self._embeddings[image], self.sizes[image], self.inner[image])
        return np.asarray(shrink(mask, like, self.sam.side, self.cells) > 0.5)

    def fine(self, coarse: Mask, image: int) -> Mask:
        """A mask of the logits' cells as a mask of the image, ``bool [H, W]``."""
        high, wide = self.shown(image)
        height, width = self.sizes[image]
        inner = coarse[:high, :wide].astype(np.float32)
        return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5)
