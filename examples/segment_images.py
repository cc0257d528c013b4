"""Segment images from Python: ``python examples/segment_images.py [IMAGE ...]``.

Without arguments it takes two bundled samples. Prints one line per object that was found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import int_model
from int_model import TaskPrompt, load_suite, make_strategy
from int_model.io.images import read_image

SAMPLES = Path(int_model.__file__).parent / "nano" / "samples"


def main(arguments: Sequence[str]) -> None:
    """Run the example."""
    paths = [Path(text) for text in arguments] or [SAMPLES / "polyp-01.png", SAMPLES / "polyp-02.png"]
    images = [read_image(path) for path in paths]
    strategy = make_strategy("grounded_sam", load_suite("nano"))
    for path, result in zip(paths, strategy.segment(images, TaskPrompt("polyp")), strict=True):
        for instance in result.instances:
            x1, y1, x2, y2 = (round(value) for value in instance.box.as_tuple())
            area = int(instance.mask.sum())
            print(f"{path.name}: {instance.label}, score {instance.score:.2f}, {area} pixels in [{x1} {y1} {x2} {y2}]")


if __name__ == "__main__":
    main(sys.argv[1:])
