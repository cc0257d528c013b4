"""One small picture of a result against its truth, for reports."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image as PilImage

from int_model.core.types import Image, Mask
from int_model.report.pictures import shrink

RIGHT, EXTRA, MISSED = (46, 196, 122), (240, 80, 60), (38, 130, 237)
"""RGB of pixels that were found rightly, found wrongly, and missed."""

SIDE = 320


def comparison(image: Image, mask: Mask, truth: Mask, side: int = SIDE) -> bytes:
    """The image in grey with right pixels green, extra red, missed blue and the truth outlined white, as JPEG.

    All are ``[H, W]``; the longer side becomes ``side`` (small images are enlarged up to twice).
    """
    small = shrink(image, side)
    factor = min(2.0, side / max(small.shape[:2]))
    size = (max(1, round(small.shape[1] * factor)), max(1, round(small.shape[0] * factor)))
    canvas = cv2.resize(np.ascontiguousarray(small), size, interpolation=cv2.INTER_CUBIC if factor > 1 else 0)
    own, sought = (cv2.resize(m.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5 for m in (mask, truth))
    out = np.repeat(canvas.mean(axis=2, keepdims=True), 3, axis=2)  # grey, so that colours mean one thing only
    for region, colour in ((own & sought, RIGHT), (own & ~sought, EXTRA), (~own & sought, MISSED)):
        out[region] = 0.5 * out[region] + 0.5 * np.array(colour)
    picture = np.ascontiguousarray(np.clip(np.rint(out), 0, 255).astype(np.uint8))
    outlines, _ = cv2.findContours(sought.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()
