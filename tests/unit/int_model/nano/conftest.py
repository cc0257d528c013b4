"""The miniature world is drawn with Debian's emoji font; without it its tests are skipped, but never in CI."""

import os
from pathlib import Path

import pytest

_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


@pytest.fixture(autouse=True)
def _emoji_font() -> None:
    if not _FONT.is_file() and os.environ.get("CI") != "true":
        pytest.skip("the emoji font is missing: apt-get install fonts-noto-color-emoji")
