"""A training that can be killed and goes on: schedule, optimiser, log lines, saved state."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_WARMUP, _LOG, _SAVE = 100, 100, 300


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: ``steps`` batches, or fewer where ``seconds`` run out first.

    The rate rises for 100 steps, then falls along a cosine to 2 % of ``peak`` at the end, whichever end comes first.
    """

    steps: int
    peak: float
    batch: int
    seconds: float = math.inf

    def rate(self, step: int, elapsed: float) -> float | None:
        """The learning rate of this step; None at the end."""
        done = max(step / self.steps, elapsed / self.seconds)
        if done >= 1:
            return None
        return self.peak * min(1.0, (step + 1) / _WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Training:
    """Steps of a model's training. ``out`` gets the weights, a file beside it what is needed to go on after a kill."""

    def __init__(self, name: str, model: torch.nn.Module, schedule: Schedule, out: Path, *, seed: int) -> None:
        self._name, self._model, self._schedule, self._out = name, model, schedule, out
        torch.manual_seed(seed)
        learned = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._learned = learned
        self._optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self._before, self._first, self.step = 0.0, 0, 0
        self._began = time.monotonic()
        out.parent.mkdir(parents=True, exist_ok=True)
        if self._state.is_file():
            held = torch.load(self._state, weights_only=True, map_location="cpu")
            model.load_state_dict(held["model"])
            self._optimiser.load_state_dict(held["optimiser"])
            self._before, self.step = held["elapsed"], held["step"]
            self._first = self.step
            torch.manual_seed(seed + self.step)
            log.info("%s goes on at step %d", name, self.step)

    @property
    def _state(self) -> Path:
        return self._out.with_suffix(".state")

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, also before a kill."""
        return self._before + time.monotonic() - self._began

    def steps(self) -> Iterator[int]:
        """The steps to do; a checkpoint now and then, the weights at the end."""
        while (rate := self._schedule.rate(self.step, self.elapsed)) is not None:
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            yield self.step
            self.step += 1
            if self.step % _SAVE == 0:
                self.save()
        self.save()
        self._state.unlink(missing_ok=True)

    def descend(self, losses: dict[str, Tensor], shares: dict[str, float]) -> None:
        """One step against the weighted sum of the losses."""
        loss = torch.stack([shares.get(key, 1.0) * value for key, value in losses.items()]).sum()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._learned, 1.0)
        self._optimiser.step()
        if self.step % _LOG == _LOG - 1:
            means = " ".join(f"{key} {value.item():.3f}" for key, value in losses.items())
            pace = (time.monotonic() - self._began) / (self.step + 1 - self._first)
            text = "%s step %d of %d, %.0f s of %.0f: %s, %.3f s a step"
            log.info(
                text, self._name, self.step + 1, self._schedule.steps, self.elapsed, self._schedule.seconds, means, pace
            )

    def save(self) -> None:
        """The weights and the state, each whole or not at all."""
        state = {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "elapsed": self.elapsed,
            "step": self.step,
        }
        for path, content in ((self._out, state["model"]), (self._state, state)):
            part = path.with_suffix(path.suffix + ".part")
            torch.save(content, part)
            part.rename(path)
