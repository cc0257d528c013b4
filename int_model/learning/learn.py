"""From a project's corrections to a judged candidate: folds, arms, the gate, and the final fit on all examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Mask, union
from int_model.learning.adaptation import Adaptation
from int_model.learning.arms.outlines import overlap
from int_model.learning.calibration import fit_calibration, matched_ious
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.examples import Example, folds
from int_model.learning.fit import ARMS, TRAINED_FROM, UNTRAINED, ArmName, Fitter, with_probes
from int_model.learning.gate import END_TO_END_LEVEL, Verdict, choose, judge, lower_bound, with_end_to_end
from int_model.learning.scoring import Figures, score_all
from int_model.strategies.base import Strategy

Apply = Callable[[Adaptation], Strategy]
"""Makes the service's strategy under an adaptation; see `int_model.learning.applied.AdaptedStrategy`."""

StageDone = Callable[[int, int, str], None]
"""Progress: (done, total, what is done). Raising from it stops the training; what was kept stays kept."""

_FIRST_FOLDS = 2
_HOPELESS = -0.01  # less than the base, after the first folds
_BEHIND = -0.03  # less than the best arm, after the first folds
_MOST_END_TO_END = 24


class Journal(Protocol):
    """Results of finished steps, so that a training that was killed goes on. Keys are short words."""

    def get(self, key: str) -> str | None:
        """What was put, or None."""
        ...

    def put(self, key: str, value: str) -> None:
        """Keep a step's result."""
        ...


class MemoryJournal(dict[str, str]):
    """A journal that does not outlive the process."""

    def put(self, key: str, value: str) -> None:
        """See ``Journal.put``."""
        self[key] = value


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a training came to.

    Attributes:
        adaptation: the candidate, fitted on all examples.
        verdict: the gate's, with given prompts or end to end.
        table: mean held-out figures by arm.
        end_to_end: mean union IoU of parent and candidate with the strategy's own prompts, with the gain's bound.
        worst: ids of the held-out examples where the candidate is worst, worst first, with their figure.
    """

    adaptation: Adaptation
    verdict: Verdict
    table: dict[str, dict[str, float]]
    end_to_end: Mapping[str, float]
    worst: tuple[tuple[str, float], ...]


class Learner:
    """Learns from examples over one loaded suite.

    Args:
        fitter: fits arms.
        apply: makes the strategy under an adaptation, for the end-to-end figures.
        parent: what serves now.
        arms: the arms to compare, simplest first.
        journal: keeps finished steps.
        stage_done: progress.
    """

    def __init__(
        self,
        fitter: Fitter,
        apply: Apply,
        parent: Adaptation | None = None,
        *,
        arms: Sequence[ArmName] = ARMS,
        journal: Journal | None = None,
        stage_done: StageDone | None = None,
    ) -> None:
        self._fitter = fitter
        self._apply = apply
        self._parent = parent or Adaptation()
        self._arms = tuple(arms)
        self._journal: Journal = journal if journal is not None else MemoryJournal()
        self._stage_done = stage_done or _silent
        self._done, self._total = 0, 1
        self._fitted: dict[tuple[int, str], Adaptation] = {}

    def learn(self, examples: Sequence[Example]) -> Outcome:
        """Compare the arms on held-out examples, judge the best, and fit it on all examples.

        Raises:
            ValueError: there are fewer than two images (or groups), or no object at all.
        """
        with_targets = [example for example in examples if example.targets]
        splits = folds(with_targets, seed=self._fitter.options.seed)
        arms = self._allowed(with_targets)
        self._done, self._total = 0, len(splits) * (len(arms) + 1) + 3
        figures = self._compare(with_targets, splits, arms)
        parent = self._parent_figures(with_targets, splits)
        finished = [arm for arm in arms if len(figures.get(arm, ())) == len(parent)]
        arm = choose({name: figures[name] for name in finished}, finished)
        verdict = judge(arm, figures[arm], parent, compared=len(arms), seed=self._fitter.options.seed)
        candidate = self._final(arm, with_targets)
        candidate, end_to_end, verdict = self._with_probes(candidate, with_targets, splits, arm, verdict)
        self._tell("end to end")
        candidate = self._calibrated(candidate, with_targets)
        self._tell("calibration")
        names = self._in_held_out_order(with_targets, splits)
        ranked = sorted(zip(names, (entry.value for entry in figures[arm]), strict=True), key=lambda pair: pair[1])
        table: dict[str, dict[str, float]] = {name: _means(figures[name]) for name in finished}
        return Outcome(candidate, verdict, table, end_to_end, tuple(ranked[:12]))

    # --- with given prompts

    def _allowed(self, examples: Sequence[Example]) -> list[ArmName]:
        enough = len({example.unit for example in examples}) >= TRAINED_FROM
        return [arm for arm in self._arms if enough or arm in UNTRAINED]

    def _compare(
        self, examples: Sequence[Example], splits: Sequence[tuple[list[int], list[int]]], arms: Sequence[ArmName]
    ) -> dict[str, list[Figures]]:
        """Figures of every arm on the held-out examples of all folds; hopeless arms end after two folds."""
        found: dict[str, list[Figures]] = {arm: [] for arm in arms}
        for number, (train, held) in enumerate(splits):
            known = None
            for arm in arms:
                if number >= _FIRST_FOLDS and self._hopeless(arm, found):
                    self._tell(f"fold {number + 1}: {arm} left out")
                    continue
                if known is None and arm not in UNTRAINED:
                    known = self._fitter.slots([examples[i] for i in train])
                found[arm] += self._fold(number, arm, examples, train, held, known)
                self._tell(f"fold {number + 1}: {arm}")
        return found

    def _hopeless(self, arm: str, found: Mapping[str, Sequence[Figures]]) -> bool:
        """Whether an arm cannot win any more: it is worse than the base, or far behind the best arm."""
        own = [entry.value for entry in found[arm]]
        if arm in UNTRAINED or not own:
            return False
        means = {name: np.mean([entry.value for entry in other[: len(own)]]) for name, other in found.items() if other}
        behind_base = "base" in means and np.mean(own) - means["base"] < _HOPELESS
        return bool(behind_base or np.mean(own) - max(means.values()) < _BEHIND)

    def _fold(
        self, number: int, arm: ArmName, examples: Sequence[Example], train: list[int], held: list[int], known: Any
    ) -> list[Figures]:
        key = f"fold {number} {arm}"
        kept = self._journal.get(key)
        if kept is not None:
            return [Figures(**entry) for entry in json.loads(kept)]
        adaptation = self._fitter.fit(arm, [examples[i] for i in train], known=known)
        self._fitted[number, arm] = adaptation
        made = self._score(adaptation, [examples[i] for i in held])
        self._journal.put(key, json.dumps([asdict(entry) for entry in made]))
        return made

    def _parent_figures(
        self, examples: Sequence[Example], splits: Sequence[tuple[list[int], list[int]]]
    ) -> list[Figures]:
        """The serving version on the same held-out examples; what it was trained on flatters it, not the candidate."""
        order = [examples[i] for _, held in splits for i in held]
        made = self._score(self._parent, order)
        self._tell("what serves now")
        return made

    def _score(self, adaptation: Adaptation, examples: Sequence[Example]) -> list[Figures]:
        decoder = AdaptedDecoder(self._fitter.segmenter, adaptation, self._fitter.pause)
        return score_all(decoder, examples, decoder.encode([example.image for example in examples]))

    def _in_held_out_order(
        self, examples: Sequence[Example], splits: Sequence[tuple[list[int], list[int]]]
    ) -> list[str]:
        return [examples[i].id or examples[i].digest[:8] for _, held in splits for i in held]

    # --- the candidate

    def _final(self, arm: str, examples: Sequence[Example]) -> Adaptation:
        adaptation = self._fitter.fit(arm, examples)  # type: ignore[arg-type]
        self._tell(f"{arm} on all images")
        return adaptation

    def _with_probes(
        self,
        candidate: Adaptation,
        examples: Sequence[Example],
        splits: Sequence[tuple[list[int], list[int]]],
        arm: str,
        verdict: Verdict,
    ) -> tuple[Adaptation, dict[str, float], Verdict]:
        """Probes join the candidate if they help end to end, on images that neither they nor the arm have seen."""
        base: list[float] = []
        plain: list[float] = []
        probed: list[float] = []
        for number, (train, held) in enumerate(splits):
            chosen = [examples[i] for i in held][: max(1, _MOST_END_TO_END - len(base))]
            learned = self._fitted.get((number, arm))
            if learned is None:  # judged before the training was killed
                learned = self._fitter.fit(arm, [examples[i] for i in train])  # type: ignore[arg-type]
            with_probe = with_probes(learned, self._fitter.probes([examples[i] for i in train]))
            base += [self._union_iou(self._parent, example) for example in chosen]
            plain += [self._union_iou(learned, example) for example in chosen]
            probed += [self._union_iou(with_probe, example) for example in chosen]
        more = np.array(probed) - np.array(plain)
        use = more.mean() > SMALLEST_PROBE_GAIN and lower_bound(more, alpha=PROBE_LEVEL) > 0
        differences = np.array(probed if use else plain) - np.array(base)
        bound = lower_bound(differences, alpha=END_TO_END_LEVEL)
        figures = {"parent": float(np.mean(base)), "candidate": float(np.mean(base) + differences.mean())}
        figures |= {"lower": bound, "images": len(base)}
        if use:
            candidate = with_probes(candidate, self._fitter.probes(examples))
        return candidate, figures, with_end_to_end(verdict, differences)

    def _union_iou(self, adaptation: Adaptation, example: Example) -> float:
        """IoU of all predicted with all true pixels, over the labels of the example."""
        strategy = self._apply(adaptation)
        values = []
        for label in example.labels:
            self._fitter.pause()
            (result,) = strategy.segment([example.image], TaskPrompt(label))
            found: Mask = union(example.size, [instance.mask for instance in result.instances])
            values.append(overlap(found, example.mask_of(label)))
        return float(np.mean(values))

    def _calibrated(self, candidate: Adaptation, examples: Sequence[Example]) -> Adaptation:
        """Scores of the candidate's predictions mapped to the IoU that they had."""
        strategy = self._apply(replace(candidate, calibrations={}))
        pairs: dict[str, list[tuple[float, float]]] = {}
        for example in examples[:_MOST_END_TO_END]:
            for label in example.labels:
                self._fitter.pause()
                (result,) = strategy.segment([example.image], TaskPrompt(label))
                truths = [target.mask for target in example.targets if target.label == label]
                pairs.setdefault(label, []).extend(matched_ious(result.instances, truths))
        found = {}
        for label, values in pairs.items():
            calibration = fit_calibration([score for score, _ in values], [iou for _, iou in values])
            if calibration is not None:
                found[label] = calibration
        return replace(candidate, calibrations=found)

    def _tell(self, what: str) -> None:
        self._done = min(self._done + 1, self._total)
        self._stage_done(self._done, self._total, what)


SMALLEST_PROBE_GAIN = 0.01
"""Probes are used if they add so much mean union IoU end to end, clearly."""

PROBE_LEVEL = 0.1
"""One-sided level at which that gain is above 0."""


def _silent(done: int, total: int, what: str) -> None:
    """No progress is told."""


def _means(figures: Sequence[Figures]) -> dict[str, float]:
    return {
        "click": float(np.mean([entry.click for entry in figures])),
        "box": float(np.mean([entry.box for entry in figures])),
        "mean": float(np.mean([entry.value for entry in figures])),
    }
