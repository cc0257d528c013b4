"""axe-core in a page: its violations in words, at the widths and in the colours that people have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from playwright.sync_api import Page

Way = tuple[int, Literal["light", "dark"]]
"""A width in pixels and a colour scheme."""

ALL: tuple[Way, ...] = ((1280, "light"), (1280, "dark"), (320, "light"), (320, "dark"))
_OF_COLOURS = ("color-contrast", "link-in-text-block")
_PROGRAM = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
_RUN = """async (colours) => {
  document.querySelectorAll("details").forEach((item) => { item.open = true; });
  // the size of targets is WCAG 2.2 AA, and off by default
  const options = {resultTypes: ["violations"], rules: {"target-size": {enabled: true}}};
  if (colours.length) options.runOnly = colours;
  return (await axe.run(document, options)).violations.map((rule) => [rule.id, rule.help,
    rule.nodes.map((node) => `${node.target.join(" ")}: ${node.failureSummary}`)]);
}"""


@dataclass(frozen=True)
class Violation:
    """A rule that a page breaks at one width in one colour scheme, and where."""

    page: str
    width: int
    scheme: str
    rule: str
    help: str
    at: tuple[str, ...]


def version() -> str:
    """Of axe-core itself."""
    return _PROGRAM.split("axe v", 1)[1].split("\n", 1)[0].strip()


def violations(page: Page, addresses: Mapping[str, str], ways: Sequence[Way] = ALL) -> Iterator[Violation]:
    """What axe-core finds on pages, by name and address, each in every way.

    All rules that axe-core has switched on, best practices included, and the size of targets; where only the colours
    are others, the rules of colours.
    """
    page.add_init_script(_PROGRAM)  # past the page's own policy, which forbids foreign scripts
    for name, address in addresses.items():
        page.goto(address)
        for width, scheme in ways:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            rules = _OF_COLOURS if scheme == "dark" and (width, "light") in ways else ()
            for rule, text, at in page.evaluate(_RUN, rules):
                yield Violation(name, width, scheme, rule, text, tuple(at))
