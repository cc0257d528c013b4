"""From pairs to a trained generator: material, network, the three stages, the file."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from int_model.learning.ppt.curriculum import Learner, describe
from int_model.learning.ppt.gallery import Gallery
from int_model.learning.ppt.pairs import PairSet
from int_model.learning.ppt.plan import Plan
from int_model.learning.ppt.samples import Tell, prepare
from int_model.learning.ppt.state import resume, save_state
from int_model.learning.sam import TrainableSam
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.suite import ModelSuite
from int_model.point_prompting.generator.bundle import TrainedGenerator, probes_of
from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator, parameter_count

_log = logging.getLogger(__name__)


class OutOfTimeError(RuntimeError):
    """The seconds given to a training are over; its state is kept and the next call goes on.

    Attributes:
        generator: as far as it is trained.
    """

    def __init__(self, message: str, generator: TrainedGenerator) -> None:
        super().__init__(message)
        self.generator = generator


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a generator's shape is chosen; the widths of its inputs follow from the models."""

    width: int = 256
    heads: int = 8
    layers: int = 3
    feed: int = 1024
    queries: int = 40
    points: int = 1
    sees_segmenter: bool = True


SMALL = Shape(width=128, heads=4, feed=256, queries=16)
"""Below 2 MB in half precision: for the bundled miniature models and for small projects."""


def train_generator(
    suite: ModelSuite,
    objects: PairSet,
    referring: PairSet | None,
    *,
    plan: Plan,
    shape: Shape,
    state: Path | None = None,
    seconds: float | None = None,
    tell: Tell,
) -> TrainedGenerator:
    """Train a generator from image-text pairs; nothing that is read here holds a mask.

    Args:
        suite: frozen CLIP and SAM.
        objects: object-centric pairs (stage 1; stage 2 is composed of them).
        referring: pairs of stage 3, or None.
        plan: the training.
        shape: of the generator.
        state: a file that keeps where the training is; if it exists, the training goes on from there.
        seconds: after so many the training stops with ``OutOfTimeError``, its state kept.
        tell: progress, as (what is being done, done, total).

    Raises:
        OutOfTimeError: see ``seconds``.
        PairsError: no pair can be learned from.
        ValueError: the profile's segmenter is not SAM, or it may not be the state's training.
    """
    began = time.monotonic()
    learner = _learner(suite, objects, referring, plan, shape, tell)
    counts = {"pairs": len(objects.pairs) + (len(referring.pairs) if referring else 0)}
    if state is not None and resume(learner, state):
        _log.info("going on after step %d", learner.step)
    recent: deque[float] = deque(maxlen=200)

    def done(step: int, total: int, loss: float) -> None:
        recent.append(loss)
        tell(f"stage {describe(plan, step)['stage']}", step, total)
        if step % 200 == 0:
            _log.info("step %d of %d: loss %.3f", step, total, sum(recent) / len(recent))
        if seconds is not None and time.monotonic() - began > seconds and step < total:
            if state is not None:
                save_state(learner, state)
            raise OutOfTimeError(
                f"{step} of {total} steps are done; call again with the same state to go on",
                finished(learner, suite, plan, counts),
            )

    keep = None if state is None else lambda learner: save_state(learner, state)
    learner.train(keep=keep, step_done=done)
    if keep is not None:
        keep(learner)
    return finished(learner, suite, plan, counts)


def _learner(
    suite: ModelSuite, objects: PairSet, referring: PairSet | None, plan: Plan, shape: Shape, tell: Tell
) -> Learner:
    """The material and a fresh network."""
    if not isinstance(suite.segmenter, HFSamSegmenter):
        raise ValueError(  # noqa: TRY004 a user's choice of profile, shown as one sentence
            f"the segmenter of the profile '{suite.profile}' is not SAM, through which a point generator is trained: "
            "choose a profile with SAM"
        )
    gallery = Gallery(suite.text_image, TrainableSam(suite.segmenter), shape.sees_segmenter, suite.device)
    material = prepare(gallery, objects, referring, plan, tell)
    _log.info(
        "material: %d objects with a pseudo-mask, %d composed expressions, %d referring images",
        len(material.objects),
        len(material.composites),
        len(material.pool),
    )
    torch.manual_seed(plan.seed)
    network = PointGenerator(settings_of(gallery, shape))
    _log.info("the generator has %d parameters", parameter_count(network))
    return Learner(network, plan, gallery, material)


def settings_of(gallery: Gallery, shape: Shape) -> GeneratorSettings:
    """The generator's settings for the models of a gallery that holds an image."""
    seen = gallery.seen([0], ["a thing"])
    return GeneratorSettings(
        patch_width=int(seen.patches.shape[-1]),
        text_width=int(seen.text.shape[-1]),
        segmenter_width=0 if seen.segmenter is None else int(seen.segmenter.shape[-1]),
        width=shape.width,
        heads=shape.heads,
        layers=shape.layers,
        feed=shape.feed,
        queries=shape.queries,
        points=shape.points,
    )


def finished(learner: Learner, suite: ModelSuite, plan: Plan, counts: dict[str, int]) -> TrainedGenerator:
    """The teacher, which is the steadier of the two, with where it comes from."""
    network = learner.teacher.cpu().eval()
    material = learner.material
    return TrainedGenerator(
        network,
        plan.most,
        plan.negatives > 0,
        {
            "plan": asdict(plan),
            "profile": suite.profile,
            "models": suite.fingerprint,
            "steps": learner.step,
            "objects": len(material.objects),
            "composed": len(material.composites),
            "referring": len(material.pool),
            "believed": len(learner.accepted),
            "libraries": {name: version(name) for name in ("torch", "transformers")},
            **counts,
        },
        probes_of(suite.text_image, suite.segmenter if network.settings.segmenter_width else None),
    )
