"""PPT in the miniature world: ``python -m int_model.nano.referring.ppt train`` and ``evaluate``.

``train`` makes image-text pairs of the miniature world (the scenes' masks are not kept) and trains a generator on them;
``evaluate`` compares generators with the baselines on held-out scenes: B0, the detector asked for the expression, and
B1, the peaks of Spatial CLIP's map.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from int_model.core.config import IntConfig
from int_model.core.options import fitting
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Mask
from int_model.evaluation.examples import BrokenExample
from int_model.evaluation.referring import Grounded, PairScore, difference, referring_table, score_pair
from int_model.evaluation.regions import overlap
from int_model.evaluation.statistics import mean_interval
from int_model.learning.ppt.fit import SMALL, OutOfTimeError, train_generator
from int_model.learning.ppt.pairs import Pair, PairSet
from int_model.learning.ppt.plan import NANO
from int_model.models.calls import ModelCalls
from int_model.models.protocols import MaskPrompt
from int_model.models.suite import ModelSuite, load_suite
from int_model.nano.examples import NanoScenes
from int_model.nano.referring.scenes import ReferringScene, ReferringScenes
from int_model.point_prompting.generator.bundle import TrainedGenerator, read
from int_model.point_prompting.generator.expressions import head_noun
from int_model.point_prompting.generator.filters import PointFilter
from int_model.point_prompting.generator.grounding import PointGrounder
from int_model.point_prompting.role import PointQuery
from int_model.point_prompting.spatial_clip import SpatialClip
from int_model.strategies.registry import default_config, make_strategy

OBJECTS, REFERRING = 300, 70
TRAIN_SEED, TEST_SEED = 11, 2511
TEST_PAIRS = 300
ROUNDS = 2_000
FEWEST = 10  # pairs of a kind that get a figure of their own
Method = Callable[[Image, str], Grounded]
Truth = tuple[str, str, Image, str, Mask | None]
"""(image, kind, picture, expression, mask or None)."""
_log = logging.getLogger(__name__)


def object_pairs(scenes: Sequence[ReferringScene]) -> PairSet:
    """Object-centric pairs: the image and what it was called, nothing else."""
    named = {str(i): scene for i, scene in enumerate(scenes) if scene.expressions}
    pairs = tuple(Pair(key, scene.expressions[0].text) for key, scene in named.items())
    return PairSet({key: _holder(scene.image) for key, scene in named.items()}, pairs)


def referring_pairs(scenes: Sequence[ReferringScene], most: int = 4, seed: int = 0) -> PairSet:
    """Referring pairs: up to ``most`` true expressions per scene; which of them mean the same thing is known."""
    pairs: list[Pair] = []
    for i, scene in enumerate(scenes):
        true = [expression for expression in scene.expressions if expression.thing >= 0]
        order = np.random.default_rng([seed, i]).permutation(len(true))[:most]
        pairs += [Pair(str(i), true[int(k)].text, f"thing {true[int(k)].thing}") for k in order]
    images = {str(i): _holder(scene.image) for i, scene in enumerate(scenes)}
    return PairSet(images, tuple(pairs))


def _holder(image: Image) -> Callable[[], Image]:
    return lambda: image


def held_out(pairs: int = TEST_PAIRS, seed: int = TEST_SEED) -> Iterator[Truth]:
    """Held-out pairs, two per scene (a different kind each where there is one), and one expression true of nothing.

    Poses, textures and colours' shades are those that training never shows.
    """
    scenes = ReferringScenes("test", seed)
    given = index = 0
    while given < pairs:
        scene = scenes.scene(index)
        rng = np.random.default_rng([seed, index])
        true = [expression for expression in scene.expressions if expression.thing >= 0]
        chosen: list[Any] = []
        for k in rng.permutation(len(true)):
            if len(chosen) < 2 and all(true[int(k)].kind != other.kind for other in chosen):
                chosen.append(true[int(k)])
        for expression in chosen[: pairs - given]:
            yield f"{index}", expression.kind, scene.image, expression.text, scene.things[expression.thing].mask
            given += 1
        absent = [expression for expression in scene.expressions if expression.thing < 0]
        if absent and chosen:
            yield f"{index}", "absent", scene.image, absent[int(rng.integers(len(absent)))].text, None
        index += 1


# -------------------------------------------------------------------- methods


def by_generator(suite: ModelSuite, generator: TrainedGenerator, how: PointFilter) -> Method:
    """Text -> points -> mask."""
    grounder = PointGrounder(suite, generator, how)

    def answer(image: Image, text: str) -> Grounded:
        calls = ModelCalls(suite, 1)
        (found,), (embedding,) = grounder.points(calls, [0], [image], [text])
        if not found.present:
            return Grounded(None, found.presence)
        embedding = embedding or calls.encode([0], [image])[0]
        (best,) = grounder.hypotheses(calls, 0, embedding, found, (image.shape[0], image.shape[1]))
        return Grounded(best.logits > 0, found.presence, found.points, found.labels)

    return answer


def by_boxes(suite: ModelSuite, worded: Callable[[str], str]) -> Method:
    """B0: text -> the detector's best box -> mask."""
    options = IntConfig().merged(fitting(IntConfig, suite.int_overrides)).detector

    def answer(image: Image, text: str) -> Grounded:
        (found,) = suite.detector.detect([image], [worded(text)], box_threshold=0.0, text_threshold=0.0)
        if not found:
            return Grounded(None, 0.0)
        best = max(found, key=lambda detection: detection.score)
        if best.score < options.box_threshold:
            return Grounded(None, best.score)
        (embedding,) = suite.segmenter.encode([image])
        (proposal,) = suite.segmenter.decode(embedding, [MaskPrompt(box=best.box)])
        return Grounded(proposal.logits[proposal.best] > 0, best.score)

    return answer


def by_peaks(suite: ModelSuite, worded: Callable[[str], str]) -> Method:
    """B1: text -> Spatial CLIP's map -> its points of both signs -> mask; it never says that nothing is there."""
    config = IntConfig().merged(fitting(IntConfig, suite.int_overrides))
    prompter = SpatialClip(config.sclip)

    def answer(image: Image, text: str) -> Grounded:
        calls = ModelCalls(suite, 1)
        (found,) = prompter.prompt(calls, [PointQuery(0, image, worded(text), "")])
        if not len(found.labels):
            return Grounded(None, 0.0)
        embedding = calls.encode([0], [image])[0]
        prompt = MaskPrompt(points=found.points, labels=found.labels)
        (proposal,) = suite.segmenter.decode(embedding, [prompt], multimask=False)
        feature = calls.embed_text(0, (worded(text),)) - calls.embed_text(0, ("",))
        presence = float(
            (calls.embed_patches([0], [image], "token")[0] @ feature).max() / max(1e-6, np.linalg.norm(feature))
        )
        return Grounded(proposal.logits[0] > 0, presence, found.points, found.labels)

    return answer


def methods(suite: ModelSuite, generators: dict[str, Path], how: PointFilter) -> dict[str, Method]:
    """The baselines, asked for the whole expression and for its head noun, and the generators."""
    return {
        "B0 detector": by_boxes(suite, str.lower),
        "B0 detector, head noun": by_boxes(suite, head_noun),
        "B1 heat map": by_peaks(suite, str.lower),
        "B1 heat map, head noun": by_peaks(suite, head_noun),
        **{name: by_generator(suite, read(path), how) for name, path in generators.items()},
    }


class _LastImage:
    """A model that remembers its answer for the last single image, since several methods ask about it in turn."""

    def __init__(self, model: Any, method: str) -> None:
        self._model, self._method = model, method
        self._image: Image | None = None
        self._options: tuple[Any, ...] = ()
        self._answer: Any = None

    def __getattr__(self, name: str) -> Any:
        return self._ask if name == self._method else getattr(self._model, name)

    def _ask(self, images: Sequence[Image], *options: Any) -> Any:
        if len(images) != 1:
            return getattr(self._model, self._method)(images, *options)
        if images[0] is not self._image or options != self._options:
            self._image, self._options = images[0], options
            self._answer = getattr(self._model, self._method)(images, *options)
        return self._answer


def answered(
    suite: ModelSuite,
    generators: dict[str, Path],
    pairs: int,
    how: PointFilter,
    kept: Path | None,
    tell: Callable[[int], None],
) -> dict[str, list[PairScore]]:
    """The scores of all methods on the held-out pairs; those in the file ``kept`` are not asked for again."""
    suite = replace(
        suite,
        segmenter=_LastImage(suite.segmenter, "encode"),
        text_image=_LastImage(suite.text_image, "embed_patches"),
    )
    known: dict[tuple[str, str, str], PairScore] = {}
    if kept is not None and kept.is_file():
        for line in kept.read_text().splitlines():
            row = json.loads(line)
            known[row["method"], row["image"], row["text"]] = PairScore(**row["score"])
    asked = methods(suite, generators, how)
    scores: dict[str, list[PairScore]] = {name: [] for name in asked}
    for done, (image, kind, picture, text, truth) in enumerate(held_out(pairs), start=1):
        for name, method in asked.items():
            if (name, image, text) not in known:
                found = known[name, image, text] = score_pair(image, kind, method(picture, text), truth)
                if kept is not None:
                    row = {"method": name, "image": image, "text": text, "score": asdict(found)}
                    with kept.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            scores[name].append(known[name, image, text])
        tell(done)
    return scores


def figures_of(scores: dict[str, list[PairScore]], how: PointFilter) -> dict[str, Any]:
    """All figures, as they are written to JSON: ``table``, ``by_kind``, ``against_b0``, and what was asked."""
    one = next(iter(scores.values()))
    kinds = sorted({score.kind for score in one})
    by_kind = {
        name: {
            f"{kind} ({sum(score.kind == kind for score in own)})": _written(
                referring_table([score for score in own if score.kind == kind])["mIoU"]
            )
            for kind in kinds
            if kind != "absent" and sum(score.kind == kind for score in own) >= FEWEST
        }
        for name, own in scores.items()
    }
    return {
        "pairs": sum(score.present for score in one),
        "absent": sum(not score.present for score in one),
        "images": len({score.image for score in one}),
        "filter": asdict(how),
        "table": {
            name: {
                column: _written(figure) for column, figure in referring_table(own).items() if np.isfinite(figure.value)
            }
            for name, own in scores.items()
        },
        "by_kind": by_kind,
        "against_b0": {
            name: {
                "mIoU less B0's": _written(difference(own, scores["B0 detector"])),
                "mIoU less B0's, head noun": _written(difference(own, scores["B0 detector, head noun"])),
            }
            for name, own in scores.items()
            if not name.startswith("B0")
        },
    }


def inside_int(
    suite: ModelSuite, generator: Path, count: int, kept: Path | None, tell: Callable[[int], None]
) -> dict[str, Any]:
    """``int`` with Spatial CLIP's points and with the generator's, on held-out scenes: mean IoU of the whole mask.

    Args:
        suite: the models.
        generator: the generator's file.
        count: scenes of the set of ``docs/nano.md``.
        kept: file that keeps what is done.
        tell: progress.
    """
    base = default_config("int", suite.int_overrides)
    with_ppt = base.merged({"sam": {"point_source": "ppt"}, "ppt": {"generator": str(generator)}})
    both = {"Spatial CLIP": make_strategy("int", suite, base), "PPT": make_strategy("int", suite, with_ppt)}
    known: dict[str, dict[str, float]] = {}
    if kept is not None and kept.is_file():
        known = {row["scene"]: row["iou"] for row in map(json.loads, kept.read_text().splitlines())}
    for done, example in enumerate(NanoScenes(count), start=1):
        if isinstance(example, BrokenExample) or example.mask is None:
            continue
        if example.id not in known:
            found = {name: way.segment([example.image], TaskPrompt(example.task))[0] for name, way in both.items()}
            known[example.id] = {name: overlap(result.mask, example.mask)["iou"] for name, result in found.items()}
            if kept is not None:
                with kept.open("a") as file:
                    file.write(json.dumps({"scene": example.id, "iou": known[example.id]}) + "\n")
        tell(done)
    rows = {name: [row[name] for row in known.values()] for name in both}
    change = [row["PPT"] - row["Spatial CLIP"] for row in known.values()]
    return {
        "scenes": len(known),
        "int": {name: {"IoU": _written(mean_interval(values, ROUNDS))} for name, values in rows.items()},
        "difference": _written(mean_interval(change, ROUNDS)),
    }


def _written(figure: Any) -> list[float]:
    return [round(float(value), 4) for value in (figure.value, figure.low, figure.high)]


# ------------------------------------------------------------------- commands


def main(arguments: list[str] | None = None) -> None:
    """Train a generator, or evaluate some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a generator on pairs of the miniature world")
    train.add_argument("--out", type=Path, required=True, help="the generator's file")
    train.add_argument("--state", type=Path, help="keeps where the training is; goes on from there if it exists")
    train.add_argument("--seconds", type=float, help="stop after so many, with the state kept")
    train.add_argument("--objects", type=int, default=OBJECTS, help="object-centric images")
    train.add_argument("--referring", type=int, default=REFERRING, help="images of several things")
    train.add_argument("--composites", type=int, default=NANO.composites, help="composed images of stage 2")
    train.add_argument("--steps", type=int, nargs=3, default=NANO.steps, help="of the three stages")
    train.add_argument("--order", choices=["curriculum", "mixed", "first"], default="curriculum")
    train.add_argument("--no-negatives", action="store_true", help="ablation: positive points only")
    train.add_argument("--clip-only", action="store_true", help="the generator does not see the segmenter's features")
    train.add_argument("--seed", type=int, default=0)
    score = commands.add_parser("evaluate", help="compare generators with the baselines on held-out pairs")
    score.add_argument("generators", nargs="*", help="NAME=FILE")
    score.add_argument("--pairs", type=int, default=TEST_PAIRS)
    score.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    score.add_argument("--kept", type=Path, help="file that keeps the answers; goes on from there if it exists")
    within = commands.add_parser("int", help="INT with the generator's points against Spatial CLIP's")
    within.add_argument("generator", type=Path)
    within.add_argument("--count", type=int, default=40, help="held-out scenes")
    within.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    within.add_argument("--kept", type=Path, help="file that keeps what is done; goes on from there if it exists")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    suite = load_suite("nano", device=options.device)
    if options.command == "train":
        _train(suite, options)
    elif options.command == "int":
        command = f"python -m int_model.nano.referring.ppt int FILE --count {options.count} --out FILE"
        told = inside_int(suite, options.generator, options.count, options.kept, lambda done: _every(5, done, "scenes"))
        figures = {"command": command, "measured_on": version("int-backend"), **told}
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    else:
        generators = {name: Path(path) for name, _, path in (given.partition("=") for given in options.generators)}
        how = PointFilter()
        scores = answered(
            suite, generators, options.pairs, how, options.kept, lambda done: _every(20, done, "expressions")
        )
        names = " ".join(f"{name}=FILE" for name in generators)
        command = f"python -m int_model.nano.referring.ppt evaluate {names} --pairs {options.pairs} --out FILE"
        figures = {"command": command, "measured_on": version("int-backend"), **figures_of(scores, how)}
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


def _train(suite: ModelSuite, options: argparse.Namespace) -> None:
    plan = replace(
        NANO,
        steps=tuple(options.steps),
        order=options.order,
        composites=options.composites,
        negatives=0 if options.no_negatives else NANO.negatives,
        seed=options.seed,
    )
    objects = object_pairs(list(ReferringScenes("train", TRAIN_SEED, most=1).scenes(options.objects)))
    referring = referring_pairs(list(ReferringScenes("train", TRAIN_SEED).scenes(options.referring)))
    try:
        generator = train_generator(
            suite,
            objects,
            referring,
            plan=plan,
            shape=replace(SMALL, sees_segmenter=not options.clip_only),
            state=options.state,
            seconds=options.seconds,
            tell=lambda what, done, total: _every(100, done, f"of {total} {what}"),
        )
    except OutOfTimeError as error:
        _log.info("%s", error)
        generator = error.generator
    options.out.write_bytes(generator.pack())


def _every(step: int, done: int, what: str) -> None:
    if done % step == 0:
        _log.info("%d %s", done, what)


if __name__ == "__main__":
    main()
