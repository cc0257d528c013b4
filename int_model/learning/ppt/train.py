"""Train a point generator on pairs of your own: ``python -m int_model.learning.ppt.train --pairs FOLDER --out FILE``.

Give image-text pairs (a folder, a .jsonl or a RefCOCO-style .json file), or the names that INT mined: what
``int-backend segment`` wrote for unlabelled images. No masks are read. Interrupt it at any time; with the same --state
it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from int_model.learning.ppt.fit import SMALL, OutOfTimeError, Shape, train_generator
from int_model.learning.ppt.pairs import PairsError, PairSet, merged, mined_names, read_pairs
from int_model.learning.ppt.plan import NANO, Plan
from int_model.learning.ppt.samples import Tell
from int_model.models.suite import load_suite
from int_model.point_prompting.generator.network import parameter_count

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pairs", type=Path, action="append", default=[], help="source of pairs; again for more")
    made.add_argument("--objects", type=Path, action="append", default=[], help="source of object-centric pairs")
    made.add_argument("--names", type=Path, action="append", default=[], help="what `int-backend segment` wrote")
    made.add_argument("--images", type=Path, help="folder that file names are relative to")
    made.add_argument("--profile", default="nano", help="models to train for")
    made.add_argument("--device", default="auto")
    made.add_argument("--out", type=Path, required=True, help="the generator's file")
    made.add_argument("--state", type=Path, help="keeps where the training is (default: beside --out)")
    made.add_argument("--seconds", type=float, help="stop after so many, with the state kept")
    made.add_argument("--size", choices=["small", "full"], default="small", help="below 2 MB, or the paper-like size")
    made.add_argument("--steps", type=int, nargs=3, metavar=("S1", "S2", "S3"), help="of the three stages")
    made.add_argument("--order", choices=["curriculum", "mixed", "first"], default="curriculum")
    made.add_argument("--points-per-query", type=int, default=1, help="more than 1: a query is an object")
    made.add_argument("--sees", choices=["both", "clip"], default="both", help="whose features the generator reads")
    made.add_argument("--composites", type=int, help="composed images of stage 2")
    made.add_argument("--seed", type=int, default=0)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Train; 0 when the generator is written, 1 when the seconds are over before, 2 for wrong input."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    console = Console(stderr=True)
    state = options.state or options.out.with_suffix(".state")
    try:
        objects, referring = sources(options)
        with _bar(console) as bar:
            generator = train_generator(
                load_suite(options.profile, device=options.device),
                objects,
                referring,
                plan=_plan(options),
                shape=_shape(options),
                state=state,
                seconds=options.seconds,
                tell=_shown(bar),
            )
    except OutOfTimeError as error:
        _log.info("%s", error)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 a command's error message
        return 2
    options.out.write_bytes(generator.pack())
    state.unlink(missing_ok=True)
    _log.info("%s: %d parameters; use it as ppt.generator", options.out, parameter_count(generator.network))
    return 0


def sources(options: argparse.Namespace) -> tuple[PairSet, PairSet | None]:
    """Pairs of stages 1 and 2, and those of stage 3. Raises ``PairsError``."""
    given = [read_pairs(path, options.images) for path in options.pairs]
    given += [mined_names(_mined(path, options.images)) for path in options.names]
    if not given and not options.objects:
        raise PairsError("there is nothing to learn from: give --pairs, --objects or --names")
    referring = merged(given) if given else None
    if options.objects:
        return merged([read_pairs(path, options.images) for path in options.objects]), referring
    if referring is None:
        raise PairsError("there is nothing to learn from: give --pairs, --objects or --names")
    return referring.object_centric(), referring


def _mined(folder: Path, images: Path | None) -> Iterator[tuple[Path, str]]:
    """(image, name) of every object that a run found: ``trace/*.json`` below its folder."""
    records = sorted((folder / "trace").glob("*.json"))
    if not records:
        raise PairsError(f"{folder} holds no trace/*.json: give the folder that `int-backend segment` wrote")
    for path in records:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            image, labels = str(record["image"]), [str(instance["label"]) for instance in record["instances"]]
        except (ValueError, KeyError, TypeError) as error:
            raise PairsError(f"{path} is no record of `int-backend segment` ({type(error).__name__})") from error
        for label in labels:
            yield (images or folder) / image, label


def _plan(options: argparse.Namespace) -> Plan:
    base = NANO if options.profile == "nano" else Plan()
    return replace(
        base,
        steps=tuple(options.steps) if options.steps else base.steps,
        order=options.order,
        composites=base.composites if options.composites is None else options.composites,
        seed=options.seed,
    )


def _shape(options: argparse.Namespace) -> Shape:
    base = SMALL if options.size == "small" else Shape()
    queries = base.queries if options.points_per_query == 1 else max(4, base.queries // options.points_per_query)
    return replace(base, queries=queries, points=options.points_per_query, sees_segmenter=options.sees == "both")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _shown(bar: Progress) -> Tell:
    rows: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in rows:
            rows[what] = bar.add_task(what, total=total)
        bar.update(rows[what], completed=done, total=total)

    return tell


if __name__ == "__main__":
    sys.exit(main())
