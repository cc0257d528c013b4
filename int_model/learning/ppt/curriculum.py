"""The loop over the three stages: draws, forward through the frozen segmenter, losses, teacher, resumable."""

from __future__ import annotations

import copy
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from int_model.learning.ppt.gallery import Gallery
from int_model.learning.ppt.losses import contrast_loss, mask_losses, point_losses, sampled
from int_model.learning.ppt.plan import STAGES, Plan
from int_model.learning.ppt.rounds import Accepted, accept
from int_model.learning.ppt.samples import Material, Sample, selected
from int_model.learning.ppt.soft_points import decode_points, strongest
from int_model.learning.ppt.targets import grouped, point_targets
from int_model.point_prompting.generator.expressions import head_noun
from int_model.point_prompting.generator.network import PointGenerator, Points

StepDone = Callable[[int, int, float], None]
"""Called after each step with (done, total, loss); raising from it stops the training."""
_VARIANTS = 4  # draws of target points per sample, kept
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Learner:
    """A generator in training: its teacher, its optimiser, where it is.

    Attributes:
        network: what is trained.
        plan: how.
        gallery: of all images.
        material: what the stages draw from.
        step: steps done.
        accepted: the referring pairs believed at the moment.
    """

    network: PointGenerator
    plan: Plan
    gallery: Gallery
    material: Material
    step: int = 0
    accepted: list[Accepted] = field(default_factory=list)
    teacher: PointGenerator = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    _third: list[Sample] = field(default_factory=list)
    _targets: dict[tuple[int, ...], tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.to(self.gallery.sam.device).train()
        self.teacher = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=self.plan.rate, weight_decay=self.plan.decay)

    # ------------------------------------------------------------- the loop

    def train(
        self,
        *,
        until: int | None = None,
        keep: Callable[[Learner], None] | None = None,
        keep_every: int = 500,
        step_done: StepDone | None = None,
    ) -> list[float]:
        """Go on from ``step`` to ``until`` (by default the plan's end); the loss of each step done here.

        Every step draws from a generator seeded by (seed, step), so that a training resumed from a kept state goes on
        to the same weights as one that was never interrupted.
        """
        losses = []
        end = self.plan.total if until is None else min(until, self.plan.total)
        while self.step < end:
            if self.plan.selects(self.step):
                self.select()
            losses.append(self._step())
            if step_done is not None:
                step_done(self.step, self.plan.total, losses[-1])
            if keep is not None and self.step % keep_every == 0:
                keep(self)
        return losses

    def select(self) -> None:
        """Choose anew which referring pairs are believed."""
        self.believe(
            accept(self.gallery, self.teacher, self.material.pool, self.plan.selection, self.plan.most)
            if self.material.pool
            else []
        )
        pairs = sum(len(entry.pairs) for entry in self.material.pool)
        _log.info("step %d: %d of %d referring pairs are believed", self.step, len(self.accepted), pairs)

    def believe(self, accepted: Sequence[Accepted]) -> None:
        """Draw stage 3 from these pairs."""
        self.accepted = list(accepted)
        self._third = selected(self.material.pool, self.accepted)

    def _step(self) -> float:
        plan, rng = self.plan, np.random.default_rng([self.plan.seed, self.step])
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate * plan.factor(self.step)
        samples = self._draw(rng)
        loss = self._loss(samples, [int(v) for v in rng.integers(0, _VARIANTS, len(samples))])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            decay = min(plan.ema, (1 + self.step) / (10 + self.step))
            for mean, value in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        self.step += 1
        return float(loss.detach())

    # ---------------------------------------------------------------- draws

    def _draw(self, rng: np.random.Generator) -> list[Sample]:
        sources: list[Sequence[Sample]] = [self.material.objects, self.material.composites, self._third]
        shares = np.array(self.plan.shares(self.step)) * [bool(source) for source in sources]
        stages = rng.choice(3, self.plan.batch, p=shares / shares.sum())
        drawn = []
        for stage in stages:
            sample = sources[stage][int(rng.integers(len(sources[stage])))]
            if stage == 0:
                sample = self._reworded(sample, rng)
            drawn.append(sample)
        return drawn

    def _reworded(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """An object-centric sample under its own text, or now and then under one that names something else."""
        noun, nouns = head_noun(sample.text), self.material.nouns
        if len(nouns) > 1 and rng.random() < self.plan.absent:
            other = nouns[int(rng.integers(len(nouns)))]
            if other != noun and sample.mask is not None:
                return Sample((*sample.key, 1), sample.image, f"the {other}", None, (sample.mask,))
        if rng.random() < 0.5:
            return Sample(sample.key, sample.image, f"the {noun}", sample.mask, sample.others)
        return sample

    def _target(self, sample: Sample, variant: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        key = (*sample.key, variant)
        if key not in self._targets:
            rng = np.random.default_rng([self.plan.seed, zlib.crc32(repr(key).encode())])
            found = point_targets(
                sample.mask,
                sample.others,
                self.gallery.shown(sample.image),
                rng,
                positives=self.plan.positives,
                negatives=self.plan.negatives,
            )
            self._targets[key] = grouped(found, self.network.settings.points)
        return self._targets[key]

    # --------------------------------------------------------------- losses

    def _loss(self, samples: Sequence[Sample], variants: Sequence[int]) -> Tensor:
        plan, gallery, device = self.plan, self.gallery, self.gallery.sam.device
        images = [sample.image for sample in samples]
        texts = [sample.text for sample in samples]
        seen = gallery.seen(images, texts)
        points: Points = self.network(seen)
        truth = torch.zeros(len(samples), gallery.cells, gallery.cells)
        for row, sample in enumerate(samples):
            if sample.mask is not None:
                truth[row] = torch.from_numpy(sample.mask)
        truth = truth.to(device)
        reach = gallery.to_square(images) / gallery.sam.side
        inside = (sampled(truth, points.xy.detach(), reach) > 0.5).float()
        weights = torch.ones(len(samples), device=device)
        targets = [self._target(sample, variant) for sample, variant in zip(samples, variants, strict=True)]
        loss = point_losses(points, targets, inside, weights, plan.weights)

        shown = [row for row, sample in enumerate(samples) if sample.mask is not None][: plan.through]
        if plan.weights.mask > 0 and shown:
            some = [images[row] for row in shown]
            xy, share = points.flat()
            xy, share = strongest(xy[shown], share[shown], plan.most)
            logits, _ = decode_points(gallery, some, xy, share, negatives=plan.negatives > 0)
            inner = gallery.inside(some)
            masks = mask_losses(logits[:, 0], truth[shown], inner, weights[shown], plan.weights.focal)
            loss = loss + plan.weights.mask * masks
            if plan.stage(self.step) == 3 and plan.weights.contrast > 0 and len(shown) > 1:
                said = [texts[row] for row in shown]
                contrast = self._contrast(logits[:, 0], seen.patches[shown], said, reach[shown])
                loss = loss + plan.weights.contrast * contrast
        return loss

    def _contrast(self, logits: Tensor, patches: Tensor, texts: Sequence[str], reach: Tensor) -> Tensor:
        rows, columns = patches.shape[1:3]
        ys = (torch.arange(rows, device=logits.device) + 0.5) / rows
        xs = (torch.arange(columns, device=logits.device) + 0.5) / columns
        centres = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).view(1, -1, 2)
        soft = sampled(torch.sigmoid(logits), centres.expand(len(logits), -1, -1), reach).view(-1, rows, columns)
        nouns = torch.from_numpy(np.stack([text.maps[1] for text in self.gallery.texts(texts)])).to(logits.device)
        same = (nouns @ nouns.T) > 0.999
        return contrast_loss(soft, patches, nouns, same)


def describe(plan: Plan, step: int) -> dict[str, Any]:
    """Where a training is, for logs and pages: step, total, the stage's number and name."""
    stage = plan.stage(min(step, plan.total - 1))
    return {"step": step, "total": plan.total, "stage": stage, "name": STAGES[stage - 1]}
