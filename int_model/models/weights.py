"""Finding, loading and identifying checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

import int_model
from int_model.models.device import choose_dtype
from int_model.models.profile import Weights

_BUNDLED = "bundled:"
_SAMPLE = 1 << 20


class WeightsError(RuntimeError):
    """Weights that are absent, incomplete or unreadable; the message is one sentence that names the cure."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one role's checkpoint comes from, and how to load it.

    Attributes:
        role: the profile table, for messages.
        location: a folder's path or a hub id.
        is_folder: which of the two.
        revision: of a hub id.
        offline: use only what is already on this machine.
        device, dtype: where and in which precision to load.
    """

    role: str
    location: str
    is_folder: bool
    revision: str
    offline: bool
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, role: str, weights: Weights, *, device: torch.device, offline: bool) -> Source:
        """Resolve a role's ``id``. Raises ``WeightsError`` if it means a folder that is not there."""
        dtype = choose_dtype(weights.dtype, device)
        folder = _folder(weights.id)
        if folder is None:
            return cls(role, weights.id, False, weights.revision, offline, device, dtype)
        if not folder.is_dir():
            raise WeightsError(_missing_folder(role, weights.id, folder))
        return cls(role, str(folder), True, "", True, device, dtype)

    @property
    def where(self) -> dict[str, Any]:
        """Keyword arguments of every ``from_pretrained``."""
        if self.is_folder:
            return {"local_files_only": True}
        return {"revision": self.revision, "local_files_only": self.offline}

    def read(self, load: Callable[..., Any], what: str, **options: Any) -> Any:
        """``load(location, ...)`` with its file errors made into one ``WeightsError``; ``what`` names the part."""
        try:
            return load(self.location, **self.where, **options)
        except torch.OutOfMemoryError:
            raise
        except ImportError as error:
            raise WeightsError(
                f"the role '{self.role}' ({self.location}) needs a package that is not installed "
                f"({_first_line(error)}): install it, or set {self.role}.id to a model that does without"
            ) from error
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise WeightsError(self._failed(what, error)) from error

    def model(self, cls: Any, *, what: str = "weights", **options: Any) -> Any:
        """A model of ``cls`` in evaluation mode on the device; refuses a checkpoint that does not fill every tensor.

        transformers and diffusers only log missing tensors and leave them random, which would give wrong masks
        without any error.
        """
        options = {"output_loading_info": True, "dtype": self.dtype, **options}
        placed = "device_map" in options
        loaded, info = self.read(cls.from_pretrained, what, **options)
        self._refuse_incomplete(info)
        model = loaded if placed else loaded.to(self.device)
        return model.eval()

    def component(self, cls: Any, subfolder: str) -> Any:
        """A model of ``cls`` from a subfolder of a diffusers pipeline, as ``model``."""
        key = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
        options = {key: self.dtype, "subfolder": subfolder, "use_safetensors": True, "output_loading_info": True}
        loaded, info = self.read(cls.from_pretrained, f"weights of {subfolder}", **options)
        self._refuse_incomplete(info)
        return loaded.to(self.device).eval()

    def _refuse_incomplete(self, info: Any) -> None:
        missing = sorted(info["missing_keys"])
        wrong = sorted(str(entry[0]) for entry in info.get("mismatched_keys", ()))
        if missing or wrong:
            named = ", ".join((missing + wrong)[:3])
            raise WeightsError(
                f"the weights of the role '{self.role}' ({self.location}) leave {len(missing) + len(wrong)} tensors "
                f"unset (e.g. {named}): get a complete checkpoint or set {self.role}.id to another one"
            )

    def _failed(self, what: str, error: Exception) -> str:
        cause = _first_line(error)
        if self.is_folder:
            return (
                f"the {what} of the role '{self.role}' cannot be loaded from {self.location} ({cause}): put a folder "
                f"written by save_pretrained there or set {self.role}.id to one"
            )
        return (
            f"the {what} of the role '{self.role}' cannot be loaded ({cause}): run `hf download {self.location} "
            f"--revision {self.revision}` on a machine with access, or put the files in a folder and set "
            f"{self.role}.id to its path"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _folder(identifier: str) -> Path | None:
    """The folder that an id means, or None for a hub id."""
    if identifier.startswith(_BUNDLED):
        name = identifier.removeprefix(_BUNDLED)
        if not name.isidentifier():
            raise WeightsError(f"'{identifier}' is not a bundled checkpoint; write bundled:NAME")
        return Path(int_model.__file__).parent / "nano" / "checkpoints" / name
    path = Path(identifier).expanduser()
    looks_local = path.is_absolute() or identifier.startswith((".", "~")) or identifier.count("/") != 1
    return path if looks_local or path.is_dir() else None


def _missing_folder(role: str, identifier: str, folder: Path) -> str:
    if identifier.startswith(_BUNDLED):
        return (
            f"the bundled weights of the role '{role}' are not in {folder}: reinstall the package with its "
            f"checkpoints, or set {role}.id to a folder written by save_pretrained"
        )
    return (
        f"there are no weights of the role '{role}' at {folder}: put a folder written by save_pretrained there, or set "
        f"{role}.id to another folder or a hub id"
    )


def identity(source: Source) -> str:
    """What tells one checkpoint from another: a hub id with its commit, or a digest of a folder's files.

    A branch name is replaced by the commit it stands for in the local cache, so that a moved branch is noticed. Large
    files are identified by their size and 16 samples of 1 MiB.
    """
    if not source.is_folder:
        return f"{source.location}@{_commit(source) or source.revision}"
    digest = hashlib.sha256()
    for path in _files(Path(source.location)):
        digest.update(f"{path.relative_to(source.location).as_posix()}:{path.stat().st_size}\n".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _commit(source: Source) -> str | None:
    for name in ("config.json", "model_index.json"):
        cached = try_to_load_from_cache(source.location, name, revision=source.revision)
        if isinstance(cached, str):
            # The cache's layout is documented: .../snapshots/COMMIT/FILE
            return Path(cached).parent.name
    return None


def _files(folder: Path) -> list[Path]:
    suffixes = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes)


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 64 * _SAMPLE:
            yield file.read()
            return
        for index in range(16):
            file.seek(index * (size - _SAMPLE) // 15)
            yield file.read(_SAMPLE)
