"""Our own side: settings, the running service, weights on the disk, memory of the accelerator. No torch here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import constants, try_to_load_from_cache
from sqlalchemy import literal, select

from int_model.models.identity import folder_of, is_bundled
from int_model.models.profile import Profile, Weights
from ml_backend.doctor.diagnosis import Diagnosis, Level, of_error, ok, problem, split_remedy, warning
from ml_backend.settings import Settings
from ml_backend.storage.database import Database, StoreError

SETTINGS, DATABASE, SERVICE, WEIGHTS, MEMORY = "settings", "database", "backend", "weights", "memory"
Probe = Callable[[], Mapping[str, Any]]
"""What `int_model.models.memory` reports; raises ``RuntimeError`` with the reason if it cannot."""

_LABEL_STUDIO_WAITS = 100.0
_LARGE_GB = 4.0
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHT_FILES = ("*.safetensors", "*.bin")


def examine_settings(settings: Settings) -> list[Diagnosis]:
    """What cannot be seen from one setting alone."""
    found = []
    folder = settings.data_dir
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        text = f"The data folder {folder} cannot be written."
        found.append(problem(SETTINGS, text, "set INT_DATA_DIR to a folder that the backend may write"))
    if settings.deadline >= _LABEL_STUDIO_WAITS:
        text = f"INT_DEADLINE is {settings.deadline:g} s, but Label Studio waits {_LABEL_STUDIO_WAITS:g} s at most."
        found.append(warning(SETTINGS, text, "set INT_DEADLINE below 100, e.g. 80"))
    if not found:
        found.append(ok(SETTINGS, f"The settings make sense; data are kept in {folder}."))
    return found


def examine_database(settings: Settings) -> list[Diagnosis]:
    """Whether the database of ``DATABASE_URL`` answers; its tables are left alone. Nothing is said of SQLite's file."""
    address = settings.database_url.get_secret_value() if settings.database_url else ""
    if not address:
        return []
    try:
        database = Database(address, migrated=False)
        with database.read() as connection:
            connection.execute(select(literal(1)))
        database.close()
    except StoreError as error:
        return [of_error(DATABASE, error, "check DATABASE_URL")]
    return [ok(DATABASE, f"The database answers: {database.where}.")]


def examine_service(settings: Settings, *, timeout: float = 3.0) -> tuple[Diagnosis, bool]:
    """Whether the backend answers on this machine, and what its models are doing."""
    host = settings.host if settings.host not in ("0.0.0.0", "::", "") else "127.0.0.1"  # noqa: S104 only compared  # nosec B104
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    password = settings.basic_auth_pass
    auth = (settings.basic_auth_user or "", password.get_secret_value()) if password else None
    try:
        with httpx.Client(base_url=url, timeout=timeout, trust_env=False, auth=auth) as http:
            response = http.get("/health")
            if response.status_code == 401:
                text = f"The backend at {url} asks for another name and password than are set here."
                return warning(
                    SERVICE, text, "run the doctor with BASIC_AUTH_USER and BASIC_AUTH_PASS of the backend"
                ), True
            answer = response.json() if response.status_code in (200, 503) else {}
            if response.status_code == 503 and isinstance(answer, dict) and {"error", "cure"} <= answer.keys():
                text, remedy = str(answer["error"])[:600], str(answer["cure"])[:600]
                return problem(SERVICE, f"The backend runs at {url}, but keeps nothing: {text}.", remedy), True
            if not isinstance(answer, dict) or "models" not in answer:
                text = f"Something else than this backend answers at {url} ({response.status_code})."
                return warning(SERVICE, text, "stop it, or choose another INT_PORT"), False
            if answer["models"] != "failed":
                return ok(SERVICE, f"The backend runs at {url}; its models are {answer['models']}."), True
            why = http.get("/status").json().get("why", "")
    except (httpx.HTTPError, ValueError):
        text = f"The backend does not answer at {url}; this is fine if it runs on another machine."
        return warning(SERVICE, text, "start it with int-backend serve, or run the doctor where it runs"), False
    text, remedy = split_remedy(" ".join(str(why).split())[:600], "see the diagnoses on weights and memory")
    return problem(SERVICE, f"The backend runs at {url}, but its models cannot be loaded: {text}", remedy), True


def examine_weights(profile: Profile) -> list[Diagnosis]:
    """What the profile names and whether it is on the disk, role by role."""
    found = []
    for role in profile.roles:
        weights = getattr(profile, role)
        if isinstance(weights, Weights):
            found.append(_weights(role, weights))
    return found


def examine_memory(profile: Profile, device: str, probe: Probe) -> Diagnosis:
    """The accelerator's memory against the profile's ``memory_gb``."""
    needed = profile.meta.memory_gb
    try:
        seen = probe()
    except RuntimeError as error:
        text = f"The accelerator could not be looked at: {error}"
        return problem(MEMORY, text, "reinstall the package with its dependencies (torch)")
    cards = list(seen["cuda"])
    kind, _, index = device.partition(":")
    place = int(index) if index.isdigit() else 0
    if kind == "cuda" and place >= len(cards):
        text = f"INT_DEVICE is {device}, but this machine has {len(cards)} CUDA cards."
        return problem(MEMORY, text, "set INT_DEVICE=auto; in Docker, give the container the GPU and use the gpu image")
    if kind == "mps" and not seen["mps"]:
        return problem(MEMORY, "INT_DEVICE is mps, but this machine has none.", "set INT_DEVICE=auto")
    if kind in ("auto", "cuda") and cards:
        card = cards[place]
        return _compare(profile, needed, f"{card['name']} has", float(card["total_gb"]), float(card["free_gb"]))
    memory = float(seen["ram_gb"])
    diagnosis = _compare(profile, needed, "this machine has", memory, memory)
    alone = kind == "cpu" or (kind == "auto" and not seen["mps"])
    if diagnosis.level is Level.OK and alone and (needed or 0) >= _LARGE_GB:
        text = f"The profile '{profile.name}' is for an accelerator, and none is in use: an image takes many minutes."
        return warning(MEMORY, text, "run on a machine with a GPU (INT_DEVICE=cuda), or choose a smaller profile")
    return diagnosis


def probe_in_subprocess() -> Mapping[str, Any]:
    """Let another process import torch and look. Raises ``RuntimeError`` with the reason."""
    command = [sys.executable, "-m", "int_model.models.memory"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{type(error).__name__}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
    seen: Mapping[str, Any] = json.loads(done.stdout)
    return seen


def _compare(profile: Profile, needed: float | None, who: str, total: float, free: float) -> Diagnosis:
    if needed is None:
        return ok(MEMORY, f"The profile '{profile.name}' does not say what it needs; {who} {total:.1f} GB.")
    if total < needed:
        text = f"The profile '{profile.name}' needs {needed:g} GB, and {who} {total:.1f} GB."
        return problem(MEMORY, text, "choose a smaller profile (int-backend profiles), or smaller models in it")
    if free < needed:
        text = f"The profile '{profile.name}' needs {needed:g} GB; {who} {total:.1f} GB, {free:.1f} GB of it free."
        return warning(MEMORY, text, "if it is not the running backend itself that uses it: stop what does")
    return ok(MEMORY, f"The profile '{profile.name}' needs {needed:g} GB; {who} {total:.1f} GB.")


def _weights(role: str, weights: Weights) -> Diagnosis:
    folder = folder_of(weights.id)
    if folder is not None and (weights.from_file or (weights.from_file is None and folder.is_file())):
        if folder.is_file():
            return ok(WEIGHTS, f"{role}: {weights.id} is on the disk.")
        return problem(WEIGHTS, f"{role}: there is no file {weights.id}.", f"put it there, or correct {role}.id")
    if folder is not None:
        missing = _incomplete(folder)
        if missing is None:
            return ok(WEIGHTS, f"{role}: {weights.id} is on the disk.")
        remedy = f"put a folder written by save_pretrained there, or set {role}.id in INT_PROFILE_OVERRIDES"
        if is_bundled(weights.id):
            remedy = "reinstall the package: its bundled checkpoints are not complete"
        return problem(WEIGHTS, f"{role}: {weights.id} {missing}.", remedy)
    name = f"{weights.id}@{weights.revision[:8]}"
    snapshot = _snapshot(weights)
    missing = "is not on the disk" if snapshot is None else _incomplete(snapshot)
    if missing is None:
        return ok(WEIGHTS, f"{role}: {name} is on the disk.")
    get = f"run `hf download {weights.id} --revision {weights.revision}`"
    if constants.HF_HUB_OFFLINE:
        return problem(WEIGHTS, f"{role}: {name} {missing}, and HF_HUB_OFFLINE is set.", f"{get} with a connection")
    text = f"{role}: {name} {missing}; it will be downloaded at first use."
    return warning(WEIGHTS, text, f"{get} to have it before")


def _snapshot(weights: Weights) -> Path | None:
    for name in ("config.json", "model_index.json"):
        cached = try_to_load_from_cache(weights.id, name, revision=weights.revision)
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def _incomplete(folder: Path) -> str | None:
    """What a checkpoint's folder lacks, or None: it, a configuration, weights, or shards that its index names."""
    if not folder.is_dir():
        return f"is not there ({folder})"
    if not any((folder / name).is_file() for name in ("config.json", "model_index.json", "open_clip_config.json")):
        return "has no config.json"
    for index in (path for name in _INDEXES for path in folder.rglob(name)):
        try:
            shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return f"has a damaged {index.name}"
        lacking = sorted(shard for shard in shards if not (index.parent / shard).is_file())
        if lacking:
            return f"lacks {len(lacking)} of {len(shards)} files of weights, e.g. {lacking[0]}"
    if not any(path.stat().st_size for pattern in _WEIGHT_FILES for path in folder.rglob(pattern)):
        return "has no weights"
    return None
