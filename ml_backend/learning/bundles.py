"""What was learned, as a file that a server takes: ``INT_ADAPTER``, or ``--adapter``."""

from __future__ import annotations

from pathlib import Path

from int_model.io.outputs import display_name
from int_model.learning.adaptation import Adaptation
from int_model.learning.bundle import BundleError, bundle_id, unpack
from int_model.models.identity import segmenter_fingerprint
from int_model.models.profile import Profile

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
