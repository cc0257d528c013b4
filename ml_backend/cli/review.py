"""``int-backend next``: open tasks in a review order, and the order as scores in Label Studio."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.table import Table

from ml_backend.cli.commands.review import NextOptions
from ml_backend.cli.progress import ProgressBar, say
from ml_backend.context import label_studio_client
from ml_backend.learning.review import OpenTask, in_order, open_tasks, write_scores
from ml_backend.settings import Settings


def run(options: NextOptions) -> int:
    """Name the next tasks; returns the exit status.

    Raises:
        ValueError: Label Studio is not configured, or there is no such annotator.
        LabelStudioError: it refused, or is not there.
    """
    console = Console(stderr=True)
    client = label_studio_client(Settings())
    if client is None:
        raise ValueError("the backend does not know Label Studio: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    with client:
        tasks = list(open_tasks(client, options.project))
        mine = in_order(
            tasks,
            options.order.value,
            seed=options.seed,
            annotator=options.annotator,
            annotators=options.annotators,
        )
        written = 0
        if options.write:
            everyone = in_order(tasks, options.order.value, seed=options.seed)
            with ProgressBar(console, "writing scores") as bar:
                written = write_scores(client, everyone, lambda done: bar.show(done, len(everyone), "scores"))
        address = f"{client.origin.base}/projects/{options.project}/data?task="
    shown = mine[: options.count]
    if options.as_json:
        rows = [{"task": t.id, "doubt": t.doubt, "label": t.stratum, "address": f"{address}{t.id}"} for t in shown]
        sys.stdout.write(json.dumps({"open": len(tasks), "written": written, "tasks": rows}) + "\n")
        return 0
    _tell(console, options, shown, address, len(tasks))
    if options.write:
        say(
            console,
            f"{written} predictions have their place as score, {len(tasks) - written} tasks have no prediction; "
            "in Label Studio choose uncertainty sampling, or sort by prediction score",
        )
    return 0


def _tell(console: Console, options: NextOptions, shown: list[OpenTask], address: str, total: int) -> None:
    if not shown:
        say(console, f"project {options.project} has no open task" + (" of yours" if total else ""))
        return
    table = Table("task", "doubt", "label", "address")
    for task in shown:
        table.add_row(str(task.id), f"{task.doubt:.2f}", task.stratum or "nothing found", f"{address}{task.id}")
    Console().print(table)
