"""``int-backend segment``: images through a strategy into files, a report and JSON, with progress on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from int_model.core.config import StrategyConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image
from int_model.io.files import Source, find_images
from int_model.io.outputs import (
    OutputWriter,
    assign_stems,
    describe_instances,
    display_name,
    prepare_folder,
    to_json,
    write_atomic,
)
from int_model.report import ReportBuilder
from int_model.report.contrast import score_key
from int_model.report.trace import trace_to_dict
from int_model.runner.isolation import Failure
from int_model.runner.runner import Made, segment_files
from int_model.strategies.model_options import ModelOptions
from ml_backend.cli.commands.segment import SegmentOptions
from ml_backend.cli.options import FAILED, INTERRUPTED
from ml_backend.cli.progress import ProgressBar, say

Record = dict[str, Any]


def run(options: SegmentOptions, *, stdout: IO[str]) -> int:
    """Do it; returns the exit status: 0, 1 if an image failed, 130 if it was interrupted.

    Wrong usage raises ``ValueError`` before any model is loaded, absent weights ``RuntimeError``. Only JSON goes to
    ``stdout``; what libraries print there goes to stderr.
    """
    task, models, out = TaskPrompt(options.task), options.models.options(), options.out
    config = models.config()
    results = () if out is None else tuple(out / name for name in ("masks", "overlay", "trace"))
    paths = find_images(options.images, skip=results)
    _refuse_overwriting(paths, results)
    if out is not None:
        prepare_folder(out)
    report = None
    if out is not None and options.report:
        key = score_key(config)
        report = ReportBuilder(task.text, _facts(models, config), score_key=key)
    console = Console(stderr=True, highlight=False)
    outputs = _Outputs(task, out, dict(zip(paths, assign_stems(paths), strict=True)), report, console)
    interrupted, begun = False, time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr), ProgressBar(console, "loading models", len(paths)) as bar:
        try:
            _, strategy = models.load(bar.loading, progress=bar.stage)
            outcomes = segment_files(paths, strategy, task, batch_size=options.batch_size, begun=bar.begun)
            for source, outcome in outcomes:
                outputs.add(source, outcome)
                bar.advance("writing")
        except KeyboardInterrupt:
            interrupted = True
    if options.as_json:
        stdout.write(to_json(outputs.records).decode())
        stdout.flush()
    outputs.finish(time.perf_counter() - begun)
    return INTERRUPTED if interrupted else FAILED if outputs.failures else 0


def _refuse_overwriting(paths: Sequence[Path], results: Sequence[Path]) -> None:
    folders = [Path(os.path.realpath(folder)) for folder in results]
    for path in paths:
        if Path(os.path.realpath(path)).parent in folders:
            raise ValueError(
                f"'{display_name(path)}' lies where results are written and could be overwritten; choose another --out"
            )


def _facts(models: ModelOptions, config: StrategyConfig) -> list[tuple[str, str]]:
    return [
        ("Strategy", models.strategy),
        ("Profile", models.read_profile().name),
        ("Preset", models.preset or "defaults"),
        ("Configuration", config.fingerprint()),
        *((("Changed", ", ".join(models.changed())),) if models.changes else ()),
        ("Made", time.strftime("%Y-%m-%d %H:%M")),
    ]


@dataclass(slots=True)
class _Outputs:
    """Where outcomes go: the files of ``folder``, the report, the list for JSON, and a line each for people."""

    task: TaskPrompt
    folder: Path | None
    stems: Mapping[Path, str]
    report: ReportBuilder | None
    console: Console
    records: list[Record] = field(default_factory=list)
    failures: int = 0

    def add(self, source: Source, outcome: Made | Failure) -> None:
        """Write what became of one file."""
        title = display_name(source.path)
        record: Record = {"image": title, "prompt": self.task.text, "instances": [], "seconds": 0.0, "calls": {}}
        if source.note:
            record["note"] = source.note
        if isinstance(outcome, Failure) or source.image is None:
            record["error"] = outcome.explain() if isinstance(outcome, Failure) else source.error
        else:
            record = self._written(source.image, outcome, self.stems[source.path], record)
        if "error" in record:
            self.failures += 1
            if self.report is not None:
                self.report.add_error(title, record["error"])
        self.records.append(record)
        say(self.console, _line(record), "red" if "error" in record else None)

    def finish(self, seconds: float) -> None:
        """Write the report, and say what it all came to."""
        place = self.folder
        if self.folder is not None and self.report is not None and len(self.report):
            place = self.folder / "report.html"
            write_atomic(place, self.report.render().encode())
        total, tried = len(self.stems), len(self.records)
        failed = f", {self.failures} failed" if self.failures else ""
        stopped = f", stopped before {total - tried} more" if tried < total else ""
        where = "" if place is None or not tried else f"; see {display_name(place)}"
        done = f"{tried - self.failures} of {total} images done"
        say(self.console, f"{done}{failed}{stopped} in {seconds:.1f} s{where}")

    def _written(self, image: Image, made: Made, stem: str, empty: Record) -> Record:
        """The record of a segmentation whose files are written, or of what kept them from being written."""
        found = made.segmentation
        record = {
            **empty,
            "instances": describe_instances(found),
            "seconds": round(made.seconds, 4),
            "calls": dict(found.trace.calls),
            **({"reason": found.reason} if found.reason else {}),
        }
        if self.folder is not None:
            size = {"height": found.size[0], "width": found.size[1]}
            own = {"size": size, "name": found.name, "score": found.score, "trace": trace_to_dict(found.trace)}
            try:
                OutputWriter(self.folder).write(stem, image, found, {**record, **own})
            except OSError as error:
                why = f"its results cannot be written ({error.strerror or error}); check space and permissions"
                return {**empty, "error": why}
        if self.report is not None:
            self.report.add(record["image"], image, found, seconds=made.seconds, detail_file=f"trace/{stem}.json")
        return record


def _line(record: Record) -> str:
    if "error" in record:
        return f"{record['image']}: {record['error']}"
    objects = ", ".join(f"{item['label']} {item['score']:.2f}" for item in record["instances"])
    found = objects or f"nothing found, {record.get('reason', '')}"
    note = f"; {record['note']}" if "note" in record else ""
    return f"{record['image']}: {found} ({record['seconds']:.1f} s){note}"
