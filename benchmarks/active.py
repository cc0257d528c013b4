"""Does a review order beat a random one? ``python -m benchmarks.active`` learns from the first n images of each order.

Pools are of the miniature world: ``rare`` has one skin lesion among eight images (all outlined with a halo), ``part``
and ``cells`` are tasks of ``benchmarks.learning``. Orders: ``random``; ``spread``, clusters of image embeddings that
take turns; ``active``: four by spread, then by doubt, labels in turn, 30 % at random. All orders are compared at equal
budgets on the same held-out images; ``--figures`` gives differences to random with intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import HELD_OUT_FROM, end_to_end, example
from int_model import TaskPrompt, load_suite, make_strategy
from int_model.learning.active import by_doubt, cold_start, doubt_of
from int_model.learning.adaptation import Adaptation
from int_model.learning.applied import AdaptedStrategy
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.examples import Example
from int_model.learning.fit import FitOptions, Fitter, with_probes
from int_model.learning.scoring import score_all

POOLS = ("rare", "part", "cells")
ORDERS = ("random", "spread", "active")
ARMS: dict[int, tuple[str, ...]] = {4: ("outlines",), 8: ("outlines", "decoder"), 16: ("decoder",)}
"""What learns from a budget of so many images: the choices from few, weights from eight on."""

FIRST_SPREAD = 4
"""How many images the active order takes by spread before it trusts doubts."""


def pool_of(name: str, seed: int, count: int) -> list[Example]:
    """The images to choose from."""
    start = 1000 * seed
    if name != "rare":
        return [example(name, start + i) for i in range(count)]
    return [example("halo", start + 2 * i + (i % 8 == 5)) for i in range(count)]  # odd scenes show lesions


def held_out(name: str, count: int) -> list[Example]:
    """The images that all orders are judged on; both labels of ``rare`` equally often."""
    return [example("halo" if name == "rare" else name, HELD_OUT_FROM + i) for i in range(count)]


def orders_of(suite: Any, pool: list[Example], seed: int) -> dict[str, list[int]]:
    """Every order of a pool."""
    decoder = AdaptedDecoder(suite.segmenter, Adaptation())
    encoded = decoder.encode([entry.image for entry in pool])
    features = np.stack([entry.features.mean(dim=(1, 2)).cpu().numpy() for entry in encoded])
    spread = cold_start(features, seed=seed)
    strategy = make_strategy("grounded_sam", suite)
    rest = spread[FIRST_SPREAD:]
    labels = [pool[i].targets[0].label for i in rest]
    results = [strategy.segment([pool[i].image], TaskPrompt(label))[0] for i, label in zip(rest, labels, strict=True)]
    strata = [label if result.instances else "" for label, result in zip(labels, results, strict=True)]
    doubtful = by_doubt([doubt_of(result) for result in results], strata, seed=seed)
    drawn = [int(i) for i in np.random.default_rng([seed, 77]).permutation(len(pool))]
    return {"random": drawn, "spread": spread, "active": spread[:FIRST_SPREAD] + [rest[i] for i in doubtful]}


def measure(suite: Any, held: list[Example], chosen: list[Example], arm: str, seed: int) -> dict[str, float]:
    """Figures of what an arm learns from the chosen images, means over labels."""
    fitter = Fitter(suite.segmenter, FitOptions(seed=seed))
    adaptation = fitter.fit(arm, chosen)  # type: ignore[arg-type]
    decoder = AdaptedDecoder(suite.segmenter, adaptation)
    scores = score_all(decoder, held, decoder.encode([entry.image for entry in held]))
    by_label: dict[str, list[float]] = {}
    for entry in scores:
        for label, value in entry.labels.items():
            by_label.setdefault(label, []).append(value)
    row = {"given": float(np.mean([np.mean(values) for values in by_label.values()]))}
    if arm == "outlines":
        probed = with_probes(adaptation, fitter.probes(chosen))
        strategy = AdaptedStrategy(lambda own: make_strategy("grounded_sam", own), suite, probed)
        row["end"] = end_to_end(strategy, held)["iou"]
    return row


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Differences to the random order with 95 % intervals over seeds (Student's t), by pool, budget and arm."""
    from scipy import stats

    table: dict[str, dict[str, Any]] = {}
    seeds: set[int] = set()
    for pool, budget, arm in sorted({(row["pool"], row["budget"], row["arm"]) for row in rows}):
        own = [row for row in rows if (row["pool"], row["budget"], row["arm"]) == (pool, budget, arm)]
        for measure_name, shown in (("given", "given prompts"), ("end", "end to end")):
            values = {(row["order"], row["seed"]): row[measure_name] for row in own if measure_name in row}
            complete = sorted(s for s in {s for _, s in values} if all((o, s) in values for o in ORDERS))
            if len(complete) < 2:
                continue
            seeds |= set(complete)
            line: dict[str, Any] = {"random": round(float(np.mean([values["random", s] for s in complete])), 3)}
            for order in ORDERS[1:]:
                gains = np.array([values[order, s] - values["random", s] for s in complete])
                reach = float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains)))
                line[order] = [round(float(v), 3) for v in (gains.mean(), gains.mean() - reach, gains.mean() + reach)]
            table[f"{pool}, {budget} images, {arm}: {shown}"] = line
    return {"command": "python -m benchmarks.active", "seeds": len(seeds), "rows": table}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts/active.jsonl"))
    parser.add_argument("--pools", default=",".join(POOLS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--budgets", default="8,16,4")
    parser.add_argument("--pool-size", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--figures", type=Path, help="measure nothing; write the figures of --results")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="result files, for --figures")
    given = parser.parse_args(arguments)
    if given.figures:
        rows = [json.loads(line) for path in given.results or [given.out] for line in path.read_text().splitlines()]
        given.figures.write_text(json.dumps(figures(rows), indent=1) + "\n", encoding="utf-8")
        return 0
    suite = load_suite("nano")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = given.out.read_text(encoding="utf-8").splitlines() if given.out.is_file() else []
    keys = ("pool", "seed", "order", "budget", "arm")
    done = {tuple(json.loads(line)[key] for key in keys) for line in lines}
    for seed in map(int, given.seeds.split(",")):
        for name in given.pools.split(","):
            pool, held = pool_of(name, seed, given.pool_size), held_out(name, given.held_out)
            orders = orders_of(suite, pool, seed)
            for budget in map(int, given.budgets.split(",")):
                for arm in ARMS[budget]:
                    for order in ORDERS:
                        row: dict[str, Any] = dict(zip(keys, (name, seed, order, budget, arm), strict=True))
                        if tuple(row.values()) in done:
                            continue
                        row |= measure(suite, held, [pool[i] for i in orders[order][:budget]], arm, seed)
                        with given.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
                        sys.stdout.write(f"{row}\n")
                        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
