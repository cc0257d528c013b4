"""``int-backend try``: prompts and strategies on a few images of a project, as a page and as figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from ml_backend.context import AppContext
from ml_backend.settings import Settings
from ml_backend.trial.page import render_page
from ml_backend.trial.trial import run_trial
from ml_backend.trial.types import Trial, TrialRequest


def run(
    settings: Settings,
    request: TrialRequest,
    out: Path,
    *,
    as_json: bool,
    tell: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> int:
    """Try, write the page, tell the outcome. Returns the exit status: 1 if no image could be annotated by any side.

    Raises:
        ValueError, RuntimeError, OSError: it could not be tried, or the page not written; the message is for people.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a"):  # found now rather than after minutes of work
        pass
    trial = asyncio.run(_tried(settings, request, progress))
    out.write_text(render_page(trial), encoding="utf-8")
    if as_json:
        tell(json.dumps(trial.as_json(), indent=2))
    else:
        for line in lines(trial):
            tell(line)
        tell(f"look at the regions: {out}")
    return 0 if any(not outcome.error for one in trial.images for outcome in one.outcomes) else 1


def lines(trial: Trial) -> list[str]:
    """The outcome for people."""
    told = []
    for i, side in enumerate(trial.request.sides):
        outcomes = [one.outcomes[i] for one in trial.images]
        regions = sum(len(outcome.regions) for outcome in outcomes)
        empty = sum(not outcome.regions and not outcome.error for outcome in outcomes)
        failed = [outcome.error for outcome in outcomes if outcome.error]
        line = f"{side.name}: {regions} regions in {len(outcomes) - len(failed)} images, {empty} of them empty"
        if "iou" in trial.comparisons:
            line += f", mean IoU {trial.comparisons['iou'][i].mean[0]:.3f}"
        told.append(line)
        told += [f"  {len(failed)} failed, the first: {failed[0]}"] if failed else []
    return [*told, trial.verdict]


async def _tried(settings: Settings, request: TrialRequest, progress: Callable[[int, int], None]) -> Trial:
    context = AppContext.open(settings, connected=True)
    try:
        await context.start()
        return await run_trial(context, request, progress)
    finally:
        await context.close()
