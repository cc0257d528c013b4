"""What is evaluated: images with their true masks, and the named variants of a strategy that are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from int_model.core.options import nested
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Mask, check_image, union
from int_model.strategies.base import ConfigT
from int_model.strategies.registry import STRATEGIES


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image with its truth.

    Attributes:
        id: unique in its data set; shown in reports.
        image: ``uint8 [H, W, 3]``.
        task: the task prompt that the strategies are given.
        mask: all sought pixels ``bool [H, W]``; may be left out where ``instances`` are given, whose union it is.
        instances: one mask per object, perhaps none; None if single objects are not known (then nothing is said
            about instance metrics).
        name: the true name of what is sought, if known.
        group: a slice that is also reported on its own, e.g. the seed of generated scenes.

    Raises ``ValueError`` if there is no truth at all or shapes differ.
    """

    id: str
    image: Image
    task: str
    mask: Mask | None = None
    instances: tuple[Mask, ...] | None = None
    name: str | None = None
    group: str = ""

    def __post_init__(self) -> None:
        check_image(self.image)
        TaskPrompt(self.task)
        if self.mask is None and self.instances is None:
            raise ValueError(f"example '{self.id}' has no truth; give its mask or its instances")
        for mask in (*(() if self.mask is None else (self.mask,)), *(self.instances or ())):
            if mask.dtype != np.bool_ or mask.shape != self.image.shape[:2]:
                raise ValueError(
                    f"example '{self.id}': a true mask is bool {list(self.image.shape[:2])} like the image, "
                    f"not {mask.dtype} {list(mask.shape)}"
                )

    @property
    def truth(self) -> Mask:
        """All sought pixels, ``bool [H, W]``."""
        return (
            self.mask
            if self.mask is not None
            else union((self.image.shape[0], self.image.shape[1]), self.instances or ())
        )

    def digests(self) -> tuple[str, str]:
        """SHA-256 of the image's pixels and of the truth (mask, instances, name)."""
        truth = hashlib.sha256(repr((self.name, self.instances is not None)).encode())
        for mask in (self.truth, *(self.instances or ())):
            truth.update(np.packbits(mask).tobytes())
        return _digest(self.image), truth.hexdigest()


@dataclass(frozen=True, slots=True)
class BrokenExample:
    """An entry of a data set that cannot be used; it is reported, and the others go on."""

    id: str
    error: str
    task: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """A strategy under a name, with changes to the configuration.

    ``config`` may be nested (``{"switches": {"pnm": False}}``), dotted (``{"switches.pnm": False}``) or both.
    Raises ``ValueError`` for an unknown strategy or a blank name; unknown options raise ``ConfigError`` when applied.
    """

    name: str
    strategy: str = "int"
    config: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("a variant has a name")
        STRATEGIES.named(self.strategy)

    def configured(self, base: ConfigT) -> ConfigT:
        """``base``, a configuration of its strategy, with its changes. Raises ``ConfigError`` (a ``ValueError``)."""
        return STRATEGIES[self.strategy].configured(base, nested(self.config))


def _digest(image: Image) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
