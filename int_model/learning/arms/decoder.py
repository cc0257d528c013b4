"""The whole mask decoder, or low-rank updates of its attention (LoRA): for domains that the base model never saw.

These arms change the decoder for all labels of the project, so the leak test and the labels' own figures matter most.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from int_model.learning.sam import Adjust, TrainableSam

LORA_RANK = 4


class TunedDecoder:
    """Every weight of the mask decoder but the head that predicts IoUs, which is calibrated on its own."""

    def __init__(self, sam: TrainableSam) -> None:
        self._decoder = sam.mask_decoder

    def parameters(self) -> Sequence[nn.Parameter]:
        """See ``Trained.parameters``."""
        chosen = [p for name, p in self._decoder.named_parameters() if not name.startswith("iou_prediction_head")]
        for parameter in chosen:
            parameter.requires_grad = True
        return chosen

    def adjust(self, labels: Sequence[str]) -> Adjust | None:  # noqa: ARG002 - the decoder knows no labels
        """None: the tokens stay as they are."""
        return None

    def penalty(self) -> Tensor | None:
        """None: weight decay holds the weights back."""
        return None


class LowRankDecoder:
    """LoRA on the query and value projections of the decoder's attention, through ``peft``; zero at the start."""

    def __init__(self, sam: TrainableSam, rank: int = LORA_RANK) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r".*(q_proj|v_proj)$", bias="none")
        sam.mask_decoder = inject_adapter_in_model(config, sam.mask_decoder)
        self._decoder = sam.mask_decoder

    def parameters(self) -> Sequence[nn.Parameter]:
        """See ``Trained.parameters``."""
        return [parameter for name, parameter in self._decoder.named_parameters() if "lora_" in name]

    def adjust(self, labels: Sequence[str]) -> Adjust | None:  # noqa: ARG002 - the decoder knows no labels
        """None: the tokens stay as they are."""
        return None

    def penalty(self) -> Tensor | None:
        """None: the rank holds the change back."""
        return None
