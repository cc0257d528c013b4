"""``int-backend bootstrap``: a folder of images to a data set, with progress on stderr; killed, it goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from int_model.core.config import StrategyConfig
from int_model.datasets.card import Statistics
from int_model.datasets.collect import Plan, collect, make_plan
from int_model.datasets.contents import Contents, LabelPlan, Selection, survey
from int_model.datasets.export import export, prepare_output
from int_model.datasets.names import common_root
from int_model.datasets.store import DatasetStore
from int_model.html.text import duration
from int_model.io.files import find_images
from int_model.io.outputs import display_name
from int_model.models.identity import profile_fingerprint
from int_model.models.profile import Profile
from int_model.runner.store import fingerprint
from int_model.strategies.model_options import ModelOptions
from ml_backend.cli import bootstrap_formats
from ml_backend.cli.bootstrap_options import Format, parse_formats, parse_tasks, selection_of
from ml_backend.cli.commands.bootstrap import BootstrapOptions
from ml_backend.cli.progress import ProgressBar, say
from ml_backend.serving.versions import package_version


def run(options: BootstrapOptions) -> int:
    """Do it; returns the exit status: 0, 1 if images failed, 130 if it was interrupted.

    Wrong usage raises ``ValueError`` before any model is loaded; absent weights, or an output that another run works
    on, ``RuntimeError``. All messages go to stderr, also what libraries print.
    """
    tasks = parse_tasks(options.tasks)
    formats = parse_formats(options.formats)
    bootstrap_formats.check(options, formats)
    chosen = options.models.options()
    profile = chosen.read_profile()
    config = chosen.config()
    models = profile_fingerprint(profile)
    identity = fingerprint(models, chosen.strategy, config.fingerprint())
    labels = [LabelPlan(label, task.text, identity) for label, task in tasks]
    selection = selection_of(options)
    # Folders are resolved, so that a file has one path; a link to a file keeps its own name.
    paths = [path.parent.resolve() / path.name for path in find_images(options.images, skip=[options.out])]
    for path in paths:
        if path.is_relative_to(options.out.resolve()):
            raise ValueError(f"'{display_name(path)}' lies inside --out; choose another --out")
    work = prepare_output(options.out)
    console = Console(stderr=True, highlight=False)
    with contextlib.redirect_stdout(sys.stderr), DatasetStore(work / "results.sqlite") as store:
        return _Run(options, chosen, formats, profile, config, models, labels, selection, paths, store, console).run()


@dataclass(slots=True)
class _Run:
    options: BootstrapOptions
    chosen: ModelOptions
    formats: tuple[Format, ...]
    profile: Profile
    config: StrategyConfig
    models: str
    labels: list[LabelPlan]
    selection: Selection
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
            return 130
        try:
            return self._export()
        except KeyboardInterrupt:
            self._tell("stopped while writing; earlier files are as they were. Run the same command again")
            return 130

    # ---------------------------------------------------------------- segmenting

    def _tell_settings(self, plan: Plan) -> None:
        """Say what goes on and what starts anew, and keep the settings for the next time."""
        settings = {
            "profile": self.profile.name,
            "models": self.models,
            "strategy": self.chosen.strategy,
            "configuration": self.config.fingerprint(),
            **{f"prompt of '{label.label}'": label.prompt for label in self.labels},
        }
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
        self.store.keep_note("settings", settings)
        ready = plan.done + plan.failed
        if ready:
            failed = f" ({plan.failed} failed; --retry-failed tries them again)" if plan.failed else ""
            self._tell(f"{ready} of {len(self.paths)} images are done from an earlier run{failed}")

    def _collect(self, plan: Plan) -> None:
        total, done = len(self.paths), len(self.paths) - len(plan.todo)
        with ProgressBar(self.console, "loading models", total, done) as bar:
            _, strategy = self.chosen.load(bar.loading)
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
            for count, item in enumerate(finished, 1):
                bar.advance("segmenting")
                if item.error:
                    failed += 1
                    say(self.console, f"{display_name(item.path)}: {item.error}", "red")
                elif item.note:
                    say(self.console, f"{display_name(item.path)}: {item.note}")
                each = (time.monotonic() - begun) / count
                bar.line(partial(_so_far, count, len(plan.todo), failed, each), last=count == len(plan.todo))

    # ---------------------------------------------------------------- writing

    def _export(self) -> int:
        contents = survey(self.store, common_root(self.options.images), self.paths, self.labels, self.selection)
        self._warn(contents)
        statistics = Statistics(contents)
        made = self._made()
        with ProgressBar(self.console, "writing", len(contents.entries)) as bar:
            export(
                self.options.out,
                contents.items(self.store),
                lambda folder: bootstrap_formats.writers(
                    folder, self.options, self.formats, contents, statistics, made, self._version()
                ),
                lambda folder: bootstrap_formats.finish(folder, self.options, self.formats, statistics, made),
                progress=lambda _item: bar.advance(),
            )
        return self._tell_end(contents, statistics.summary())

    def _warn(self, contents: Contents) -> None:
        missing = len(self.selection.exclude) - contents.excluded
        if missing > 0:
            self._tell(f"{missing} names in --exclude are none of the images; names are as in splits.csv")
        sizes: dict[int, int] = {}
        for entry in contents.entries:
            sizes[entry.group] = sizes.get(entry.group, 0) + 1
        largest = max(sizes.values(), default=0)
        share = min((self.selection.shares or {}).values(), default=0.0)
        if share and len(contents.entries) >= 10 and largest > (1 - share) * len(contents.entries):
            self._tell(
                f"{largest} of {len(contents.entries)} images look alike and stay in one split; the others hardly fill "
                "the rest. A smaller --duplicate-distance tells them apart"
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
        return 1 if contents.failures else 0

    def _made(self) -> dict[str, Any]:
        options = self.options
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "program": f"int-backend {package_version()}",
            "strategy": self.chosen.strategy,
            "profile": self.profile.name,
            "models": bootstrap_formats.weights(self.profile),
            "models_fingerprint": self.models,
            "licences_of_the_weights": dict(self.profile.meta.licences),
            "preset": self.chosen.preset or "defaults",
            "changed_options": [*self.chosen.changed(), *self.chosen.overridden()],
            "configuration_fingerprint": self.config.fingerprint(),
            "min_score": options.min_score,
            "images_without_objects": "kept" if options.negatives else "left out",
            "split": {
                "shares": dict(self.selection.shares or {}),
                "seed": options.seed,
                "near_duplicate_distance_bits": options.duplicate_distance,
                "folders_kept_together": options.keep_folders,
            },
            "licence_of_the_images": options.licence or "not stated",
        }

    def _version(self) -> str:
        keys = json.dumps([[label.label, label.prompt, label.identity] for label in self.labels])
        return f"int-{self.profile.name}-{self.chosen.strategy}-{hashlib.sha256(keys.encode()).hexdigest()[:8]}"

    def _tell(self, text: str) -> None:
        say(self.console, text)


def _so_far(count: int, total: int, failed: int, each: float) -> str:
    left = f", about {duration(each * (total - count))} left" if count < total else ""
    return f"{count - failed} of {total} images segmented, {failed} failed, {each:.2f} s each{left}"
