"""A strategy of your own in one file: ``python examples/own_strategy.py``.

It asks the detector for the task prompt and keeps the most certain box as the segmenter's mask. Put the module into a
package and name it as an entry point of the group ``int_model.strategies``; then ``--strategy best_box``,
``INT_STRATEGY=best_box``, ``model_strategy="best_box"`` in a labeling config and ``int-backend evaluate`` know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

import int_model
from int_model import ModelSuite, TaskPrompt, load_suite, make_strategy
from int_model.core.config import StrategyConfig
from int_model.core.options import Section
from int_model.core.types import Image, Instance, Progress, Segmentation, Trace
from int_model.io.images import read_image
from int_model.models.protocols import MaskPrompt
from int_model.strategies.base import register

SAMPLES = Path(int_model.__file__).parent / "nano" / "samples"


class BestBoxSection(Section):
    """Which boxes count."""

    threshold: float = Field(0.2, ge=0, le=1, description="Stand-in: boxes with a lower score are left out.")


class BestBoxConfig(StrategyConfig):
    """The options of ``best_box``: those that every strategy has, and its own."""

    best_box: BestBoxSection = BestBoxSection()


class BestBox:
    """The detector's most certain box, and the segmenter's best mask in it."""

    name = "best_box"

    def __init__(self, suite: ModelSuite, config: BestBoxConfig, progress: Progress | None = None) -> None:
        self._suite = suite
        self._threshold = config.best_box.threshold
        self._progress = progress

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        names = [task.text.lower()] * len(images)
        found = self._suite.detector.detect(images, names, box_threshold=self._threshold, text_threshold=0.0)
        embeddings = self._suite.segmenter.encode(images)
        results = []
        for image, boxes, embedding in zip(images, found, embeddings, strict=True):
            size, trace = (image.shape[0], image.shape[1]), Trace(task.text, self.name)
            if not boxes:
                reason = f"the detector found no {task.text}"
                results.append(Segmentation(size, task.text, (), 0.0, trace, reason=reason))
                continue
            (proposal,) = self._suite.segmenter.decode(embedding, [MaskPrompt(box=boxes[0].box)])
            mask = proposal.logits[proposal.best] > 0
            instances = (Instance.of_mask(mask, task.text, boxes[0].score),) if mask.any() else ()
            results.append(Segmentation(size, task.text, instances, boxes[0].score, trace, name=task.text))
        return results


register(BestBox.name, "The detector's most certain box, and the segmenter's mask in it.", BestBoxConfig, BestBox)


def main() -> None:
    """Segment one bundled sample with it."""
    strategy = make_strategy("best_box", load_suite("nano"))
    (result,) = strategy.segment([read_image(SAMPLES / "polyp-02.png")], TaskPrompt("polyp"))
    for instance in result.instances:
        print(f"{strategy.name}: {instance.label}, score {instance.score:.2f}, {int(instance.mask.sum())} pixels")


if __name__ == "__main__":
    main()
