"""Whatever others may claim rights in, or ask where it comes from, is named in NOTICE, which goes into the wheel."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NOTICE = " ".join((ROOT / "NOTICE").read_text().split())
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx", ".gguf", ".pkl", ".npz")
FONTS = (".ttf", ".otf", ".woff", ".woff2", ".ttc")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def tracked(*suffixes: str) -> list[Path]:
    """Files of the packages that git knows, or all of them where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0") if listed.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*")]
    return [Path(name) for name in names if name.endswith(suffixes)]


def bundled() -> dict[str, list[str]]:
    """The checkpoints that NOTICE names, by folder."""
    named = re.findall(r"(int_model/\S+/checkpoints) \(([^)]*)\)", NOTICE)
    return {folder: sorted(names.split(", ")) for folder, names in named}


def test_every_bundled_checkpoint_is_named_with_where_it_comes_from() -> None:
    found: dict[str, set[str]] = {}
    for path in tracked(*WEIGHTS):
        if path.parts[0] in ("int_model", "ml_backend"):
            found.setdefault(str(path.parent.parent), set()).add(path.parent.name)
    assert {folder: sorted(names) for folder, names in found.items()} == bundled()
    for said in ("trained from random initial weights", "No other weights, images or data sets", "docs/nano.md"):
        assert said in NOTICE
    told = (ROOT / "docs/nano.md").read_text()
    assert all(word in told for word in ("point generator", "--kit habits", "detector", "segmenter", "VLM", "CLIP"))


def test_no_font_is_bundled_and_the_one_that_pictures_show_is_named() -> None:
    assert tracked(*FONTS) == []
    assert "Noto Color Emoji" in NOTICE
    assert "SIL Open Font License, Version 1.1 (https://openfontlicense.org)" in NOTICE


def test_every_bundled_picture_lies_where_a_notice_speaks_of_it() -> None:
    pictures = [path for path in tracked(*PICTURES) if path.parts[0] in ("int_model", "ml_backend")]
    assert pictures
    assert {str(path) if path.name == "glyphs.png" else str(path.parent) for path in pictures} == {
        "int_model/nano/glyphs.png",
        "int_model/nano/samples",
    }
    assert "int_model/nano/glyphs.png and the samples in int_model/nano/samples" in NOTICE


def test_the_notices_go_into_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license-files"] == ["LICENSE", "NOTICE"]
