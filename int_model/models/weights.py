"""Finding and loading checkpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]  # documented there
from safetensors import SafetensorError
from transformers.utils import logging as hf_logging

from int_model.models.device import choose_dtype
from int_model.models.identity import folder_of, is_bundled
from int_model.models.profile import Weights

_COMMIT = re.compile("[0-9a-f]{40}")
_log = logging.getLogger(__name__)


class WeightsError(RuntimeError):
    """Weights that are absent, incomplete or unreadable; the message is one sentence that names the remedy."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one role's checkpoint comes from, and how to load it.

    Attributes:
        role: the profile table, for messages.
        location: the path of a folder or of a file, or a hub id.
        is_folder: whether it is a path.
        revision: of a hub id.
        offline: use only what is already on this machine.
        device, dtype: where and in which precision to load.
        hub_offline: whether what is on the hub is used only where this machine has it already; ``offline`` is also true
            of a path.
    """

    role: str
    location: str
    is_folder: bool
    revision: str
    offline: bool
    device: torch.device
    dtype: torch.dtype
    hub_offline: bool = False

    @classmethod
    def of(cls, role: str, weights: Weights, *, device: torch.device, offline: bool) -> Source:
        """Resolve a role's ``id``. Raises ``WeightsError`` if it means a folder or file that is not there."""
        dtype = choose_dtype(weights.dtype, device)
        folder = folder_of(weights.id)
        if folder is None:
            if not _COMMIT.fullmatch(weights.revision):
                text = "%s: %s is taken as its branch or tag '%s' is today; set %s.revision to a commit that you trust"
                _log.warning(text, role, weights.id, weights.revision, role)
            return cls(role, weights.id, False, weights.revision, offline, device, dtype, offline)
        if weights.from_file and not folder.is_file():
            raise WeightsError(f"there is no file of the role '{role}' at {folder}: put it there or correct {role}.id")
        if not weights.from_file and not folder.is_dir() and not (weights.from_file is None and folder.is_file()):
            raise WeightsError(_missing_folder(role, weights.id, folder))
        return cls(role, str(folder), True, "", True, device, dtype, offline)

    def beside(self, identifier: str, revision: str) -> Source:
        """Another folder or hub id that the same role needs."""
        folder = folder_of(identifier)
        if folder is None:
            return replace(self, location=identifier, is_folder=False, revision=revision, offline=self.hub_offline)
        return replace(self, location=str(folder), is_folder=True, revision="", offline=True)

    @property
    def where(self) -> dict[str, Any]:
        """Keyword arguments of every ``from_pretrained``.

        Code that comes with a checkpoint is refused explicitly: left open, transformers asks for permission on the
        terminal.
        """
        if self.is_folder:
            return {"local_files_only": True, "trust_remote_code": False}
        return {"revision": self.revision, "local_files_only": self.offline, "trust_remote_code": False}

    def read(self, load: Callable[..., Any], what: str, **options: Any) -> Any:
        """``load(location, ...)`` with its file errors made into one ``WeightsError``; ``what`` names the part."""
        try:
            with _no_loading_bars():
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
        """A frozen model of ``cls``, ready to run; refuses a checkpoint with missing or surplus tensors.

        transformers and diffusers only log them. A missing tensor would stay random; a surplus one tells that the
        checkpoint was made for another architecture. Both would give wrong masks without any error.
        """
        options = {"output_loading_info": True, "dtype": self.dtype, **options}
        placed = "device_map" in options
        loaded, info = self.read(cls.from_pretrained, what, **options)
        self.refuse_mismatch(info)
        model = loaded if placed else loaded.to(self.device)
        return model.eval().requires_grad_(requires_grad=False)

    def component(self, cls: Any, subfolder: str) -> Any:
        """A model of ``cls`` from a subfolder of a diffusers pipeline, as ``model``."""
        key = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
        options = {key: self.dtype, "subfolder": subfolder, "use_safetensors": True, "output_loading_info": True}
        loaded, info = self.read(cls.from_pretrained, f"weights of {subfolder}", **options)
        self.refuse_mismatch(info)
        return loaded.to(self.device).eval()

    def refuse_mismatch(self, info: Any) -> None:
        """Raise ``WeightsError`` that names tensors which a checkpoint lacks or has beyond its model.

        ``info``: transformers' loading information, with ``missing_keys`` and ``unexpected_keys``.
        """
        unset = sorted(info["missing_keys"]) + sorted(str(entry[0]) for entry in info.get("mismatched_keys", ()))
        surplus = sorted(info["unexpected_keys"])
        if not unset and not surplus:
            return
        named = ", ".join((unset or surplus)[:3])
        fault = f"leave {len(unset)} tensors unset" if unset else f"hold {len(surplus)} tensors that its model lacks"
        raise WeightsError(
            f"the weights of the role '{self.role}' ({self.location}) {fault} (e.g. {named}): get a complete "
            f"checkpoint of this architecture or set {self.role}.id to another one"
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


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Hide the bar of copying weights into tensors, which breaks the caller's own display; downloads keep theirs."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    if shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _missing_folder(role: str, identifier: str, folder: Path) -> str:
    if is_bundled(identifier):
        return (
            f"the bundled weights of the role '{role}' are not in {folder}: reinstall the package with its "
            f"checkpoints, or set {role}.id to a folder written by save_pretrained"
        )
    return (
        f"there are no weights of the role '{role}' at {folder}: put a folder written by save_pretrained there, or set "
        f"{role}.id to another folder or a hub id"
    )
