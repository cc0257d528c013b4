"""What was learned, as a process takes it: a file (``INT_ADAPTER``, or ``--adapter``), and a project's own version."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from int_model.io.outputs import display_name
from int_model.learning.adaptation import Adaptation
from int_model.learning.bundle import BundleError, bundle_id, unpack
from int_model.models.identity import segmenter_fingerprint
from int_model.models.profile import Profile
from ml_backend.learning.versions import Versions
from ml_backend.storage.database import StoreError

LARGEST = 512 * 1024 * 1024


def read_bundle(path: Path, profile: Profile) -> tuple[Adaptation, str]:
    """What was learned, and its id, for the segmenter of a profile.

    Raises:
        BundleError: the file cannot be read, is no bundle, or was trained on another segmenter (a ``ValueError``).
    """
    try:
        if path.stat().st_size > LARGEST:
            raise BundleError(f"'{display_name(path)}' has more than {LARGEST} bytes; that is no bundle of ours")
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"'{display_name(path)}' cannot be read ({error.strerror or error})") from error
    try:
        adaptation, _ = unpack(data, base=segmenter_fingerprint(profile))
    except BundleError as error:
        raise BundleError(f"'{display_name(path)}': {error}") from error
    return adaptation, bundle_id(data)


class Bundles:
    """The versions of projects that the models of this process can serve. Blocking, and safe between threads.

    Args:
        versions: where they are kept.
        profile: gives the models' profile; called when a version is first asked for.
        own: id of the bundle that the process was started with, or "".
    """

    def __init__(self, versions: Versions, profile: Callable[[], Profile], own: str = "") -> None:
        self._versions = versions
        self._profile = profile
        self._own = own
        self._fit: set[str] = {"", own}  # versions never change

    @functools.cached_property
    def base(self) -> str:
        """The fingerprint of the segmenter that serves here."""
        return segmenter_fingerprint(self._profile())

    def lacks(self, adapter: str) -> str:
        """Why this process cannot serve a version, and what to do; or ""."""
        if adapter in self._fit:
            return ""
        try:
            trained_on = self._versions.trained_on(adapter)
        except StoreError as error:
            return f"the project's version {adapter} cannot be looked up: {error}"
        if trained_on is None:
            return (
                f"the project's adapter {adapter} is not loaded here; start this process with --adapter (INT_ADAPTER) "
                "and the file of that adapter"
            )
        if trained_on != self.base:
            return (
                f"the project's version {adapter} was trained on another segmenter ({trained_on}, serving is "
                f"{self.base}): choose the profile that it was trained with, or roll back: int-backend models rollback"
            )
        self._fit.add(adapter)
        return ""

    def read(self, adapter: str) -> Adaptation:
        """What a version learned.

        Raises:
            BundleError: there is no such version, it is damaged, or was trained on another segmenter.
            StoreError: the database cannot be used.
        """
        payload = self._versions.payload(adapter)
        if payload is None:
            raise BundleError(f"there is no version {adapter}; see int-backend models list")
        return unpack(payload, base=self.base)[0]
