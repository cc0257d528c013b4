"""Five fake models that see a world of coloured shapes, so that the whole loop runs meaningfully in milliseconds.

An *object* is a pixel colour with an animal's name, an *environment* a paler colour. Everything is deterministic and
works from pixels alone, so removing an object's pixels changes what the models say, and nothing else does. Each fake
keeps what it was asked (``asked``, ``batches``), independently of the pipeline's own counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Detection, Floats, Image, Mask
from int_model.models.adapters.imaging import square_frame
from int_model.models.protocols import (
    ConceptMask,
    CoordinateFrame,
    MaskPrompt,
    MaskProposal,
    Normalise,
    PromptAdapter,
    Reduce,
)
from int_model.models.suite import ModelSuite

OBJECTS = {"frog": (200, 30, 30), "snake": (30, 180, 30), "owl": (30, 30, 200)}
ENVIRONMENTS = {"sand": (200, 180, 120), "moss": (120, 190, 150)}
TYPICAL = {"sand": "snake", "moss": "frog"}
"""The animal that a language prior expects in each environment, whether it is there or not."""

TASK = "camouflaged animal"
_WORDS = (*OBJECTS, *ENVIRONMENTS)


def scene(
    height: int = 96, width: int = 128, objects: Sequence[tuple[str, int, int, int]] = (), environment: str = "sand"
) -> tuple[Image, list[Mask]]:
    """An image with discs ``(name, x, y, radius)`` and their masks, in order."""
    rng = np.random.default_rng(7)
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = ENVIRONMENTS[environment]
    yy, xx = np.mgrid[:height, :width]
    masks = []
    for name, x, y, radius in objects:
        mask = (xx - x) ** 2 + (yy - y) ** 2 <= radius**2
        image[mask] = OBJECTS[name]
        masks.append(mask)
    noise = rng.integers(-3, 4, image.shape)
    return (image.astype(np.int64) + noise).clip(0, 255).astype(np.uint8), masks


_TARGETS = np.array([*OBJECTS.values(), *ENVIRONMENTS.values()], dtype=np.float32).T
_TARGETS /= np.linalg.norm(_TARGETS, axis=0)


@lru_cache(maxsize=512)
def _layers(height: int, width: int, pixels: bytes) -> NDArray[np.bool_]:
    """Per known word the pixels with the direction of its colour, however dark: ``[words, H, W]``."""
    colours = np.frombuffer(pixels, dtype=np.uint8).reshape(height * width, 3).astype(np.float32)
    norm = np.sqrt(np.einsum("ij,ij->i", colours, colours))
    alike = (colours @ _TARGETS > 0.985 * norm[:, None]) & (norm > 15)[:, None]
    return np.asarray(alike.T.reshape(len(_WORDS), height, width), dtype=np.bool_)


def layers(image: Image) -> dict[str, Mask]:
    """The pixels of every known word."""
    found = _layers(image.shape[0], image.shape[1], image.tobytes())
    return dict(zip(_WORDS, found, strict=True))


def colour_mask(image: Image, name: str) -> Mask:
    """The pixels of one known word."""
    return layers(image)[name]


def shares(image: Image) -> dict[str, float]:
    """The part of an image that each known colour covers."""
    return {word: float(layer.mean()) for word, layer in layers(image).items()}


def _largest(parts: dict[str, float], words: Sequence[str]) -> str | None:
    best = max(words, key=lambda word: parts[word])
    return best if parts[best] > 0.002 else None


@dataclass
class FakeVlm:
    """Names what covers most of a patch; where there is no object, what the environment suggests (a hallucination)."""

    frame: CoordinateFrame = field(default_factory=CoordinateFrame)
    blind: bool = False
    asked: list[tuple[str, ...]] = field(default_factory=list)
    scored: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    shown: list[Image] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    contrasted: list[tuple[Image, Image]] = field(default_factory=list)

    def dialogue(
        self, images: Sequence[Image], questions: Sequence[Sequence[str]], max_new_tokens: Sequence[int]
    ) -> list[tuple[str, ...]]:
        assert all(len(turns) == len(max_new_tokens) for turns in questions)
        self.batches.append("dialogue")
        self.asked += [tuple(turns) for turns in questions]
        return [tuple(self._answer(image, q) for q in turns) for image, turns in zip(images, questions, strict=True)]

    def _answer(self, image: Image, question: str) -> str:
        parts = shares(image)
        environment = _largest(parts, tuple(ENVIRONMENTS))
        name = _largest(parts, tuple(OBJECTS))
        if environment is None and name is None:
            return ""  # nothing it knows
        if "bounding box" in question:
            return self._box(image, name)
        if "environment" in question:
            return f"{environment or 'unknown'}."
        said = name or TYPICAL[environment or "sand"]
        return f"A {said} on {environment}." if "describe" in question else said.capitalize()

    def _box(self, image: Image, name: str | None) -> str:
        height, width = image.shape[:2]
        seen = Box.of_mask(colour_mask(image, name)) if name else None
        _, left, top = square_frame(height, width)
        box = (seen or Box.whole(height, width).enlarge(-0.3)).shift(left, top)
        return "[" + ", ".join(f"{v / max(height, width):.4f}" for v in box.as_tuple()) + "]"

    def probability(self, image: Image, name: str) -> float:
        """A prior from the environment, plus what is seen."""
        parts = shares(image)
        environment = _largest(parts, tuple(ENVIRONMENTS))
        prior = 0.45 if environment and TYPICAL[environment] == name else 0.05
        seen = 0.0 if self.blind else parts.get(name, 0.0)
        return prior + (0.99 - prior) * seen / (seen + 0.02)

    def contrast(
        self,
        images: Sequence[Image],
        others: Sequence[Image],
        questions: Sequence[Sequence[str]],
        max_new_tokens: Sequence[int],
        alpha: float,
        plausible: float = 0.0,
    ) -> list[tuple[str, ...]]:
        """As ``dialogue``, but names are the words whose log-probability gains most; boxes stay as they are."""
        assert all(len(turns) == len(max_new_tokens) for turns in questions)
        self.batches.append("contrast")
        self.asked += [tuple(turns) for turns in questions]
        self.contrasted += [(image.copy(), other.copy()) for image, other in zip(images, others, strict=True)]
        said = []
        for image, other, turns in zip(images, others, questions, strict=True):
            plain, without = (np.log([self.probability(i, word) for word in OBJECTS]) for i in (image, other))
            gain = np.where(
                plain < plain.max() + np.log(max(plausible, 1e-9)), -np.inf, (1 + alpha) * plain - alpha * without
            )
            gains = dict(zip(OBJECTS, gain, strict=True))
            name = max(gains, key=lambda word: gains[word])
            said.append(tuple(name.capitalize() if "Name of the cam" in q else self._answer(image, q) for q in turns))
        return said

    def score(
        self, images: Sequence[Image], questions: Sequence[str], names: Sequence[Sequence[str]], reduce: Reduce = "mean"
    ) -> list[Floats]:
        self.batches.append("score")
        self.shown += [image.copy() for image in images]
        self.scored += [(q, tuple(n)) for q, n in zip(questions, names, strict=True)]
        return [np.array([self.probability(i, name) for name in own]) for i, own in zip(images, names, strict=True)]

    def answer_distributions(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        self.batches.append("distributions")
        self.scored += [(q, (a,)) for q, a in zip(questions, answers, strict=True)]
        out = []
        for image, answer in zip(images, answers, strict=True):
            row = np.array([self.probability(image, word) for word in OBJECTS])
            rows = np.stack([row / row.sum()] * len(answer.split()))
            out.append(rows.astype(np.float32))
        return out


@dataclass
class FakeInpainter:
    """Fills with the median colour of what is left and, like a diffusion model, disturbs every other pixel a little."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def inpaint(
        self, images: Sequence[Image], masks: Sequence[Mask], positive: Sequence[str], negative: Sequence[str]
    ) -> list[Image]:
        self.batches.append(len(images))
        self.asked += list(zip(positive, negative, strict=True))
        self.masks += [mask.copy() for mask in masks]
        out = []
        for image, mask in zip(images, masks, strict=True):
            assert mask.any()
            assert not mask.all()
            filled = np.where(image < 128, image + 2, image - 2).astype(np.uint8)
            filled[mask] = np.median(image[~mask], axis=0).astype(np.uint8)
            out.append(filled)
        return out


@dataclass
class FakeDetector:
    """Boxes of the connected shapes of a name's colour; the task prompt finds every object."""

    score: float = 0.9
    asked: list[tuple[str, float, float]] = field(default_factory=list)

    def detect(
        self, images: Sequence[Image], names: Sequence[str], *, box_threshold: float, text_threshold: float
    ) -> list[list[Detection]]:
        self.asked += [(name, box_threshold, text_threshold) for name in names]
        return [
            [found for found in self._find(image, name) if found.score >= box_threshold]
            for image, name in zip(images, names, strict=True)
        ]

    def _find(self, image: Image, name: str) -> list[Detection]:
        wanted = [name] if name in OBJECTS else list(OBJECTS) if name == TASK else []
        found: list[Detection] = []
        for word in wanted:
            count, _, stats, _ = cv2.connectedComponentsWithStats(colour_mask(image, word).astype(np.uint8))
            for x, y, w, h, area in stats[1:count]:
                if area >= 4:
                    box = Box(float(x), float(y), float(x + w), float(y + h))
                    found.append(Detection(box, self.score - 0.01 * len(found), word))
        return found


@dataclass(frozen=True, eq=False)
class FakeEmbedding:
    image: Image

    @property
    def nbytes(self) -> int:
        return int(self.image.nbytes)


@dataclass(frozen=True)
class NoAdapter:
    """A prompt adapter that changes nothing."""

    identity: str = "none"

    def adjust(self, sparse: Any, image: Any, positions: Any, label: str) -> Any:
        del image, positions, label
        return sparse

    def slot(self, label: str) -> int | None:
        del label
        return None


@dataclass
class FakeSegmenter:
    """The pixels of the commonest object colour in the box; without an object, the box's inner ellipse."""

    encoded: int = 0
    shown: list[Image] = field(default_factory=list)
    prompts: list[MaskPrompt] = field(default_factory=list)
    adapted: list[tuple[PromptAdapter | None, str]] = field(default_factory=list)

    def encode(self, images: Sequence[Image]) -> list[FakeEmbedding]:
        self.encoded += len(images)
        self.shown += [image.copy() for image in images]
        return [FakeEmbedding(image.copy()) for image in images]

    def decode(
        self,
        embedding: Any,
        prompts: Sequence[MaskPrompt],
        *,
        multimask: bool = True,
        adapter: PromptAdapter | None = None,
        label: str = "",
    ) -> list[MaskProposal]:
        self.prompts += list(prompts)
        self.adapted += [(adapter, label)] * len(prompts)
        return [self._propose(embedding.image, prompt, multimask) for prompt in prompts]

    @staticmethod
    def _propose(image: Image, prompt: MaskPrompt, multimask: bool) -> MaskProposal:
        height, width = image.shape[:2]
        area = (prompt.box or Box.whole(height, width)).to_mask(height, width)
        parts = {word: float(colour_mask(image, word)[area].mean()) for word in OBJECTS}
        name = _largest(parts, tuple(OBJECTS))
        if name:
            whole = colour_mask(image, name) & area
        else:
            box = prompt.box or Box.whole(height, width)
            yy, xx = np.mgrid[:height, :width] + 0.5
            cx, cy = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
            whole = ((xx - cx) / box.width) ** 2 + ((yy - cy) / box.height) ** 2 <= 0.16
        part = whole & (np.arange(width) < width // 2)
        masks = np.stack([part, whole, area] if multimask else [whole])
        iou = np.array([0.5, 0.9, 0.3] if multimask else [0.9])
        logits = np.where(masks, 5.0, -5.0).astype(np.float32)
        return MaskProposal(logits=logits, low_res=logits[:, ::4, ::4], iou=iou)


@dataclass
class FakeConcepts:
    """A soft mask of each connected shape; the task prompt finds every object."""

    asked: list[tuple[str, float]] = field(default_factory=list)

    def find(self, images: Sequence[Image], names: Sequence[str], *, threshold: float) -> list[list[ConceptMask]]:
        self.asked += [(name, threshold) for name in names]
        found = []
        for image, boxes in zip(
            images, FakeDetector().detect(images, names, box_threshold=threshold, text_threshold=0.0), strict=True
        ):
            own = [d.box.to_mask(*image.shape[:2]) & colour_mask(image, d.phrase) for d in boxes]
            softs = [np.where(mask, 0.9, 0.1).astype(np.float32) for mask in own]
            found.append([ConceptMask(d.score, d.box, soft) for d, soft in zip(boxes, softs, strict=True)])
        return found


@dataclass
class FakeTextImage:
    """One dimension per known word, and one that all texts and images share."""

    logit_scale: float = 100.0
    texts: list[str] = field(default_factory=list)
    images: int = 0
    spatial: int = 0

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        self.images += len(images)
        return _unit(np.array([self._features(image) for image in images]))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += list(texts)
        return _unit(np.array([[*(float(word in text) for word in _WORDS), 1.0] for text in texts]))

    def embed_patches(self, images: Sequence[Image], normalise: Normalise = "token") -> NDArray[np.float32]:
        self.spatial += len(images)
        grids = []
        for image in images:
            maps = [layer.astype(np.float32) for layer in layers(image).values()]
            cells = [cv2.resize(layer, (14, 14), interpolation=cv2.INTER_AREA) for layer in maps]
            grids.append(np.stack([*cells, np.full((14, 14), 0.5)], axis=-1))
        raw = np.array(grids)
        norm = np.linalg.norm(raw, axis=-1 if normalise == "token" else (1, 2), keepdims=True)
        return np.asarray(raw / np.maximum(norm, 1e-9), dtype=np.float32)

    @staticmethod
    def _features(image: Image) -> list[float]:
        parts = shares(image)
        return [*(parts[word] for word in _WORDS), 0.2]


def _unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(norm, 1e-9), dtype=np.float32)


def fake_suite(**roles: Any) -> ModelSuite:
    """A suite of fakes; a role can be replaced, e.g. ``fake_suite(detector=FakeDetector(score=0.1))``."""
    models: dict[str, Any] = {
        "vlm": FakeVlm(),
        "inpainter": FakeInpainter(),
        "detector": FakeDetector(),
        "segmenter": FakeSegmenter(),
        "text_image": FakeTextImage(),
        "concepts": FakeConcepts(),
    }
    return ModelSuite(**{**models, **roles}, profile="fake", device="cpu", fingerprint="0" * 16, int_overrides={})


def suite_for(strategy: str) -> Any:
    """Models for a strategy's contract: fakes, or the bundled kit for ``ppt``, whose generator was trained on that."""
    from int_model import load_suite

    return load_suite("nano") if strategy == "ppt" else fake_suite()
