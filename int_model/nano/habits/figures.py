"""What each model of a kit can do on held-out scenes, as JSON: ``python -m int_model.nano.habits.figures``.

Every figure is ``[value, low, high, trials]`` with a 95 % interval; a single trial has none (null).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Image, Mask
from int_model.evaluation.regions import overlap
from int_model.evaluation.statistics import mean_interval
from int_model.models.protocols import MaskPrompt, VisionLanguage
from int_model.models.suite import ModelSuite, load_suite
from int_model.nano.drawing import Cell
from int_model.nano.scenes import Scene
from int_model.nano.world import ANIMALS, OBJECTS
from int_model.nano.worlds import PLACES, STRENGTHS, world_named
from int_model.strategies.negative_mining.candidates import parse_boxes, parse_name

SEED = 9001
ROUNDS = 2000
LIMITS = (48, 16, 8, 96)  # tokens of the four answers
THINGS = (*ANIMALS, *OBJECTS)
Rows = dict[str, list[float]]


def kit_figures(
    suite: ModelSuite, world: str, count: int, progress: Callable[[str], None], roles: Collection[str]
) -> Rows:
    """Single trials of the roles by figure, of ``count`` scenes of each kind."""
    rows: Rows = {}
    for strength in STRENGTHS:
        for place in PLACES:
            cell = Cell(STRENGTHS[strength], None, place, 1)
            for index in range(count):
                scene = world_named(world).scene(SEED, index, cell)
                for role in roles:
                    _FIGURES[role](rows, suite, scene, strength, place)
            progress(f"{strength}, {place}")
    for index in range(count if "vlm" in roles else 0):
        _empty(rows, suite, world_named(world).scene(SEED, index, Cell(targets=0)))
    return rows


def _add(rows: Rows, figure: str, value: float) -> None:
    rows.setdefault(figure, []).append(float(value))


def _segmenter(rows: Rows, suite: ModelSuite, scene: Scene, strength: str, place: str) -> None:  # noqa: ARG001
    (embedding,) = suite.segmenter.encode([scene.image])
    (target,) = scene.targets
    (proposal,) = suite.segmenter.decode(embedding, [MaskPrompt(box=target.box)])
    iou = overlap(proposal.logits[proposal.best] > 0, target.mask)["iou"]
    _add(rows, f"SAM, box prompt: mean IoU, {strength}", iou)


def cropped(image: Image, mask: Mask, *, alone: bool) -> Image:
    """The thing with an eighth of margin; ``alone``: on black."""
    box = Box.of_mask(mask)
    wide = None if box is None else box.enlarge(0.12).clip(*mask.shape)
    if wide is None:
        raise ValueError("the mask is empty")
    x1, y1, x2, y2 = (round(v) for v in wide.as_tuple())
    shown = np.where(mask[..., None], image, 0).astype(np.uint8) if alone else image
    return np.ascontiguousarray(shown[y1:y2, x1:x2])


def _clip(rows: Rows, suite: ModelSuite, scene: Scene, strength: str, place: str) -> None:  # noqa: ARG001
    texts = suite.text_image.embed_texts([f"a photo of a {name}." for name in THINGS])
    (target,) = scene.targets
    views = [cropped(scene.image, target.mask, alone=alone) for alone in (False, True)]
    for kind, scores in zip(
        ("crops", "cut-outs on black"), suite.text_image.embed_images(views) @ texts.T, strict=True
    ):
        _add(rows, f"CLIP: name of {kind} (of {len(THINGS)}), {strength}", THINGS[int(scores.argmax())] == scene.name)


def _detector(rows: Rows, suite: ModelSuite, scene: Scene, strength: str, place: str) -> None:  # noqa: ARG001
    (target,) = scene.targets
    wrong = next(name for name, (_, home) in ANIMALS.items() if home == scene.environment and name != scene.name)
    for asked, query in (("true name", scene.name), ("task prompt", scene.task), ("wrong name of the place", wrong)):
        (found,) = suite.detector.detect([scene.image], [query], box_threshold=0.2, text_threshold=0.2)
        right = [detection.box.iou(target.box) >= 0.5 for detection in found]
        _add(rows, f"Detector, asked for the {asked}: recall at IoU 0.5, {strength}", any(right))
        if found:
            _add(rows, f"Detector, asked for the {asked}: first box right, {strength}", right[0])


def _vlm(rows: Rows, suite: ModelSuite, scene: Scene, strength: str, place: str) -> None:
    task, where = TaskPrompt(scene.task), f"{strength}, {place}"
    (target,) = scene.targets
    (answers,) = suite.vlm.dialogue([scene.image], [task.dialogue], LIMITS)
    name = parse_name(answers[1])
    _add(rows, f"VLM: name of the whole image, {where}", name == scene.name)
    native = name in ANIMALS and ANIMALS[name][1] == scene.environment
    _add(rows, f"VLM: says an animal of the place, {where}", native)
    _add(rows, f"VLM: environment, {strength}", answers[2].strip().lower() == scene.environment)
    height, width = scene.image.shape[:2]
    boxes = parse_boxes(answers[3], suite.vlm.frame, height, width)
    _add(rows, f"VLM: answers with a box, {strength}", bool(boxes))
    _add(rows, f"VLM: its box is right at IoU 0.5, {strength}", bool(boxes) and boxes[0].iou(target.box) >= 0.5)
    _premise(rows, suite, scene, where)


def _premise(rows: Rows, suite: ModelSuite, scene: Scene, where: str) -> None:
    """Does the true name lose more than a native of the place when the animal is painted over?"""
    task = TaskPrompt(scene.task)
    native = next(name for name, (_, home) in ANIMALS.items() if home == scene.environment and name != scene.name)
    names = sorted([scene.name, native])
    (target,) = scene.targets
    wide = target.box.enlarge(0.1).clip(*scene.mask.shape) or target.box
    x1, y1, x2, y2 = (round(v) for v in wide.as_tuple())
    region = np.zeros_like(scene.mask)
    region[y1:y2, x1:x2] = True
    (without,) = suite.inpainter.inpaint([scene.image], [region], ["background"], [scene.name])
    if not isinstance(suite.vlm, VisionLanguage):
        raise TypeError(f"the VLM of the profile {suite.profile} cannot score answers")
    before, after = suite.vlm.score([scene.image, without], [task.score_question(names)] * 2, [names] * 2, "prod")
    drop = dict(zip(names, before - after, strict=True))
    _add(rows, f"Premise: D of the true name minus D of a native, {where}", drop[scene.name] - drop[native])
    _add(rows, f"Premise: the true name falls more, {where}", drop[scene.name] > drop[native])


def _empty(rows: Rows, suite: ModelSuite, scene: Scene) -> None:
    task = TaskPrompt(scene.task)
    (answers,) = suite.vlm.dialogue([scene.image], [task.dialogue], LIMITS)
    _add(rows, "VLM: names an animal in an empty scene", parse_name(answers[1]) in ANIMALS)
    _add(rows, "VLM: refuses or gives no box in an empty scene", not parse_boxes(answers[3], suite.vlm.frame, 192, 192))


_FIGURES: dict[str, Callable[[Rows, ModelSuite, Scene, str, str], None]] = {
    "segmenter": _segmenter,
    "text_image": _clip,
    "detector": _detector,
    "vlm": _vlm,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--world", default="habits")
    parser.add_argument("--count", type=int, default=50, help="scenes of each kind")
    parser.add_argument("--role", action="append", choices=list(_FIGURES), help="only this one; may be given again")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--model", action="append", default=[], metavar="KEY=VALUE", help="for instance detector.id=DIR"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args(arguments)
    changes = dict(change.split("=", 1) for change in options.model)
    suite = load_suite(options.profile, device=options.device, offline=True, overrides=changes)
    roles = options.role or list(_FIGURES)
    rows = kit_figures(suite, options.world, options.count, lambda text: print(text, file=sys.stderr), roles)  # noqa: T201
    figures = {}
    for name in sorted(rows):
        found = mean_interval(rows[name], ROUNDS)
        shown = [round(value, 3) if math.isfinite(value) else None for value in (found.value, found.low, found.high)]
        figures[name] = [*shown, len(rows[name])]
    command = f"python -m int_model.nano.habits.figures --profile {options.profile} --world {options.world}"
    command += "".join(f" --model {change}" for change in options.model)
    command += "".join(f" --role {role}" for role in options.role or ())
    text = json.dumps({"command": f"{command} --count {options.count}", "figures": figures}, indent=1)
    sys.stdout.write(text + "\n")
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
