"""What tells one set of models from another, without loading them. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

import int_model
from int_model.models.profile import Profile, ProfileError, RoleSettings, Weights

_BUNDLED = "bundled:"
_SAMPLE = 1 << 20
_SUFFIXES = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}


def folder_of(identifier: str) -> Path | None:
    """The folder that a profile's ``id`` means (it need not exist), or None for a hub id.

    Raises ``ProfileError`` if a name after ``bundled:`` is not a plain word.
    """
    if identifier.startswith(_BUNDLED):
        name = identifier.removeprefix(_BUNDLED)
        if not name.isidentifier():
            raise ProfileError(f"'{identifier}' is not a bundled checkpoint; write bundled:NAME")
        return Path(int_model.__file__).parent / "nano" / "checkpoints" / name
    path = Path(identifier).expanduser()
    looks_local = path.is_absolute() or identifier.startswith((".", "~")) or identifier.count("/") != 1
    return path if looks_local or path.is_dir() else None


def is_bundled(identifier: str) -> bool:
    """Whether an ``id`` means a checkpoint inside this package."""
    return identifier.startswith(_BUNDLED)


def weights_identity(weights: Weights) -> str:
    """What tells one checkpoint from another: a hub id with its commit, or a digest of a folder's files.

    A branch name is replaced by the commit it stands for in the local cache, so that a moved branch is noticed. Of a
    large file the size and 16 samples of 1 MiB count. A folder that is not there counts by its name.
    """
    folder = folder_of(weights.id)
    if folder is None:
        return f"{weights.id}@{_commit(weights) or weights.revision}"
    if folder.is_file():
        return hashlib.sha256(str(folder.stat().st_size).encode() + b"".join(_blocks(folder))).hexdigest()
    if not folder.is_dir():
        return weights.id
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _SUFFIXES):
        digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}\n".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def profile_fingerprint(profile: Profile) -> str:
    """16 hex digits that change when any checkpoint or option changes that affects the models' answers."""
    described = {role: _described(getattr(profile, role)) for role in profile.roles}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def segmenter_fingerprint(profile: Profile) -> str:
    """16 hex digits that change when the segmenter's checkpoint or options change: what was learned fits one only."""
    text = json.dumps(_described(profile.segmenter), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _described(settings: RoleSettings) -> list[Any]:
    options = settings.model_dump(mode="json", exclude=set(settings.speed_only))
    options = {key: value for key, value in options.items() if value != ""}  # what is left empty is not there
    return [options, weights_identity(settings) if isinstance(settings, Weights) else None]


def _commit(weights: Weights) -> str | None:
    for name in ("config.json", "model_index.json"):
        cached = try_to_load_from_cache(weights.id, name, revision=weights.revision)
        if isinstance(cached, str):
            # The cache's layout is documented: .../snapshots/COMMIT/FILE
            return Path(cached).parent.name
    return None


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 64 * _SAMPLE:
            yield file.read()
            return
        for index in range(16):
            file.seek(index * (size - _SAMPLE) // 15)
            yield file.read(_SAMPLE)
