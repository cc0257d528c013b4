"""A training that was interrupted, as one file: safetensors with a manifest, so that it goes on to the same weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from int_model.learning.ppt.curriculum import Learner
from int_model.learning.ppt.rounds import Accepted

_MOMENTS = ("exp_avg", "exp_avg_sq")


class StateError(ValueError):
    """The file belongs to another training; the message says what to do."""


def save_state(learner: Learner, path: Path) -> None:
    """Write where a training is; a file that is there already stays whole until the new one is complete."""
    tensors = {f"network.{name}": value for name, value in learner.network.state_dict().items()}
    tensors |= {f"teacher.{name}": value for name, value in learner.teacher.state_dict().items()}
    for index, parameter in enumerate(learner.network.parameters()):
        kept = learner.optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{index}": kept[moment] for moment in _MOMENTS if moment in kept}
    rows = [[choice.entry, choice.pair, choice.proposal] for choice in learner.accepted]
    tensors["accepted"] = torch.tensor(rows, dtype=torch.int64).view(-1, 3)
    manifest = json.dumps({"step": learner.step, "training": identity_of(learner)}, sort_keys=True)
    spare = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, spare, {"state": manifest})
    spare.replace(path)


def resume(learner: Learner, path: Path) -> bool:
    """Go on where ``path`` left off; False where there is no such file.

    Raises:
        StateError: the file is damaged, or of another training: other settings, plan or data.
    """
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a mapping
    except Exception as error:
        raise StateError(
            f"{path} is no state of a training ({type(error).__name__}): delete it to start anew"
        ) from error
    if manifest["training"] != identity_of(learner):
        raise StateError(f"{path} belongs to a training with other settings or data: delete it, or name another file")
    learner.network.load_state_dict(_below(tensors, "network."))
    learner.teacher.load_state_dict(_below(tensors, "teacher."))
    learner.step = int(manifest["step"])
    for index, parameter in enumerate(learner.network.parameters()):
        if f"exp_avg.{index}" in tensors:
            moments = {moment: tensors[f"{moment}.{index}"].to(parameter.device) for moment in _MOMENTS}
            learner.optimiser.state[parameter] = {"step": torch.tensor(float(learner.step)), **moments}
    learner.believe([Accepted(*(int(v) for v in row)) for row in tensors["accepted"]])
    return True


def identity_of(learner: Learner) -> dict[str, Any]:
    """What must be the same for a training to go on."""
    material = learner.material
    return json.loads(
        json.dumps(
            {
                "settings": asdict(learner.network.settings),
                "plan": asdict(learner.plan),
                "objects": len(material.objects),
                "composites": len(material.composites),
                "pool": [len(material.pool), sum(len(entry.pairs) for entry in material.pool)],
            }
        )
    )


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
