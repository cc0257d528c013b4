"""One self-contained HTML page that shows, per image, why this name won and how its mask came about."""

from __future__ import annotations

from collections.abc import Sequence

from int_model.core.types import Image, Segmentation
from int_model.html.environment import render
from int_model.report import view
from int_model.report.contrast import ScoreKey

MAX_BYTES = 30_000_000
"""Default size up to which images are shown in full; the pages of 50 images stay below it."""


class ReportBuilder:
    """Collects images one by one and renders the page; keeps small pictures only, no arrays.

    Args:
        task: the task prompt, for the heading.
        facts: (label, value) pairs below the heading, e.g. profile and strategy.
        score_key: whether running scores are kept by ``patch`` or by ``name``.
        max_bytes: once the page is this large, further images show their result alone.
    """

    def __init__(
        self,
        task: str,
        facts: Sequence[tuple[str, str]] = (),
        *,
        score_key: ScoreKey = "patch",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._task = task
        self._facts = list(facts)
        self._key = score_key
        self._max_bytes = max_bytes
        self._views: list[view.ImageView] = []
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._views)

    def add(
        self, title: str, image: Image, segmentation: Segmentation, *, seconds: float = 0.0, detail_file: str = ""
    ) -> None:
        """Add a finished image; ``detail_file`` is named where the page has no room for the details."""
        number = len(self._views) + 1
        if self._nbytes < self._max_bytes:
            item = view.full(number, title, image, segmentation, seconds, self._key)
            if self._nbytes + item.nbytes <= self._max_bytes:
                self._append(item)
                return
        self._append(view.brief(number, title, image, segmentation, seconds, detail_file))

    def add_error(self, title: str, error: str) -> None:
        """Add an image that could not be processed; ``error`` is one sentence."""
        self._append(view.failed(len(self._views) + 1, title, error))

    def _append(self, item: view.ImageView) -> None:
        self._views.append(item)
        self._nbytes += item.nbytes

    def render(self) -> str:
        """The whole page as HTML: everything inline, every text escaped."""
        done = [item for item in self._views if not item.error]
        return render(
            "int_model.report",
            "report.html.j2",
            task=self._task,
            facts=self._facts,
            images=self._views,
            done=len(done),
            found=sum(bool(item.instances) for item in done),
            failed=len(self._views) - len(done),
            objects=sum(len(item.instances) for item in done),
        )
