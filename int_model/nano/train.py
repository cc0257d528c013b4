"""Train the bundled checkpoints from nothing: ``python -m int_model.nano.train all [--kit habits]``.

Steps: ``scenes`` (draw the pool), ``tower``, ``segmenter``, ``vlm``, ``export``, ``samples``. Every step
is seeded; on a GPU the same recipes run with ``--device cuda``. One CPU core: some two hours in all.
The kit ``habits`` is made from the first and shares its segmenter and CLIP; its steps are ``detector``, ``scenes``,
``pictures`` and ``vlm``. A killed command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from PIL import Image as PILImage

from int_model.nano import pool, segmenter, tower, vlm
from int_model.nano.habits import train as habits
from int_model.nano.scenes import SceneGenerator

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SAMPLES = Path(__file__).parent / "samples"
POOL_SIZE = 20_000
SAMPLE_SEED = 7


def write_samples(folder: Path, count: int = 12) -> None:
    """A handful of scenes as PNG with their masks, and ``samples.json`` that lists file, mask, task, name."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for task, number in (("camouflaged animal", count - 4), ("polyp", 2), ("skin lesion", 2)):
        generator = SceneGenerator("test", SAMPLE_SEED, tasks=(task,), weights=(1.0,))
        for index in range(number):
            scene = generator.scene(index)
            stem = f"{task.replace(' ', '-')}-{index + 1:02d}"
            PILImage.fromarray(scene.image).save(folder / f"{stem}.png", optimize=True)
            mask = PILImage.fromarray((scene.mask * 255).astype("uint8")).convert("1")
            mask.save(folder / f"{stem}.mask.png", optimize=True)
            listed.append(
                {
                    "file": f"{stem}.png",
                    "mask": f"{stem}.mask.png",
                    "task": task,
                    "name": scene.name,
                    "environment": scene.environment,
                    "instances": len(scene.targets),
                }
            )
    (folder / "samples.json").write_text(json.dumps(listed, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run one step, or all of them in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = ["scenes", "tower", "segmenter", "vlm", "export", "samples"]
    parser.add_argument("step", choices=["all", *dict.fromkeys([*first, *habits.STEPS])])
    parser.add_argument("--kit", choices=["nano", "habits"], default="nano")
    parser.add_argument("--work", type=Path, help="folder for the pool and raw weights (build/nano, build/habits)")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="habits: where checkpoints are written")
    parser.add_argument("--processes", type=int, default=2, help="habits: so many draw the scenes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work = options.work or Path("build") / options.kit
    if options.step != "all" and options.step not in (habits.STEPS if options.kit == "habits" else first):
        parser.error(f"the kit {options.kit} has no step {options.step}")
    if options.kit == "habits":
        for step in habits.STEPS if options.step == "all" else (options.step,):
            rest = (options.device, options.seed, options.processes)
            habits.run_step(step, work, CHECKPOINTS, options.checkpoints, *rest)
        return
    wanted = first if options.step == "all" else [options.step]
    for step in wanted:
        if step == "scenes":
            pool.draw(work / "pool", POOL_SIZE, seed=options.seed)
        elif step == "tower":
            tower.train(pool.ScenePool(work / "pool"), work / "tower.pt", seed=options.seed, device=options.device)
        elif step == "segmenter":
            segmenter.train(pool.ScenePool(work / "pool"), work / "sam.pt", seed=options.seed, device=options.device)
        elif step == "vlm":
            vlm.train(
                pool.ScenePool(work / "pool"),
                work / "tower.pt",
                work / "vlm.pt",
                seed=options.seed,
                device=options.device,
            )
        elif step == "export":
            tower.export(work / "tower.pt", CHECKPOINTS)
            segmenter.export(work / "sam.pt", CHECKPOINTS)
            vlm.export(work / "vlm.pt", CHECKPOINTS)
        else:
            write_samples(SAMPLES)


if __name__ == "__main__":
    main()
