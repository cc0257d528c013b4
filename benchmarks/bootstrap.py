"""A data set of the miniature world's held-out scenes: killed half-way, resumed, read back by other programs' rules.

python -m benchmarks.bootstrap [--scenes 500] [--strategy grounded_sam] [--out FOLDER]
python -m benchmarks.bootstrap --scale 20000      # no models: store, groups and writers with many images
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PilImage
from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Mask, Segmentation, Trace
from int_model.datasets.collect import collect, make_plan
from int_model.datasets.contents import LabelPlan, Selection, survey
from int_model.datasets.store import DatasetStore
from int_model.evaluation.regions import overlap
from int_model.evaluation.statistics import mean_interval
from int_model.nano.evaluate import ROUNDS, held_out
from ml_backend.labelstudio.regions.decode import decode_region

LABELS = {"Animal": "camouflaged animal", "Polyp": "polyp", "Lesion": "skin lesion"}


def draw_scenes(folder: Path, count: int) -> dict[str, tuple[str, Mask]]:
    """Held-out scenes as PNG files in folders of a hundred; returns label and true mask by relative name."""
    label_of = {prompt: label for label, prompt in LABELS.items()}
    truth = {}
    for index in range(count):
        scene = held_out(index)
        name = f"{index // 100:02d}/scene-{index:04d}.png"
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        PilImage.fromarray(scene.image).save(place)
        truth[name] = (label_of[scene.task], scene.mask)
    return truth


def saved_images(store: Path, copy: Path) -> int:
    """How many images a running bootstrap has saved: counted in a copy, since it holds the file's lock."""
    for suffix in ("", "-journal"):
        source = Path(f"{store}{suffix}")
        if source.exists():
            shutil.copyfile(source, f"{copy}{suffix}")
    try:
        with sqlite3.connect(copy) as db:
            return int(db.execute("SELECT COUNT(*) FROM notes WHERE name LIKE 'file %'").fetchone()[0])
    except sqlite3.Error:  # copied in the middle of a write
        return 0
    finally:
        for suffix in ("", "-journal"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)


def command(scenes: Path, out: Path, strategy: str) -> list[str]:
    """The command line under test."""
    tasks = [part for label, prompt in LABELS.items() for part in ("--task", f"{label}={prompt}")]
    return [
        *(sys.executable, "-m", "ml_backend.cli.main", "bootstrap", str(scenes), *tasks),
        *("--out", str(out), "--strategy", strategy, "--device", "cpu", "--review"),
    ]


def run_and_kill(scenes: Path, out: Path, strategy: str, at: int) -> tuple[int, float]:
    """Start, SIGKILL once ``at`` images are saved; returns how many were saved just before, and the seconds."""
    begun = time.perf_counter()
    store = out / ".bootstrap" / "results.sqlite"
    with tempfile.TemporaryDirectory() as scratch:
        child = subprocess.Popen(command(scenes, out, strategy))  # noqa: S603 our own program
        saved = 0
        while saved < at:
            if child.poll() is not None:
                raise RuntimeError("it ended before it could be killed")
            time.sleep(0.5)
            saved = saved_images(store, Path(scratch) / "copy") if store.exists() else 0
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    return saved, time.perf_counter() - begun


def read_coco(out: Path) -> Iterator[tuple[dict[str, Any], dict[str, Mask], list[Mask]]]:
    """Image, union per label, and every object's mask, as pycocotools reads them."""
    for split in ("train", "val"):
        coco = COCO(out / "annotations" / f"instances_{split}.json")
        names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
        for image in coco.loadImgs(coco.getImgIds()):
            unions = {label: np.zeros((image["height"], image["width"]), np.bool_) for label in LABELS}
            objects = []
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                mask = coco.annToMask(annotation).astype(np.bool_)
                if mask.sum() != annotation["area"]:
                    raise RuntimeError(f"annotation {annotation['id']} has another area than it says")
                unions[names[annotation["category_id"]]] |= mask
                objects.append(mask)
            yield image, unions, objects


def read_yolo(labels: Path, height: int, width: int) -> list[Mask]:
    """Every object of a label file in an image of that size, drawn as Ultralytics does (``fillPoly``, truncated)."""
    masks = []
    for line in labels.read_text().splitlines():
        points = np.array(line.split()[1:], dtype=np.float64).reshape(-1, 2) * (width, height)
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
        masks.append(canvas.astype(np.bool_))
    return masks


def figures(out: Path, truth: dict[str, tuple[str, Mask]]) -> dict[str, Any]:
    """The data set against the truth, and its formats against one another."""
    ious: dict[str, list[float]] = {label: [] for label in LABELS}
    wrong = nothing = 0
    yolo, yolo640, png_equal, images = [], [], 0, 0
    for image, unions, objects in read_coco(out):
        label, mask = truth[image["source"]]
        ious[label].append(overlap(unions[label], mask)["iou"])
        wrong += any(union.any() for other, union in unions.items() if other != label)
        nothing += not unions[label].any()
        images += 1
        stem = Path(image["file_name"]).with_suffix("")
        # At the image's own size, and at the 640 pixels that training usually enlarges it to: fillPoly also paints the
        # border, which weighs less there.
        factor = 640 / max(mask.shape)
        large = (round(mask.shape[0] * factor), round(mask.shape[1] * factor))
        labels = out / "labels" / f"{stem}.txt"
        for a, b, c in zip(objects, read_yolo(labels, *mask.shape), read_yolo(labels, *large), strict=True):
            yolo.append(overlap(a, b)["iou"])
            enlarged = cv2.resize(a.astype(np.uint8), large[::-1], interpolation=cv2.INTER_NEAREST).astype(np.bool_)
            yolo640.append(overlap(enlarged, c)["iou"])
        semantic = np.asarray(PilImage.open(out / "masks" / "semantic" / f"{stem}.png"))
        png_equal += bool(((semantic > 0) == np.any(list(unions.values()), axis=0)).all())
    everything = [value for values in ious.values() for value in values]
    return {
        "images": images,
        "objects": len(yolo),
        "iou": {label: _interval(values) for label, values in {"all": everything, **ious}.items() if values},
        "counts": {"all": len(everything), **{label: len(values) for label, values in ious.items()}},
        "images_with_a_wrong_label": wrong,
        "images_where_the_right_label_abstained": nothing,
        "yolo_iou_with_coco": {"mean": float(np.mean(yolo)), "lowest": float(np.min(yolo))},
        "yolo_iou_with_coco_at_640": {"mean": float(np.mean(yolo640)), "lowest": float(np.min(yolo640))},
        "png_equal_to_coco": png_equal,
        "label_studio": _label_studio(out, truth),
    }


def _label_studio(out: Path, truth: dict[str, tuple[str, Mask]]) -> dict[str, Any]:
    ious, tasks = [], 0
    for file in sorted((out / "label-studio").glob("tasks-*.json")):
        for task in json.loads(file.read_text()):
            tasks += 1
            label, mask = truth[task["data"]["file"]]
            union = np.zeros_like(mask)
            for region in task["predictions"][0]["result"]:
                if label in region["value"]["polygonlabels"]:
                    union |= decode_region(region)
            ious.append(overlap(union, mask)["iou"])
    return {"tasks": tasks, "iou": _interval(ious)}


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval."""
    found = mean_interval(values, ROUNDS)
    return found.value, found.low, found.high


def the_run(args: argparse.Namespace, console: Console) -> None:
    """Scenes, kill, resume, figures."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(args.out or scratch)
        scenes, out = base / "scenes", base / "dataset"
        shutil.rmtree(base / "dataset", ignore_errors=True)
        begun = time.perf_counter()
        truth = draw_scenes(scenes, args.scenes)
        console.print(f"{args.scenes} scenes drawn in {time.perf_counter() - begun:.1f} s")
        saved, first = run_and_kill(scenes, out, args.strategy, args.scenes // 2)
        console.print(f"killed (SIGKILL) after {first:.1f} s with {saved} images saved; the same command again:")
        begun = time.perf_counter()
        status = subprocess.run(command(scenes, out, args.strategy), check=False).returncode  # noqa: S603 our own program
        second = time.perf_counter() - begun
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        console.print(f"status {status} after {second:.1f} s; peak memory of the processes {memory:.0f} MiB")
        found = figures(out, truth)
        (base / "figures.json").write_text(json.dumps(found, indent=1))
        table = Table("IoU with the truth", "scenes", "mean", "95 % interval")
        for label, (mean, low, high) in found["iou"].items():
            table.add_row(label, str(found["counts"][label]), f"{mean:.3f}", f"{low:.3f} - {high:.3f}")
        console.print(table)
        console.print({key: value for key, value in found.items() if key not in ("iou", "counts")})


class _Discs:
    """A strategy without models: one disc per image, nothing in every tenth."""

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        out = []
        for image in images:
            height, width = image.shape[:2]
            x, y = int(image[0, 0, 0]) % width, int(image[0, 0, 1]) % height
            canvas = np.zeros((height, width), np.uint8)
            cv2.circle(canvas, (x, y), height // 4, 1, -1)
            mask = canvas.astype(np.bool_)
            empty = int(image[0, 0, 2]) % 10 == 0
            objects = () if empty else (Instance.of_mask(mask, "disc", 0.5 + float(image[0, 0, 0]) / 600),)
            trace = Trace(task.text, "discs")
            out.append(Segmentation((height, width), task.text, objects, 0.5, trace, reason="empty" if empty else ""))
        return out


def at_scale(count: int, console: Console) -> None:
    """Many small images through store, groups and all writers; seconds and peak memory of each step."""
    from int_model.strategies.model_options import ModelOptions
    from ml_backend.cli.bootstrap import export, prepare_output
    from ml_backend.cli.bootstrap_formats import Formats
    from ml_backend.cli.bootstrap_options import FORMATS
    from ml_backend.cli.commands.bootstrap import BootstrapOptions

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "in", Path(scratch) / "out"
        paths = []
        for index in range(count):
            path = folder / f"{index // 1000:03d}" / f"{index:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (64, 48))
            PilImage.fromarray(noise).save(path, compress_level=1)
            paths.append(path.resolve())
        step = _Steps(console)
        options = BootstrapOptions(images=(folder,), tasks=("disc",), out=out, review=True)
        labels = [LabelPlan("disc", "disc", "key")]
        with DatasetStore(prepare_output(out) / "results.sqlite") as store:
            plan = make_plan(store, paths, labels, retry_failed=False)
            for _ in collect(store, plan.todo, _Discs(), labels, batch_size=16, version="benchmark"):
                pass
            step.done(f"{count} images read, hashed and saved")
            make_plan(store, paths, labels, retry_failed=False)
            step.done("asking what is left to do")
            contents = survey(store, folder, paths, labels, Selection(shares={"val": 0.2}))
            step.done(f"groups of near-duplicates ({len({e.group for e in contents.entries})}) and splits")
            made_by = dict.fromkeys(("profile", "models", "strategy", "configuration"), "benchmark")
            formats = Formats(options, ModelOptions(), made_by, FORMATS, contents)
            export(out, contents.items(store), formats.writers, formats.finish)
            step.done("all formats and the contact sheet")


class _Steps:
    def __init__(self, console: Console) -> None:
        self._console, self._begun = console, time.perf_counter()

    def done(self, what: str) -> None:
        """Print a step's seconds and the process's peak memory so far."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._console.print(f"{what}: {time.perf_counter() - self._begun:.1f} s, peak memory {memory:.0f} MiB")
        self._begun = time.perf_counter()


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--strategy", default="grounded_sam")
    parser.add_argument("--out", help="keep everything in this folder (default: a temporary one)")
    parser.add_argument("--scale", type=int, default=0, help="no models: this many small images")
    args = parser.parse_args()
    console = Console()
    if args.scale:
        at_scale(args.scale, console)
    else:
        the_run(args, console)


if __name__ == "__main__":
    main()
