"""One training, whoever asks for it: examples to a judged bundle with its report."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from int_model.learning.adaptation import Adaptation
from int_model.learning.bundle import Manifest, bundle_id, pack
from int_model.learning.examples import Example, data_digest
from int_model.models.identity import segmenter_fingerprint
from int_model.models.protocols import Segmenter
from int_model.strategies.base import Strategy
from int_model.strategies.model_options import ModelOptions

if TYPE_CHECKING:
    from int_model.learning.learn import Journal, Outcome

LEAST_IMAGES = 2
"""Judging needs two images (or groups): one to learn from, one to be judged on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How to learn.

    Attributes:
        segmenter: of the loaded models; a SAM of transformers.
        apply: makes the strategy under an adaptation.
        seed: of folds, simulated prompts and training.
        steps: optimiser steps of a trained arm, or None for what the number of images suggests.
        parent: what serves now; None for the base models.
        journal: keeps finished steps; None: they are lost with the process.
        stage_done: progress, see `int_model.learning.learn.StageDone`.
        pause: see `int_model.learning.sam.Pause`.
        aside: see `int_model.learning.fit.Aside`.
    """

    segmenter: Segmenter
    apply: Callable[[Adaptation], Strategy]
    seed: int = 0
    steps: int | None = None
    parent: Adaptation | None = None
    journal: Journal | None = None
    stage_done: Callable[[int, int, str], None] | None = None
    pause: Callable[[], None] | None = None
    aside: Callable[[], AbstractContextManager[None]] | None = None

    def run(self, examples: Sequence[Example]) -> Outcome:
        """Compare the arms, judge the best one, and fit it on all examples. Slow; imports torch.

        Raises:
            ValueError: there are fewer than two images (or groups), no object, or the segmenter is of another kind.
        """
        from int_model.learning.applied import sam_of
        from int_model.learning.fit import FitOptions, Fitter
        from int_model.learning.learn import Learner

        options = FitOptions(seed=self.seed, steps=self.steps)
        fitter = Fitter(sam_of(self.segmenter), options, self.pause, self.aside)
        apply = functools.lru_cache(maxsize=4)(self.apply)  # each holds a copy of the decoder
        learner = Learner(fitter, apply, self.parent, journal=self.journal, stage_done=self.stage_done)
        return learner.learn(examples)


def enough(examples: Sequence[Example]) -> bool:
    """Whether so many images (or groups) have an object that a candidate can be judged."""
    return len({example.unit for example in examples if example.targets}) >= LEAST_IMAGES


def packed(
    outcome: Outcome,
    examples: Sequence[Example],
    models: ModelOptions,
    *,
    seed: int = 0,
    steps: int | None = None,
    parent: str = "",
) -> tuple[bytes, dict[str, Any]]:
    """The bundle of a training, and its report as plain data.

    Args:
        outcome: of the training.
        examples: what it learned from.
        models: that it learned on.
        seed: of the training.
        steps: that were asked for.
        parent: id of the version that it was compared with, "" for the base models.
    """
    verdict = outcome.verdict
    figures = {
        "table": outcome.table,
        "gain": {"value": verdict.gain.value, "lower": verdict.gain.lower, "images": verdict.gain.units},
        "end_to_end": dict(outcome.end_to_end),
        "promoted": verdict.promoted,
        "reasons": list(verdict.reasons),
    }
    manifest = Manifest(
        base=segmenter_fingerprint(models.read_profile()),
        data=data_digest(examples),
        arm=verdict.arm,
        parent=parent,
        images=sum(1 for example in examples if example.targets),
        settings={"seed": seed, "steps": steps, "strategy": models.strategy, "profile": models.profile},
        libraries={name: version(name) for name in ("torch", "transformers", "int-backend")}
        | {"python": platform.python_version()},
        figures=figures,
    )
    data = pack(outcome.adaptation, manifest)
    return data, {
        "id": bundle_id(data),
        "arm": verdict.arm,
        "images": manifest.images,
        **figures,
        "worst": [{"image": name, "iou": value} for name, value in outcome.worst],
    }
