"""COCO's run lengths of masks: runs down the columns, beginning with background; compressed ones by pycocotools."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from int_model.core.types import Mask


def encode_counts(mask: Mask) -> str:
    """Compressed run lengths of a mask ``bool [H, W]``."""
    counts: bytes = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")
