"""Why a file could not be had."""

from __future__ import annotations

_KINDS = frozenset(
    {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "dcm", "nii", "gz", "svg"}
)


class FetchError(ValueError):
    """The image could not be fetched; the message says why and names the remedy.

    ``transient``: the same address may work later, because nobody answered or the server had a fault.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def too_long(what: str, max_bytes: int) -> str:
    """The message for a file of more bytes than allowed."""
    return f"{what} has more than {max_bytes} bytes; make it smaller or raise INT_MAX_IMAGE_BYTES"


def short_address(address: str, *, hide: bool = False) -> str:
    """An address for messages: without its query (it may hold signatures), name and password, and not too long.

    With ``hide`` nothing is left of its path but the kind of the file.
    """
    if address.startswith("data:"):
        return "the data: address"
    shown = address.partition("?")[0].partition("#")[0]
    scheme, separator, rest = shown.partition("://")
    if separator and "@" in rest.partition("/")[0]:
        shown = f"{scheme}://{rest.partition('@')[2]}"
    if hide:
        scheme, separator, rest = shown.partition("://")
        host, _, path = rest.partition("/") if separator else ("", "", shown)
        shown = f"{scheme}://{host}/..." if separator else "/..."
        return f"the image at {shown}{_kind(path)}"
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _kind(path: str) -> str:
    """The end of a file's name, if it is one that says its kind."""
    end = path.rpartition(".")[2].lower()
    return f".{end}" if end in _KINDS else ""
