"""Compare strategies on images with known masks: ``python examples/compare_strategies.py [SCENES]``.

Uses the bundled samples; put a `FolderPairs` of your own in their place. Prints a row per strategy with the mean IoU
and its 95 % interval.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import int_model
from int_model import load_suite
from int_model.evaluation import Example, Variant, evaluate
from int_model.evaluation.datasets import read_mask
from int_model.io.images import read_image

SAMPLES = Path(int_model.__file__).parent / "nano" / "samples"


class BundledSamples:
    """The samples that the demo shows, with their exact masks."""

    def __init__(self, count: int) -> None:
        self._entries = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))[:count]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Example]:
        for entry in self._entries:
            image, mask = read_image(SAMPLES / entry["file"]), read_mask(SAMPLES / entry["mask"])
            yield Example(id=entry["file"], image=image, task=entry["task"], mask=mask)


def main(arguments: Sequence[str]) -> None:
    """Run the example."""
    examples = BundledSamples(int(arguments[0]) if arguments else 12)
    variants = [Variant("vlm_box", "vlm_box"), Variant("grounded_sam", "grounded_sam")]
    result = evaluate(examples, variants, load_suite("nano"))
    for row in result.summary():
        iou = row["iou"]
        print(f"{row.variant}: IoU {iou.value:.3f} ({iou.low:.3f} to {iou.high:.3f}) on {row.images} images")


if __name__ == "__main__":
    main(sys.argv[1:])
