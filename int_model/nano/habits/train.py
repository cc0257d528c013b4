"""The second kit, made from the first: detector, scenes, pictures, VLM.

A step that trains a model also writes its checkpoint. Every step is seeded and skipped where its result is there; a
killed step goes on from its last saved state.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from int_model.nano.habits import detector, pool, vlm
from int_model.nano.habits.running import Schedule

log = logging.getLogger(__name__)
STEPS = ("detector", "scenes", "pictures", "vlm")
SCENES = 1500
PICTURE_CHUNKS = 7
PLANS = {"detector": Schedule(800, 2e-3, 1), "vlm": Schedule(700, 1.5e-3, 24)}


def run_step(step: str, work: Path, first_kit: Path, checkpoints: Path, device: str, seed: int, processes: int) -> None:
    """One step, unless its result is there. ``first_kit``: the folder of the first kit's checkpoints."""
    done = work / f"{step}.done"
    if done.is_file():
        log.info("step %s is done", step)
        return
    began = time.monotonic()
    scenes, pictures = work / "pool", work / "pictures"
    if step == "scenes":
        pool.draw(scenes, SCENES, seed=seed, processes=processes)
    elif step == "detector":
        detector.train(first_kit / "detector", work / "detector.pt", PLANS[step], seed=seed)
        detector.export(first_kit / "detector", work / "detector.pt", checkpoints)
    elif step == "pictures":
        vlm.encode_pictures(pool.load(scenes, device), first_kit, pictures, chunks=PICTURE_CHUNKS, seed=seed)
    else:
        vlm.train(pictures, first_kit, work / "vlm.pt", PLANS[step], seed=seed, device=device)
        vlm.export(work / "vlm.pt", checkpoints)
    done.touch()
    log.info("step %s took %.0f s", step, time.monotonic() - began)
