"""What libraries print about damaged files is silenced: our own error says it, once."""

from __future__ import annotations

import ctypes
import logging
import warnings

from PIL import _imaging


def quieten() -> None:
    """Silence Pillow's warnings and log, and what libtiff, inside Pillow, writes to stderr by itself."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    try:
        library = ctypes.CDLL(_imaging.__file__)  # symbols are looked for in what it is linked to, too
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
    except (OSError, AttributeError):
        pass  # linked in another way: its lines stay
