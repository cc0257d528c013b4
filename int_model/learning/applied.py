"""A suite and a strategy under an adaptation: what serves predictions once something was learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Detection, Image, Segmentation
from int_model.interactive.shared_segmenter import SharedSegmenter
from int_model.learning.adaptation import Adaptation, Probe
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.sam import Encoded
from int_model.learning.where import boxes_of, heat_map
from int_model.models.adapters.sam2 import HFSam2Segmenter
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.protocols import Detector, Embedding, MaskPrompt, MaskProposal, PromptAdapter, Segmenter
from int_model.strategies.base import Strategy

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

_SAME_OBJECT = 0.5  # IoU from which a probe's box shows what the detector has found already


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedEmbedding:
    """An encoded image as both decoders take it."""

    base: Embedding
    encoded: Encoded

    @property
    def nbytes(self) -> int:
        """Bytes held; the adapted decoder's features are a float32 copy."""
        return self.base.nbytes + self.encoded.features.numel() * 4


def sam_of(segmenter: Segmenter) -> HFSamSegmenter:
    """The SAM behind a suite's segmenter, shared or not: of transformers, or a checkpoint of segment-anything.

    Raises:
        ValueError: the segmenter is of another kind, which nothing can be learned on.
    """
    own = segmenter.wrapped if isinstance(segmenter, SharedSegmenter) else segmenter
    if not isinstance(own, HFSamSegmenter):
        kind = "SAM 2" if isinstance(own, HFSam2Segmenter) else type(own).__name__
        raise ValueError(  # noqa: TRY004 - the user's choice of a profile, not a caller's type
            f"the profile's segmenter is {kind}, on which nothing can be learned; choose a profile with a SAM of the "
            "first generation (nano, llava, llava-16gb, qwen, medical, sam3), or set one: --model "
            "segmenter.id=facebook/sam-vit-base"
        )
    return own


class AdaptedSegmenter:
    """The segmenter as one label's adaptation decodes: a ``Segmenter``.

    Images are encoded by the suite's own segmenter (in turn, where it is shared); adapted decoding uses a copy of the
    decoder, so that it takes no turn from clicks.
    """

    def __init__(self, decoder: AdaptedDecoder, segmenter: Segmenter, label: str) -> None:
        self._decoder = decoder
        self._segmenter = segmenter
        self._label = label

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """See ``Segmenter.encode``."""
        return [AdaptedEmbedding(entry, self._decoder.sam.adopt(entry)) for entry in self._segmenter.encode(images)]

    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        """See ``Segmenter.decode``; an adapter of the caller's own takes the place of what was learned."""
        if not isinstance(embedding, AdaptedEmbedding):
            raise TypeError(f"decode takes an embedding made by this segmenter, not {type(embedding).__name__}")
        if adapter is not None or self._decoder.adaptation.decodes_as_base(self._label):
            return self._segmenter.decode(embedding.base, prompts, multimask=multimask, adapter=adapter, label=label)
        return self._decoder.decode(embedding.encoded, prompts, self._label, multimask=multimask)


class AdaptedClicks:
    """The segmenter as clicks use it under an adaptation: a ``Segmenter`` whose embeddings are the base's.

    So an encoded image serves every version. ``label`` is the task prompt. Decoding uses a copy of the decoder.
    """

    def __init__(self, adaptation: Adaptation, segmenter: Segmenter) -> None:
        self._decoder = AdaptedDecoder(sam_of(segmenter), adaptation)
        self._segmenter = segmenter

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """See ``Segmenter.encode``."""
        return self._segmenter.encode(images)

    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        """See ``Segmenter.decode``; an adapter of the caller's own takes the place of what was learned."""
        if adapter is not None or self._decoder.adaptation.decodes_as_base(label):
            return self._segmenter.decode(embedding, prompts, multimask=multimask, adapter=adapter, label=label)
        return self._decoder.decode(self._decoder.sam.adopt(embedding), prompts, label, multimask=multimask)


class ProbedDetector:
    """The detector's boxes, and those of the label's heat map that the detector did not find: a ``Detector``."""

    def __init__(self, detector: Detector, segmenter: AdaptedSegmenter, side: int, probe: Probe) -> None:
        self._detector = detector
        self._segmenter = segmenter
        self._side = side
        self._probe = probe

    def detect(
        self, images: Sequence[Image], names: Sequence[str], *, box_threshold: float, text_threshold: float
    ) -> list[list[Detection]]:
        found = self._detector.detect(images, names, box_threshold=box_threshold, text_threshold=text_threshold)
        return [self._with_probe(image, boxes) for image, boxes in zip(images, found, strict=True)]

    def _with_probe(self, image: Image, boxes: Sequence[Detection]) -> list[Detection]:
        (embedding,) = self._segmenter.encode([image])
        assert isinstance(embedding, AdaptedEmbedding)  # noqa: S101 - AdaptedSegmenter.encode makes nothing else
        heat = heat_map(self._probe, embedding.encoded, self._side)
        new = [
            entry
            for entry in boxes_of(heat, self._probe.threshold)
            if all(entry.box.iou(known.box) < _SAME_OBJECT for known in boxes)
        ]
        return sorted([*boxes, *new], key=lambda detection: -detection.score)


class AdaptedStrategy:
    """A strategy whose task prompts were learned about; prompts that nothing was learned for run as before.

    Args:
        make: makes the strategy over a suite.
        suite: the base models; its segmenter is a SAM of transformers.
        adaptation: what was learned, by task prompt.
    """

    def __init__(self, make: Callable[[ModelSuite], Strategy], suite: ModelSuite, adaptation: Adaptation) -> None:
        self._make = make
        self._suite = suite
        self._adaptation = adaptation
        self._base = make(suite)
        self._made: dict[str, Strategy] = {}
        self._decoder: AdaptedDecoder | None = None

    @property
    def name(self) -> str:
        """The strategy's."""
        return self._base.name

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        results = self._strategy(task.text).segment(images, task)
        calibration = self._adaptation.calibrations.get(task.text)
        return results if calibration is None else [_rescored(result, calibration) for result in results]

    def _strategy(self, label: str) -> Strategy:
        probe = self._adaptation.probes.get(label)
        if probe is None and self._adaptation.decodes_as_base(label):
            return self._base
        if label not in self._made:
            if self._decoder is None:
                self._decoder = AdaptedDecoder(sam_of(self._suite.segmenter), self._adaptation)
            adapted = AdaptedSegmenter(self._decoder, self._suite.segmenter, label)
            detector = self._suite.detector
            if probe is not None:
                detector = ProbedDetector(detector, adapted, self._decoder.sam.side, probe)
            self._made[label] = self._make(replace(self._suite, segmenter=adapted, detector=detector))
        return self._made[label]


def _rescored(result: Segmentation, calibration: Callable[[float], float]) -> Segmentation:
    instances = tuple(replace(instance, score=calibration(instance.score)) for instance in result.instances)
    return replace(result, instances=instances)
