"""Pictures inside pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image as PilImage

from int_model.html import pictures


def decoded(uri: str) -> PilImage.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return PilImage.open(io.BytesIO(base64.b64decode(data)))


def test_a_mask_smaller_than_a_pixel_of_the_picture_still_shows() -> None:
    region = np.zeros((1000, 1000), bool)
    region[500, 500] = True
    with decoded(pictures.mask(region, (1, 2, 3), 100)) as picture:
        assert picture.size == (100, 100)
        assert (np.asarray(picture.convert("RGBA"))[..., 3] > 0).sum() == 1


def test_a_heat_map_survives_what_is_not_a_number() -> None:
    values = np.array([[0.0, 1.0], [np.nan, np.inf]], np.float32)
    with decoded(pictures.heat(values, 64)) as picture:
        shades = np.asarray(picture.convert("L"))
    assert shades[0, 1] > shades[0, 0] == shades[1, 0]
