"""``int-backend bootstrap``: a folder of images to a data set, with progress on stderr; killed, it goes on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from int_model.datasets.collect import Plan, collect, make_plan
from int_model.datasets.contents import Contents, LabelPlan, Selection, survey
from int_model.datasets.export import export, prepare_output
from int_model.datasets.names import common_root
from int_model.datasets.store import DatasetStore
from int_model.html.text import duration
from int_model.io.files import find_images
from int_model.io.outputs import display_name
from int_model.models.identity import profile_fingerprint
from int_model.runner.store import fingerprint
from int_model.strategies.model_options import ModelOptions
from ml_backend.cli.bootstrap_formats import Formats
from ml_backend.cli.bootstrap_options import check_formats, parse_tasks, selection_of
from ml_backend.cli.commands.bootstrap import BootstrapOptions
from ml_backend.cli.options import FAILED, INTERRUPTED
from ml_backend.cli.progress import ProgressBar, say
from ml_backend.labelstudio.task_files import check_local_root
from ml_backend.serving.versions import package_version


def run(options: BootstrapOptions) -> int:
    """Do it; returns the exit status: 0, 1 if images failed, 130 if it was interrupted.

    Wrong usage raises ``ValueError`` before any model is loaded; absent weights, or an output that another run works
    on, ``RuntimeError``. All messages go to stderr, also what libraries print.
    """
    tasks, formats = parse_tasks(options.tasks), check_formats(options)
    models = options.models.options()
    profile, configuration = models.read_profile(), models.config().fingerprint()
    made_by = {
        "profile": profile.name,
        "models": profile_fingerprint(profile),
        "strategy": models.strategy,
        "configuration": configuration,
    }
    identity = fingerprint(made_by["models"], models.strategy, configuration)
    labels = [LabelPlan(label, task.text, identity) for label, task in tasks]
    selection = selection_of(options)
    # Folders are resolved, so that a file has one path; a link to a file keeps its own name.
    paths = [path.parent.resolve() / path.name for path in find_images(options.images, skip=[options.out])]
    for path in paths:
        if path.is_relative_to(options.out.resolve()):
            raise ValueError(f"'{display_name(path)}' lies inside --out; choose another --out")
    if options.local_root is not None:
        check_local_root(options.local_root, paths)
    work = prepare_output(options.out)
    console = Console(stderr=True, highlight=False)
    with contextlib.redirect_stdout(sys.stderr), DatasetStore(work / "results.sqlite") as store:
        return _Run(options, models, made_by, labels, selection, formats, paths, store, console).run()


@dataclass(slots=True)
class _Run:
    options: BootstrapOptions
    models: ModelOptions
    made_by: Mapping[str, str]
    labels: list[LabelPlan]
    selection: Selection
    formats: tuple[str, ...]
    paths: list[Path]
    store: DatasetStore
    console: Console

    def run(self) -> int:
        plan = make_plan(self.store, self.paths, self.labels, retry_failed=self.options.retry_failed)
        self._tell_settings(plan)
        try:
            if plan.todo and not self.options.export_only:
                self._collect(plan)
        except KeyboardInterrupt:
            done = len(self.paths) - len(make_plan(self.store, self.paths, self.labels, retry_failed=False).todo)
            self._tell(
                f"stopped; {done} of {len(self.paths)} images are kept. Run the same command again to go on, or with "
                "--export-only to get a data set of what is there"
            )
            return INTERRUPTED
        try:
            return self._export()
        except KeyboardInterrupt:
            self._tell("stopped while writing; earlier files are as they were. Run the same command again")
            return INTERRUPTED

    def _tell_settings(self, plan: Plan) -> None:
        """Say what goes on and what starts anew, and keep the settings for the next time."""
        settings = {**self.made_by, **{f"prompt of '{label.label}'": label.prompt for label in self.labels}}
        before = self.store.note("settings")
        if isinstance(before, dict) and before != settings:
            changes = "; ".join(
                f"{name}: {before.get(name, 'none')} -> {settings.get(name, 'none')}"
                for name in dict.fromkeys([*before, *settings])
                if before.get(name) != settings.get(name)
            )
            self._tell(
                f"the settings differ from the last run ({changes}). Images that have no results of the new settings "
                "are segmented anew; the results of the old ones are kept, and used again if you go back to them"
            )
        self.store.keep_notes({"settings": settings})
        ready = plan.done + plan.failed
        if ready:
            failed = f" ({plan.failed} failed; --retry-failed tries them again)" if plan.failed else ""
            self._tell(f"{ready} of {len(self.paths)} images are done from an earlier run{failed}")

    def _collect(self, plan: Plan) -> None:
        total, done = len(self.paths), len(self.paths) - len(plan.todo)
        with ProgressBar(self.console, "loading models", total, done) as bar:
            _, strategy = self.models.load(bar.loading)
            finished = collect(
                self.store,
                plan.todo,
                strategy,
                self.labels,
                batch_size=self.options.batch_size,
                version=package_version(),
                retry_failed=self.options.retry_failed,
            )
            begun, failed = time.monotonic(), 0
            for count, (source, error) in enumerate(finished, 1):
                bar.advance("segmenting")
                if error:
                    failed += 1
                    say(self.console, f"{display_name(source.path)}: {error}", "red")
                elif source.note:
                    say(self.console, f"{display_name(source.path)}: {source.note}")
                each = (time.monotonic() - begun) / count
                bar.line(partial(_so_far, count, len(plan.todo), failed, each), last=count == len(plan.todo))

    def _export(self) -> int:
        contents = survey(self.store, common_root(self.options.images), self.paths, self.labels, self.selection)
        self._warn(contents)
        formats = Formats(self.options, self.models, self.made_by, self.formats, contents)
        with ProgressBar(self.console, "writing", len(contents.entries)) as bar:
            export(
                self.options.out,
                contents.items(self.store),
                formats.writers,
                formats.finish,
                progress=lambda _item: bar.advance(),
            )
        return self._tell_end(contents, formats.statistics.summary())

    def _warn(self, contents: Contents) -> None:
        missing = len(self.selection.exclude) - contents.excluded
        if missing > 0:
            self._tell(f"{missing} names in --exclude are none of the images; names are as in splits.csv")
        total, largest = len(contents.entries), max(Counter(e.group for e in contents.entries).values(), default=0)
        share = min((self.selection.shares or {}).values(), default=0.0)
        if share and total >= 10 and largest > (1 - share) * total:
            self._tell(
                f"{largest} of {total} images look alike and stay in one split; the others hardly fill the rest. "
                "A smaller --duplicate-distance tells them apart"
            )

    def _tell_end(self, contents: Contents, summary: Mapping[str, Any]) -> int:
        splits = ", ".join(f"{name} {count['images']}" for name, count in summary["splits"].items())
        out = display_name(self.options.out)
        self._tell(
            f"{summary['images']} images ({splits}) with {summary['objects']} objects, "
            f"{summary['images_without_objects']} images without any: see {out}/dataset_card.md"
            + (f" and {out}/review/index.html" if self.options.review else "")
        )
        if contents.failures:
            self._tell(f"{len(contents.failures)} images failed: see {out}/failed.csv; --retry-failed tries them again")
        if contents.unfinished:
            self._tell(f"{contents.unfinished} images are not done yet; run the command without --export-only")
        return FAILED if contents.failures else 0

    def _tell(self, text: str) -> None:
        say(self.console, text)


def _so_far(count: int, total: int, failed: int, each: float) -> str:
    left = f", about {duration(each * (total - count))} left" if count < total else ""
    return f"{count - failed} of {total} images segmented, {failed} failed, {each:.2f} s each{left}"
