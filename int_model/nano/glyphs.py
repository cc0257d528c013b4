"""The animals and things of the miniature world as pictures: glyphs of Noto Color Emoji, kept in ``glyphs.png``.

The atlas spares every user the font. ``python -m int_model.nano.glyphs`` draws it again with the font (Debian's
package fonts-noto-color-emoji, SIL Open Font License 1.1).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from int_model.nano.world import ANIMALS, OBJECTS

SIZE = 136
ATLAS = Path(__file__).parent / "glyphs.png"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_STRIKE = 109  # the one bitmap size in the font
_COLUMNS = 6


def _characters() -> tuple[str, ...]:
    return (*(character for character, _ in ANIMALS.values()), *OBJECTS.values())


def glyph(character: str) -> NDArray[np.uint8]:
    """An emoji as ``uint8 [136, 136, 4]`` RGBA: from the atlas, or drawn with the font if it is none of the world's.

    Raises ``FileNotFoundError`` where the font would be needed and is not installed.
    """
    characters = _characters()
    if character not in characters:
        return drawn(character)
    row, column = divmod(characters.index(character), _COLUMNS)
    return _atlas()[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]


@functools.cache
def _atlas() -> NDArray[np.uint8]:
    with PILImage.open(ATLAS) as picture:
        return np.asarray(picture.convert("RGBA"))


def drawn(character: str) -> NDArray[np.uint8]:
    """An emoji as ``uint8 [136, 136, 4]`` RGBA, drawn with the font.

    Raises ``FileNotFoundError`` if the font is not installed, ``ValueError`` if it has no such glyph.
    """
    if not FONT.is_file():
        raise FileNotFoundError(f"{FONT} is missing; install Debian's package fonts-noto-color-emoji")
    font = ImageFont.truetype(str(FONT), _STRIKE)
    canvas = PILImage.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), character, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font has no glyph for {character!r}")
    square = PILImage.new("RGBA", (SIZE, SIZE))
    cut = canvas.crop(box)
    square.paste(cut, ((SIZE - cut.width) // 2, (SIZE - cut.height) // 2))
    return np.asarray(square)


def write_atlas(path: Path = ATLAS) -> None:
    """Draw every glyph of the world into one PNG, six a row, in the order of ``ANIMALS`` and ``OBJECTS``."""
    characters = _characters()
    sheet = np.zeros((-(-len(characters) // _COLUMNS) * SIZE, _COLUMNS * SIZE, 4), dtype=np.uint8)
    for place, character in enumerate(characters):
        row, column = divmod(place, _COLUMNS)
        sheet[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE] = drawn(character)
    PILImage.fromarray(sheet).save(path, optimize=True)


if __name__ == "__main__":
    write_atlas()
