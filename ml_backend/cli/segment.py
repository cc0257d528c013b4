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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from int_model.core.config import IntConfig, StrategyConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image
from int_model.io.files import Source, find_images
from int_model.io.outputs import OutputWriter, assign_stems, describe_instances, display_name, to_json, write_atomic
from int_model.report import ReportBuilder
from int_model.report.trace import trace_to_dict
from int_model.runner.isolation import Failure
from int_model.runner.runner import Made, segment_files
from int_model.strategies.model_options import ModelOptions
from ml_backend.cli.commands.segment import SegmentOptions


def run(options: SegmentOptions, *, stdout: IO[str]) -> int:
    """Do it; returns the exit status: 0, 1 if an image failed, 130 if it was interrupted.

    Wrong usage raises ``ValueError`` before any model is loaded, absent weights ``RuntimeError``. Only JSON goes to
    ``stdout``; what libraries print there goes to stderr.
    """
    task = TaskPrompt(options.task)
    models = options.models.options()
    config = models.config()
    results = () if options.out is None else tuple(options.out / name for name in ("masks", "overlay", "trace"))
    paths = find_images(options.images, skip=results)
    _refuse_overwriting(paths, results)
    console = Console(stderr=True, highlight=False)
    with contextlib.redirect_stdout(sys.stderr):
        return _Run(options, task, models, config, paths, console).run(stdout)


def _refuse_overwriting(paths: Sequence[Path], results: Sequence[Path]) -> None:
    folders = {os.path.realpath(folder) for folder in results}
    for path in paths:
        if str(Path(os.path.realpath(path)).parent) in folders:
            raise ValueError(
                f"'{display_name(path)}' lies where results are written and could be overwritten; choose another --out"
            )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"no folder '{display_name(folder)}' can be made ({reason}); choose another --out") from error


@dataclass(slots=True)
class _Run:
    options: SegmentOptions
    task: TaskPrompt
    models: ModelOptions
    config: StrategyConfig
    paths: list[Path]
    console: Console
    records: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0
    report: ReportBuilder | None = None

    def run(self, stdout: IO[str]) -> int:
        begun = time.perf_counter()
        stems = dict(zip(self.paths, assign_stems(self.paths), strict=True))
        if self.options.out is not None:
            _make_folder(self.options.out)
            if self.options.report:
                key = self.config.pnm.key if isinstance(self.config, IntConfig) else "patch"
                self.report = ReportBuilder(self.task.text, self._facts(), score_key=key)
        interrupted = False
        with self._bar() as bar:
            try:
                for source, outcome in self._outcomes(bar):
                    self._take(source, outcome, stems[source.path])
            except KeyboardInterrupt:
                interrupted = True
        self._finish(stdout, time.perf_counter() - begun)
        return 130 if interrupted else 1 if self.failures else 0

    def _outcomes(self, bar: Progress) -> Any:
        row = bar.add_task("loading models", total=len(self.paths))
        batch: list[Source] = []

        def stage(done: int, total: int, name: str) -> None:
            # The bar shows whole images; of the running batch all but a little, which is left for writing.
            bar.update(row, completed=len(self.records) + 0.9 * len(batch) * done / max(1, total), description=name)

        def begun(sources: Sequence[Source]) -> None:
            batch[:] = sources

        _, strategy = self.models.load(
            lambda role, _done, _total: bar.update(row, description=f"loading {role}"), progress=stage
        )
        outcomes = segment_files(self.paths, strategy, self.task, batch_size=self.options.batch_size, begun=begun)
        for outcome in outcomes:
            bar.update(row, description="writing")
            yield outcome
            bar.update(row, completed=max(bar.tasks[row].completed, len(self.records)))

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _take(self, source: Source, outcome: Made | Failure, stem: str) -> None:
        title = display_name(source.path)
        record: dict[str, Any] = {
            "image": title,
            "prompt": self.task.text,
            "instances": [],
            "seconds": 0.0,
            "calls": {},
        }
        if isinstance(outcome, Made) and source.image is not None:
            record = self._written(source.image, outcome, stem, record)
        elif isinstance(outcome, Failure):
            record["error"] = outcome.explain()
        if "error" in record:
            self.failures += 1
            if self.report is not None:
                self.report.add_error(title, record["error"])
        self.records.append(record)
        self._say(record)

    def _written(self, image: Image, made: Made, stem: str, record: dict[str, Any]) -> dict[str, Any]:
        """The record of a segmentation whose files are written, or of what kept them from being written."""
        found = made.segmentation
        told = record | {
            "instances": describe_instances(found),
            "seconds": round(made.seconds, 4),
            "calls": dict(found.trace.calls),
            **({"reason": found.reason} if found.reason else {}),
        }
        if self.options.out is not None:
            trace = {
                **told,
                "size": {"height": found.size[0], "width": found.size[1]},
                "name": found.name,
                "score": found.score,
                "trace": trace_to_dict(found.trace),
            }
            try:
                OutputWriter(self.options.out).write(stem, image, found, trace)
            except OSError as problem:
                why = f"its results cannot be written ({problem.strerror or problem}); check space and permissions"
                return record | {"error": why}
        if self.report is not None:
            self.report.add(record["image"], image, found, seconds=made.seconds, detail_file=f"trace/{stem}.json")
        return told

    def _say(self, record: Mapping[str, Any]) -> None:
        if "error" in record:
            text = f"{record['image']}: {record['error']}"
        elif record["instances"]:
            objects = ", ".join(f"{item['label']} {item['score']:.2f}" for item in record["instances"])
            text = f"{record['image']}: {objects} ({record['seconds']:.1f} s)"
        else:
            text = f"{record['image']}: nothing found, {record.get('reason', '')} ({record['seconds']:.1f} s)"
        printable = "".join(c if c.isprintable() else "?" for c in text)
        self.console.print(printable, markup=False, soft_wrap=True, style="red" if "error" in record else None)

    def _finish(self, stdout: IO[str], seconds: float) -> None:
        if self.options.as_json:
            stdout.write(to_json(self.records).decode())
            stdout.flush()
        out = self.options.out
        if self.report is not None and out is not None and len(self.report):
            write_atomic(out / "report.html", self.report.render().encode())
        done = len(self.records) - self.failures
        where = "" if out is None else f"; see {display_name(out / 'report.html' if self.report is not None else out)}"
        failed = f", {self.failures} failed" if self.failures else ""
        missing = len(self.paths) - len(self.records)
        stopped = f", stopped before {missing} more" if missing else ""
        self.console.print(
            f"{done} of {len(self.paths)} images done{failed}{stopped} in {seconds:.1f} s{where}",
            markup=False,
            soft_wrap=True,
        )

    def _facts(self) -> list[tuple[str, str]]:
        models = self.models
        return [
            ("Strategy", models.strategy),
            ("Profile", models.read_profile().name),
            ("Preset", models.preset or "defaults"),
            ("Configuration", self.config.fingerprint()),
            *((("Changed", ", ".join(models.changed())),) if models.changes else ()),
            ("Made", time.strftime("%Y-%m-%d %H:%M")),
        ]
