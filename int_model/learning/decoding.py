"""Decoding under an adaptation: adjusted tokens or weights, the label's slot and outline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from int_model.core.types import Image, Mask
from int_model.learning.adaptation import Adaptation, Arrays, Weights, signed_distance
from int_model.learning.arms.decoder import LowRankDecoder
from int_model.learning.arms.plm import PromptLearning
from int_model.learning.arms.pmm import PointMatching, condition, draw, refine
from int_model.learning.arms.tokens import StaticTokens
from int_model.learning.sam import Adjust, Encoded, Pause, TrainableSam
from int_model.learning.training import Trained
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.protocols import MaskPrompt, MaskProposal

_ALTERNATIVES = (1, 2, 3)


class AdaptedDecoder:
    """A frozen copy of SAM's decoder with an adaptation built in.

    Args:
        segmenter: whose encoder and decoder are used; its own weights are never changed.
        adaptation: what was learned.
        pause: called before every pass; see `Pause`.
    """

    def __init__(self, segmenter: HFSamSegmenter, adaptation: Adaptation, pause: Pause | None = None) -> None:
        self.adaptation = adaptation
        self.sam = TrainableSam(segmenter, pause)
        self._arm = None if adaptation.weights is None else restore(self.sam, adaptation.weights)
        self._refiner = None if adaptation.refiner is None else _refiner(self.sam.width, adaptation.refiner)

    def encode(self, images: Sequence[Image]) -> list[Encoded]:
        """Images through the frozen encoder."""
        return self.sam.encode(images)

    def decode(
        self, encoded: Encoded, prompts: Sequence[MaskPrompt], label: str, *, multimask: bool = True
    ) -> list[MaskProposal]:
        """One proposal per prompt: a single mask where the label has a slot of its own, else as many as SAM gives."""
        adjust = None if self._arm is None else self._arm.adjust([label])
        out = []
        with torch.inference_mode():
            for prompt in prompts:  # one by one: padding would take part in the attention and change the masks
                outline = self.adaptation.outline(label, boxed=prompt.box is not None)
                slots = (outline.slot,) if outline.slot is not None else _ALTERNATIVES if multimask else (0,)
                low, quality = self.sam.logits([encoded], [prompt], slots, adjust)
                full = self.sam.full_size(low[0], encoded)
                if self._refiner is not None and len(slots) == 1:
                    full = self._refined(encoded, prompt, slots[0], adjust)[None]
                drawn = np.stack([outline.apply(logits) for logits in full])
                out.append(MaskProposal(drawn, low[0].cpu().numpy(), quality[0].double().cpu().numpy()))
        return out

    def _refined(self, encoded: Encoded, prompt: MaskPrompt, slot: int, adjust: Adjust | None) -> NDArray[np.float32]:
        """Signed distance to the refined outline, ``float32 [H, W]``."""
        assert self._refiner is not None  # noqa: S101 - the caller looked
        given = condition(self.sam, [encoded], [prompt], slot, adjust)
        return signed_distance(draw(refine(self._refiner, given, 0), encoded, self.sam.side))

    def mask(self, encoded: Encoded, prompt: MaskPrompt, label: str) -> Mask:
        """The best mask of one prompt, ``bool [H, W]``."""
        proposal = self.decode(encoded, [prompt], label)[0]
        return np.asarray(proposal.logits[proposal.best] > 0)

    def slot_logits(self, encoded: Encoded, prompt: MaskPrompt, label: str) -> tuple[NDArray[np.float32], int]:
        """Logits of all four slots before any outline, ``float32 [4, H, W]``, and which slot the base would take."""
        adjust = None if self._arm is None else self._arm.adjust([label])
        with torch.inference_mode():
            low, quality = self.sam.logits([encoded], [prompt], (0, *_ALTERNATIVES), adjust)
        return self.sam.full_size(low[0], encoded), 1 + int(quality[0, 1:].argmax())


def _refiner(width: int, tensors: Arrays) -> PointMatching:
    module = PointMatching(width)
    try:
        module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"the learned outlines do not fit this segmenter: {error}") from error
    return module.eval()


def restore(sam: TrainableSam, weights: Weights) -> Trained:
    """The trained arm of a copy of the decoder.

    Raises:
        ValueError: the tensors do not fit this segmenter.
    """
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.tensors.items()}
    try:
        if weights.kind == "decoder":
            sam.mask_decoder.load_state_dict(tensors, strict=True)
            return _Unchanged()
        if weights.kind == "lora":
            LowRankDecoder(sam)
            found = sam.mask_decoder.load_state_dict(tensors, strict=False)
            return _Unchanged([name for name in (*found.missing_keys, *found.unexpected_keys) if "lora_" in name])
        arm = PromptLearning if weights.kind == "plm" else StaticTokens
        module: PromptLearning | StaticTokens = arm(sam.width, weights.labels)
        module.load_state_dict(tensors, strict=True)
        module.eval()
    except RuntimeError as error:
        raise ValueError(f"the learned weights do not fit this segmenter: {error}") from error
    return module


class _Unchanged:
    """The tokens stay as they are: the weights of the decoder itself were replaced."""

    def __init__(self, wrong: Sequence[str] = ()) -> None:
        if wrong:
            raise RuntimeError(f"tensors that are missing or unexpected: {', '.join(wrong[:3])}")

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Nothing is trained here."""
        return ()

    def adjust(self, labels: Sequence[str]) -> None:
        """See ``Trained.adjust``."""

    def penalty(self) -> None:
        """See ``Trained.penalty``."""
