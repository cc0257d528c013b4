"""The sample scenes that the demo annotates, grouped by task prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ml_backend.demo.processes import DemoError


@dataclass(frozen=True, slots=True)
class Sample:
    """One scene: its image and mask files, task prompt, the true name and number of objects."""

    image: Path
    mask: Path
    task: str
    name: str
    instances: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to find, so that an empty prediction is the right one."""
        return self.instances == 0


def samples_folder() -> Path:
    """The folder of the bundled sample scenes."""
    return Path(str(files("int_model").joinpath("nano", "samples")))


def load_samples(folder: Path) -> tuple[Sample, ...]:
    """Read ``samples.json`` of a folder: a list of ``{"file", "mask", "task", "name", "instances"}``.

    Raises:
        DemoError: the list or a file that it names is missing.
    """
    index = folder / "samples.json"
    if not index.is_file():
        raise DemoError(f"{index} is missing: the package was installed without its sample scenes")
    entries = json.loads(index.read_text(encoding="utf-8"))
    samples = tuple(
        Sample(
            image=folder / entry["file"],
            mask=folder / entry["mask"],
            task=entry["task"],
            name=entry["name"],
            instances=entry["instances"],
        )
        for entry in entries
    )
    for sample in samples:
        for path in (sample.image, sample.mask):
            if not path.is_file():
                raise DemoError(f"{index} names {path.name}, which is missing")
    return samples


def by_task(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each task prompt, in the order of first appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.task, []).append(sample)
    return groups
