"""The five roles that models play, an optional one, and what a model may offer beyond its role.

Everything above this package talks to these Protocols only.

All methods take lists and batch inside; the i-th output belongs to the i-th input. Images are ``uint8 [H, W, 3]``
RGB of any size (sizes may differ in one call). Adapters keep no reference to what they are given, and are called
from one thread at a time.

Every method that runs a model may raise ``int_model.models.errors.TransientModelError``: the model cannot answer at
the moment, and the same call may succeed later. Only adapters of remote models do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Detection, Floats, Image, Mask, SoftMask

if TYPE_CHECKING:
    from torch import Tensor

Reduce = Literal["mean", "prod", "first", "max"]
Normalise = Literal["token", "channel"]


@dataclass(frozen=True, slots=True)
class CoordinateFrame:
    """How a VLM words box coordinates.

    Attributes:
        padded: the model sees the image padded to a square (centred), and its boxes refer to that square.
        units: ``unit`` 0-1, ``thousand`` 0-1000, ``pixel`` pixels of the (padded) image, or ``auto`` by magnitude.
    """

    padded: bool = True
    units: Literal["auto", "unit", "thousand", "pixel"] = "auto"


class Answer(str):
    """What a model said; ``ended`` is False where the token limit cut it. A plain string counts as ended."""

    __slots__ = ("ended",)
    ended: bool

    def __new__(cls, text: str, *, ended: bool = True) -> Self:
        said = super().__new__(cls, text)
        said.ended = ended
        return said


def was_cut(answer: str) -> bool:
    """Whether the token limit cut the answer."""
    return not getattr(answer, "ended", True)


@runtime_checkable
class Dialogue(Protocol):
    """An image-text-to-text model that can be talked to: all that many remote endpoints offer."""

    frame: CoordinateFrame

    def dialogue(
        self, images: Sequence[Image], questions: Sequence[Sequence[str]], max_new_tokens: Sequence[int]
    ) -> list[tuple[str, ...]]:
        """Hold one conversation per image: ``questions[i]`` are its T turns (the same T for all), the image in turn 1.

        Decoding is greedy unless the adapter was configured otherwise; ``max_new_tokens`` has T entries.
        Returns T stripped answers per image (an answer may be empty). An adapter that knows whether an answer ended by
        itself returns each as an ``Answer``.
        """
        ...


@runtime_checkable
class AnswerScoring(Protocol):
    """A vision-language model that says how likely it finds given answers."""

    def score(
        self, images: Sequence[Image], questions: Sequence[str], names: Sequence[Sequence[str]], reduce: Reduce = "mean"
    ) -> list[Floats]:
        """Teacher-forced probability of each answer ``names[i][j]`` to ``questions[i]`` under ``images[i]``.

        ``mean`` is the geometric mean of the token probabilities, ``prod`` the probability of the name
        as a whole answer: the product with the token that ends it (else "stick" would hold the mass of "stick insect"),
        summed over the forms that the model may write (as given, lower case, Capitalised), ``first`` the first token's,
        ``max`` the largest. Returns ``float64 [len(names[i])]`` in ``[0, 1]`` per image.
        """
        ...

    def answer_distributions(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Next-token distributions along the teacher-forced ``answers[i]``: ``float32 [T_i, V]``, rows sum to 1."""
        ...


@runtime_checkable
class VisionLanguage(Dialogue, AnswerScoring, Protocol):
    """A vision-language model that can be talked to and that scores answers."""


@runtime_checkable
class ContrastiveVisionLanguage(Dialogue, Protocol):
    """A vision-language model that can also be asked about one image against another."""

    def contrast(
        self,
        images: Sequence[Image],
        others: Sequence[Image],
        questions: Sequence[Sequence[str]],
        max_new_tokens: Sequence[int],
        alpha: float,
        plausible: float = 0.0,
    ) -> list[tuple[str, ...]]:
        """As ``dialogue``, but decoded against ``others[i]`` (ProMaC eq. 3).

        Each token has the largest ``(1 + alpha) logit(. | images[i]) - alpha logit(. | others[i])``. Both branches are
        asked the same questions and have heard the same answers; only the image differs. Tokens whose probability
        under ``images[i]`` is below ``plausible`` times that of the likeliest are not chosen.
        """
        ...


@runtime_checkable
class Inpainter(Protocol):
    """Fills a masked region from its surroundings. Pixels outside the mask may change; the caller pastes them back."""

    def inpaint(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        """Fill ``masks[i]`` (True = remove) of ``images[i]``, guided by the prompts where the model takes any."""
        ...


@runtime_checkable
class Detector(Protocol):
    """An open-vocabulary detector asked for one noun per image."""

    def detect(
        self, images: Sequence[Image], names: Sequence[str], *, box_threshold: float, text_threshold: float
    ) -> list[list[Detection]]:
        """Boxes (image pixels, clipped, score descending) of ``names[i]`` in ``images[i]``; no NMS is promised."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MaskPrompt:
    """One question to the segmenter: a box, points ``float64 [P, 2]`` (x, y) with ``labels`` 1/0, a mask, or several.

    ``mask_input``: low-resolution logits ``float32 [h, w]`` of an earlier answer.
    """

    box: Box | None = None
    points: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mask_input: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.labels), 2):
            raise ValueError(f"{len(self.labels)} labels need points of shape [{len(self.labels)}, 2]")
        if self.box is None and len(self.labels) == 0 and self.mask_input is None:
            raise ValueError("a mask prompt has a box, a point or a mask")


@dataclass(frozen=True, slots=True, eq=False)
class BestMask:
    """The alternative with the highest predicted IoU: its logits ``float32 [H, W]`` at image size, and that IoU."""

    logits: NDArray[np.float32]
    iou: float


@dataclass(frozen=True, slots=True, eq=False)
class MaskProposal:
    """The segmenter's answer to one prompt: C alternatives.

    Attributes:
        logits: ``float32 [C, H, W]`` at image resolution; a pixel belongs to the mask where the logit is > 0.
        low_res: ``float32 [C, h, w]``, usable as ``mask_input``.
        iou: ``float64 [C]`` predicted quality of each alternative.
    """

    logits: NDArray[np.float32]
    low_res: NDArray[np.float32]
    iou: Floats

    @property
    def best(self) -> int:
        """Index of the alternative with the highest predicted IoU."""
        return int(np.argmax(self.iou))

    @property
    def chosen(self) -> BestMask:
        """That alternative alone, without the memory of the others."""
        return BestMask(self.logits[self.best].copy(), float(self.iou[self.best]))


class Embedding(Protocol):
    """An encoded image; opaque, but its size is known to caches."""

    @property
    def nbytes(self) -> int: ...


class PromptAdapter(Protocol):
    """What was learned about one task: it changes the prompt tokens before the decoder sees them, and chooses a mask.

    The seam of prompt learning (arXiv 2403.09199). The identity returns ``sparse`` and chooses no mask; it gives the
    same bits as no adapter. An adapter fits the base model that it was trained with, and no other.
    """

    @property
    def identity(self) -> str:
        """Changes whenever the masks may change; a part of cache keys and versions."""
        ...

    def adjust(self, sparse: Tensor, image: Tensor, positions: Tensor, label: str) -> Tensor:
        """The tokens that the decoder is given, of the shape, type and device of ``sparse``; differentiable.

        Not called for prompts without tokens (a mask alone).

        Args:
            sparse: ``[B, T, D]``, prompts of one make-up: points, a padding token where there is no box, box corners.
            image: ``[B, D, h, w]``, the image's embedding, the same for all B.
            positions: ``[B, D, h, w]``, the positional encoding of the embedding's cells, which is not in it yet.
            label: name of what is segmented, as the caller of ``Segmenter.decode`` gave it.
        """
        ...

    def slot(self, label: str) -> int | None:
        """The mask token to take: 0 is the decoder's single mask, 1 to 3 its alternatives. None: the caller chooses."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A promptable segmenter: encode an image once, decode any number of prompts."""

    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """One embedding per image."""
        ...

    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        """One proposal per prompt, with 3 alternatives if ``multimask`` else 1.

        Args:
            embedding: of the image, made by this segmenter.
            prompts: in pixels of the image.
            multimask: whether alternatives are wanted. They are not where the adapter chooses a slot: 1 is returned.
            adapter: changes the prompt tokens; None for the model as it is.
            label: handed to the adapter.
        """
        ...


@runtime_checkable
class DecodesBest(Protocol):
    """A segmenter that chooses among its alternatives itself, so that the others are neither enlarged nor copied."""

    def decode_best(
        self,
        embedding: Embedding,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[BestMask]:
        """Of what ``Segmenter.decode`` would answer, each prompt's ``best`` alternative (but for rounding)."""
        ...


@runtime_checkable
class ImageFeatures(Protocol):
    """A segmenter that shows what it sees, for models that are trained on its features instead of on pixels."""

    def features(self, embedding: Embedding) -> NDArray[np.float32]:
        """The encoder's output ``float32 [C, h, w]`` for an image that this segmenter encoded.

        The grid covers a square as long as the image's longer side. The image is in its upper left corner; cells beyond
        it show padding.
        """
        ...


@runtime_checkable
class TextImage(Protocol):
    """A CLIP-type model: images and texts in one space. Their embeddings are ``float32`` with unit L2 norm."""

    logit_scale: float

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """``[N, D]``; each image is squashed to the model's square input, nothing is cropped."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``[N, D]``, the texts as they are (templates are the caller's)."""
        ...

    def embed_patches(self, images: Sequence[Image], normalise: Normalise = "token") -> NDArray[np.float32]:
        """Spatial CLIP features (CLIP Surgery, k-k attention, dual path): ``[N, gh, gw, D]``, class token dropped.

        ``token``: each patch has unit norm. ``channel``: each channel has unit norm over the image's patches and the
        class token, so that over the patches alone it is a little less. One scaling of the raw features, never both.
        """
        ...


@runtime_checkable
class TextTokens(Protocol):
    """A CLIP-type model that also gives the features of a text's tokens, for models that read word by word."""

    def embed_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Per text ``float32 [T, D]``: every token (the start and end tokens too) in the common space, unit L2 norm."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ConceptMask:
    """One instance of a concept: its score in ``[0, 1]``, its box in image pixels, its soft mask ``float32 [H, W]``."""

    score: float
    box: Box
    soft: SoftMask


@runtime_checkable
class Concepts(Protocol):
    """A segmenter that takes a noun (SAM 3); the optional role of the strategy ``sam3``."""

    def find(self, images: Sequence[Image], names: Sequence[str], *, threshold: float) -> list[list[ConceptMask]]:
        """All instances of ``names[i]`` in ``images[i]`` with scores above ``threshold``, best first."""
        ...
