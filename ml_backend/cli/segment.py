"""``int-backend segment``: images through a strategy into files, a report and JSON, with progress on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from int_model.core.config import ConfigError, IntConfig, load_preset
from int_model.core.options import nested
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image
from int_model.io.files import Source, find_images
from int_model.io.outputs import OutputWriter, assign_stems, describe_instances, display_name, to_json, write_atomic
from int_model.models import suite as suites
from int_model.models.profile import Profile, read_profile
from int_model.report import ReportBuilder
from int_model.report.trace import trace_to_dict
from int_model.runner.isolation import Failure
from int_model.runner.runner import Made, segment_files
from int_model.strategies.registry import make_strategy


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What ``int-backend segment`` was asked for; ``out`` None writes no files."""

    images: tuple[Path, ...]
    task: str
    profile: str = "nano"
    strategy: str = "int"
    preset: str | None = None
    changes: tuple[str, ...] = ()
    model_changes: tuple[str, ...] = ()
    out: Path | None = None
    as_json: bool = False
    device: str = "auto"
    batch_size: int = 4
    report: bool = True


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """``["a.b=3", "c=text"]`` as ``{"a.b": 3, "c": "text"}``; a value is TOML if it can be, else text.

    Raises ``ValueError`` for an entry without a key or an equals sign.
    """
    out: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        key = key.strip()
        if not key or not equals:
            raise ValueError(f"'{change}' is not KEY=VALUE; write for instance iterations.count=3")
        try:
            value = tomllib.loads(f"value = {text}")
            out[key] = value["value"] if value.keys() == {"value"} else text
        except tomllib.TOMLDecodeError:
            out[key] = text.strip()
    return out


def configuration(options: SegmentOptions, profile: Profile) -> IntConfig:
    """The preset (or the defaults), then what the profile's models need, then ``--set``. Raises ``ValueError``."""
    base = IntConfig() if options.preset is None else load_preset(options.preset)
    try:
        needed = base.merged(profile.int_overrides)
    except ConfigError as error:
        raise ConfigError(f"profile '{profile.name}', table [int]: {error}") from error
    return needed.merged(nested(parse_changes(options.changes)))


def run(options: SegmentOptions, *, stdout: IO[str]) -> int:
    """Do it; returns the exit status: 0, 1 if an image failed, 130 if it was interrupted.

    Wrong usage raises ``ValueError`` before any model is loaded, absent weights ``RuntimeError``. Only JSON goes to
    ``stdout``; what libraries print there goes to stderr.
    """
    task = TaskPrompt(options.task)
    profile = read_profile(options.profile, parse_changes(options.model_changes))
    config = configuration(options, profile)
    results = () if options.out is None else tuple(options.out / name for name in ("masks", "overlay", "trace"))
    paths = find_images(options.images, skip=results)
    _refuse_overwriting(paths, results)
    console = Console(stderr=True, highlight=False)
    with contextlib.redirect_stdout(sys.stderr):
        return _Run(options, task, profile, config, paths, console).run(stdout)


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
    profile: Profile
    config: IntConfig
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
                self.report = ReportBuilder(self.task.text, self._facts(), score_key=self.config.pnm.key)
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
        suite = suites.load_suite(
            self.profile,
            device=self.options.device,
            progress=lambda role, _done, _total: bar.update(row, description=f"loading {role}"),
        )
        batch: list[Source] = []

        def stage(done: int, total: int, name: str) -> None:
            # The bar shows whole images; of the running batch all but a little, which is left for writing.
            bar.update(row, completed=len(self.records) + 0.9 * len(batch) * done / max(1, total), description=name)

        def begun(sources: Sequence[Source]) -> None:
            batch[:] = sources

        strategy = make_strategy(self.options.strategy, suite, self.config, progress=stage)
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
        return [
            ("Strategy", self.options.strategy),
            ("Profile", self.profile.name),
            ("Preset", self.options.preset or "defaults"),
            ("Configuration", self.config.fingerprint()),
            *((("Changed", ", ".join(self.options.changes)),) if self.options.changes else ()),
            ("Made", time.strftime("%Y-%m-%d %H:%M")),
        ]
