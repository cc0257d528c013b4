"""What a profile costs on an accelerator: real configurations, random weights, fixed answers; no download.

    python -m benchmarks.gpu --profile llava --in-flight 1,4,16 --against literal --out llava.json
    python -m benchmarks.gpu --profile nano --depth 1 --device cpu --size 256x192

Prints a table per number of images in flight, and writes one JSON file. Seconds are wall-clock with the device waited
for at the end of every stage; the first pass over new sizes (the warm-up) is reported apart.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.real.build import Built
from benchmarks.real.literal import literal_profile, segment_literally
from benchmarks.real.meter import Meter, ceilings
from benchmarks.real.provoke import provoke
from benchmarks.real.script import TASK, rig, rig_dialogues
from int_model.core.config import IntConfig
from int_model.core.options import fitting
from int_model.core.types import Image, Segmentation
from int_model.models.device import choose_device
from int_model.models.memory import release_memory
from int_model.models.profile import Profile, read_profile
from int_model.models.suite import ModelSuite
from int_model.strategies.negative_mining.pipeline import IntPipeline

GB = 1e9


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    overrides: dict[str, Any] = dict(entry.split("=", 1) for entry in options.model)
    profile = read_profile(options.profile, overrides)
    report: dict[str, Any] = {"environment": _environment(device), "profile": profile.name, "size": options.size}
    report |= {"depth": options.depth, "models": _models(profile), "runs": []}
    report["ceilings"] = ceilings(device)
    _say(f"{report['environment']['device']}: {report['ceilings']}")
    begun = time.perf_counter()
    built = Built(profile, device, options.depth)
    report["build_seconds"] = round(time.perf_counter() - begun, 1)
    report["weights_gb"] = {role: round(_weights(parts) / GB, 3) for role, parts in built.parts.items()}
    _say(f"{profile.name}: built in {report['build_seconds']} s, weights {report['weights_gb']} GB")
    suite = built.suite()
    rig(suite)
    rig_dialogues(suite.vlm)
    meter = Meter(suite)
    method = {"iterations": {"count": options.iterations}, "patches": {"scales": options.scales}}
    config = IntConfig().merged(fitting(IntConfig, suite.int_overrides)).merged(method)

    def keep(run: dict[str, Any]) -> None:
        report["runs"].append(run)
        _print(run, profile)
        _write(report, options.out)

    sizes = [int(count) for count in options.in_flight.split(",") if count]
    if options.warm_up:
        keep(_measure("warm-up", suite, config, meter, _pictures(1, options.size, seed=99), device))
    for count in sizes:
        keep(_measure(f"{count} in flight", suite, config, meter, _pictures(count, options.size, seed=count), device))
    if options.against == "literal" and sizes:
        plain = built.suite(literal_profile(options.profile, overrides))
        meter.attach(plain)
        literal = _measure(
            "literal", plain, config, meter, _pictures(1, options.size, seed=sizes[-1]), device, segment_literally
        )
        best = min(run["seconds_per_image"] for run in report["runs"] if run["name"].endswith("in flight"))
        literal["ratio_to_best"] = round(literal["seconds_per_image"] / best, 2)
        keep(literal)
        _say(f"literal schedule / best: {literal['ratio_to_best']}")
    if options.provoke:
        large = {f"{role}.max_batch": options.provoke for role in built.parts if built.parts[role]}
        greedy = built.suite(read_profile(options.profile, {**overrides, **large}))
        rig_dialogues(greedy.vlm)
        meter.attach(greedy)
        report["provoked"] = provoke(greedy, meter, _pictures(options.provoke, options.size, seed=7))
        for row in report["provoked"]:
            _say(f"  {json.dumps(row)}")
        _write(report, options.out)
    return 0


def _write(report: dict[str, Any], out: str | None) -> None:
    if out:
        Path(out).write_text(json.dumps(report, indent=1), encoding="utf-8")


def _measure(
    name: str,
    suite: ModelSuite,
    config: IntConfig,
    meter: Meter,
    images: Sequence[Image],
    device: torch.device,
    segment: Any = None,
) -> dict[str, Any]:
    gc.collect()
    release_memory()
    meter.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    stages: list[tuple[str, float]] = []
    try:
        if segment is None:
            pipeline = IntPipeline(suite, config, lambda _d, _t, s: stages.append((s, time.perf_counter() - begun)))
            results: list[Segmentation] = pipeline.segment(images, TASK)
        else:
            results = segment(suite, images, config)
    except torch.OutOfMemoryError as error:
        return {"name": name, "images": len(images), "failed": str(error)[:200], "stages": meter.report(len(images))}
    seconds = time.perf_counter() - begun
    inside = sum(stage.seconds for stage in meter.stages.values())
    run: dict[str, Any] = {
        "name": name,
        "images": len(images),
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / len(images), 3),
        "outside_models": round(seconds - inside, 3),
        "prefilled_tokens_per_image": sum(s.prefill_tokens for s in meter.stages.values()) / len(images),
        "instances": [len(result.instances) for result in results],
        "stages": meter.report(len(images)),
        "timeline": [(stage, round(at, 2)) for stage, at in stages],
    }
    if device.type == "cuda":
        run["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / GB, 2)
        run["reserved_gb"] = round(torch.cuda.max_memory_reserved(device) / GB, 2)
        run["other_processes_gb"] = round(_others(device) / GB, 2)
    return run


def _pictures(count: int, size: str, seed: int) -> list[Image]:
    """Different images of one size: smooth colours with a little noise."""
    width, height = (int(side) for side in size.split("x"))
    made = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
        made.append((smooth + rng.normal(0, 6, (height, width, 1))).clip(0, 255).astype(np.uint8))
    return made


def _print(run: dict[str, Any], profile: Profile) -> None:
    if "failed" in run:
        _say(f"\n{run['name']}: out of memory: {run['failed']}")
        return
    memory = f", peak {run['peak_gb']} GB" if "peak_gb" in run else ""
    _say(
        f"\n{profile.name}, {run['name']}: {run['seconds']} s for {run['images']} images, "
        f"{run['seconds_per_image']} s each; outside the models {run['outside_models']} s; "
        f"{run['prefilled_tokens_per_image']:.0f} tokens prefilled an image{memory}; instances {run['instances']}"
    )
    _say(f"  {'stage':24}{'s/image':>9}{'calls':>7}{'items':>7}{'TFLOP/s':>9}{'prefill':>9}{'steps':>7}  batches")
    for name, row in run["stages"].items():
        batches = "; ".join(
            f"{network} {' '.join(f'{size}x{times}' for size, times in entry['batches'].items())}"
            for network, entry in row["networks"].items()
        )
        _say(
            f"  {name:24}{row['seconds_per_image']:9.3f}{row['calls']:7}{row['items']:7}{row['tflops']:9.1f}"
            f"{row['prefill_tokens']:9}{row['decode_steps']:7}  {batches}"
        )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _environment(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "other_processes_gb": round(_others(device) / GB, 2) if cuda else 0.0,
    }


def _others(device: torch.device) -> int:
    """Bytes of the card that are neither free nor this process's."""
    free, total = torch.cuda.mem_get_info(device)
    return max(0, total - free - torch.cuda.memory_reserved(device))


def _models(profile: Profile) -> dict[str, Any]:
    return {role: getattr(profile, role).model_dump(mode="json") for role in profile.roles}


def _weights(parts: dict[str, Any]) -> int:
    found: dict[int, torch.Tensor] = {}
    for part in parts.values():
        modules = part.components.values() if hasattr(part, "components") else [part]
        for module in modules:
            if isinstance(module, torch.nn.Module):
                found |= {id(tensor): tensor for tensor in module.parameters()}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="llava", help="a shipped profile or a profile file")
    parser.add_argument("--model", action="append", default=[], metavar="KEY=VALUE", help="as in int-backend --model")
    parser.add_argument("--in-flight", default="1,4,16", help="images per micro-batch, one run each")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--scales", type=lambda text: tuple(int(n) for n in text.split(",")), default=(1, 2, 4))
    parser.add_argument("--provoke", type=int, metavar="N", help="then batches of N with too little memory (CUDA)")
    parser.add_argument("--size", default="1024x768", help="WIDTHxHEIGHT of the images")
    parser.add_argument("--depth", type=int, help="most layers of a transformer: for a CPU, widths stay real")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--against", choices=["none", "literal"], default="none")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    parser.add_argument("--out", help="the JSON file; written after every run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
