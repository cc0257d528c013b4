"""What a profile takes of an accelerator's memory at the least, before anything is loaded. No torch here.

Counted are the weights (parameters times bytes) and the vision-language model's caches, which are arithmetic.
What the networks need while they compute is not: a profile's ``meta.memory_gb`` is the whole, with that.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from int_model.models.identity import folder_of
from int_model.models.profile import Profile, profile_names, read_profile
from int_model.models.roles import VisionLanguageRole, Weights

_GB = 1e9
_MIB = 1 << 20
_BYTES = {"auto": 2.0, "float16": 2.0, "bfloat16": 2.0, "float32": 4.0}
_QUANTISED = {"int8": 1.0, "int4": 0.5625}  # 4 bits, and a float32 scale for every 64 weights
_TEXT_TOKENS = 256  # of a prompt with its answers, beside the image


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known of a published checkpoint.

    Attributes:
        parameters: of the whole network.
        language: those of the language model's layers, which alone are quantised.
        cached: numbers that its key-value cache holds per token: 2 x layers x key-value heads x width.
        image_tokens: most tokens of one image.
    """

    parameters: int
    language: int = 0
    cached: int = 0
    image_tokens: int = 0


CHECKPOINTS: dict[str, Checkpoint] = {
    "llava-hf/llava-1.5-13b-hf": Checkpoint(13_351_494_656, 12_688_179_200, 2 * 40 * 5120, 576),
    "llava-hf/llava-1.5-7b-hf": Checkpoint(7_063_427_072, 6_476_267_520, 2 * 32 * 4096, 576),
    "Qwen/Qwen3-VL-8B-Instruct": Checkpoint(8_767_123_696, 6_946_071_552, 2 * 36 * 1024, 1024),
    "Qwen/Qwen3-VL-2B-Instruct": Checkpoint(2_127_532_032, 1_409_408_000, 2 * 28 * 1024, 1024),
    "IDEA-Research/grounding-dino-base": Checkpoint(232_315_264),
    "IDEA-Research/grounding-dino-tiny": Checkpoint(172_250_626),
    "facebook/sam-vit-huge": Checkpoint(641_090_864),
    "facebook/sam-vit-large": Checkpoint(312_343_088),
    "wanglab/medsam-vit-base": Checkpoint(93_735_728),
    "facebook/sam2.1-hiera-tiny": Checkpoint(31_440_721),
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": Checkpoint(195_901_953),
    "openai/clip-vit-base-patch16": Checkpoint(149_620_737),
    "sd2-community/stable-diffusion-2-inpainting": Checkpoint(1_289_966_827),
}
"""Counted on the real configurations (``benchmarks/real``); a test counts again."""


@dataclass(frozen=True, slots=True)
class RolePlan:
    """Of one role, in GB (1e9 bytes).

    Attributes:
        role: which.
        weights_gb: None if they cannot be told.
        caches_gb: of the largest batch, which is halved where it does not fit.
        row_gb: of a batch of one, which must fit.
    """

    role: str
    weights_gb: float | None
    caches_gb: float = 0.0
    row_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A profile's roles, and what the profile itself says that it needs in all."""

    profile: str
    roles: tuple[RolePlan, ...]
    stated_gb: float | None

    @property
    def weights_gb(self) -> float:
        """Of all roles whose weights are known."""
        return sum(role.weights_gb or 0.0 for role in self.roles)

    @property
    def caches_gb(self) -> float:
        """Of all roles at their largest batches."""
        return sum(role.caches_gb for role in self.roles)

    @property
    def least_gb(self) -> float:
        """What cannot be done without: weights, and the caches of batches of one."""
        return self.weights_gb + sum(role.row_gb for role in self.roles)

    @property
    def needed_gb(self) -> float:
        """What the profile states, or the least if that is more."""
        return max(self.least_gb, self.stated_gb or 0.0)


def plan(profile: Profile) -> MemoryPlan:
    """The plan of a profile on a CUDA card."""
    roles = tuple(_role(role, getattr(profile, role)) for role in profile.roles)
    return MemoryPlan(profile.name, roles, profile.meta.memory_gb)


def fitting(gigabytes: float) -> list[MemoryPlan]:
    """The shipped profiles that need no more than so much, the most demanding first."""
    plans = [plan(read_profile(name)) for name in profile_names()]
    return sorted((p for p in plans if p.needed_gb <= gigabytes), key=lambda p: -p.needed_gb)


def _role(role: str, settings: object) -> RolePlan:
    if not isinstance(settings, Weights):
        return RolePlan(role, 0.0)
    size = _BYTES[settings.dtype]
    known = CHECKPOINTS.get(settings.id)
    if known is None:
        return RolePlan(role, _of_folder(settings, size))
    weights = known.parameters * size
    caches = row = 0.0
    if isinstance(settings, VisionLanguageRole):
        if settings.quantize != "none":
            weights = known.language * _QUANTISED[settings.quantize] + (known.parameters - known.language) * size
        # Answers are scored on a copy of the rows of their prompts.
        row = 2 * (known.image_tokens + _TEXT_TOKENS) * known.cached * size
        caches = settings.max_batch * row + (settings.prefix_cache_mb + settings.feature_cache_mb) * _MIB
    return RolePlan(role, weights / _GB, caches / _GB, row / _GB)


def _of_folder(settings: Weights, size: float) -> float | None:
    """GB of a checkpoint on the disk in the role's precision; None for what is not there or not safetensors."""
    folder = folder_of(settings.id)
    if folder is not None and folder.is_file():  # how precise its tensors are is not known
        return folder.stat().st_size / _GB
    files = sorted(folder.rglob("*.safetensors")) if folder and not settings.from_file else []
    if not files:
        return None
    return sum(_parameters(path) for path in files) * size / _GB


def _parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        count = 1
        for side in entry["shape"] if name != "__metadata__" else (0,):
            count *= int(side)
        total += count
    return total
