"""Additions to a labeling config: a mask control, label colours, smart tools. Nothing is ever removed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError, SubElement, TreeBuilder, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ml_backend.labelstudio.label_config import ConfigError, parse_label_config

ControlKind = Literal["polygon", "brush", "bitmask", "rectangle"]
CONTROLS: dict[ControlKind, str] = {
    "polygon": "PolygonLabels",
    "brush": "BrushLabels",
    "bitmask": "BitmaskLabels",
    "rectangle": "RectangleLabels",
}
COLOURS = ("#ff00ff", "#00ff40", "#ffff00", "#00ffff", "#ff9500", "#5e5ce6", "#ff0080", "#0040ff")
"""Label colours, those that images hold least first: no animal, tissue, skin or grey slice is magenta.

They differ from one another, and each from what surrounds the objects of the bundled scenes (the tests measure it).
"""

SMART = (("KeyPointLabels", "click", "Click"), ("RectangleLabels", "box", "Box"))
"""The prompt tools of Label Studio that send a click or a box: tag, the name it gets, and its heading."""

_ROW = "display: flex; flex-wrap: wrap; align-items: center; gap: 4px 24px"
_GROUP = "display: flex; align-items: center; gap: 8px"


class AmendError(ValueError):
    """The labeling config cannot be added to; the message says what to change by hand."""


def amended(text: str, *, control: ControlKind | None, label: str, field: str, smart: bool) -> tuple[str, list[str]]:
    """A labeling config that this backend can fill, with colours and, on request, smart tools.

    Args:
        text: the project's labeling config; may be empty.
        control: the kind of mask control to add where the config has none; None for a polygon.
        label: the label of an added control.
        field: the tasks' field with the image, for an added ``<Image>``.
        smart: whether clicks and boxes are wanted.

    Returns:
        The config, the same text if nothing is missing, and one sentence for each addition.

    Raises:
        AmendError: it is not XML, has another mask control than the one asked for, or is React code of its own.
    """
    root = _parsed(text)
    said: list[str] = []
    _ensure_control(root, text, control, label, field, said)
    _ensure_colours(root, said)
    if smart:
        _ensure_smart_tools(root, said)
    if not said:
        return text, []
    new = tostring(root, encoding="unicode")
    try:
        parse_label_config(new)
    except ConfigError as error:
        raise AmendError(str(error)) from None
    return new, said


def _parsed(text: str) -> Element:
    if not text.strip():
        return Element("View")
    parser = DefusedXMLParser(target=TreeBuilder(insert_comments=True, insert_pis=True), forbid_dtd=True)
    try:
        parser.feed(text)
        root: Element = parser.close()
    except (ParseError, DefusedXmlException, ValueError) as error:
        reason = f"the labeling config is no XML that can be added to ({error}); correct it in Settings > Labeling"
        raise AmendError(f"{reason} Interface") from None
    return root


def _ensure_control(
    root: Element, text: str, control: ControlKind | None, label: str, field: str, said: list[str]
) -> None:
    """Add ``<Image>`` and a mask control where the config has nothing to fill."""
    have = _geometries(text)
    if have:
        if control is not None and control not in have:
            tag = CONTROLS[control]
            raise AmendError(
                f"the labeling config has a {' and a '.join(sorted(have))} control already; to change to {tag}, edit "
                "Settings > Labeling Interface, then connect again"
            )
        return
    images = [element for element in root.iter() if _tag(element) == "image"]
    if not images and any(_tag(element) == "reactcode" for element in root.iter()):
        raise AmendError(
            "the project has an interface of its own (<ReactCode>), whose regions no prediction can fill; connect a "
            "project with an <Image>, or add one to this under Settings > Labeling Interface"
        )
    if not images:
        image = SubElement(root, "Image", {"name": _free(root, "image"), "value": f"${field}", "zoom": "true"})
        said.append(f"<Image> for the tasks' field '{field}'")
        images = [image]
    kind: ControlKind = control or "polygon"
    target = images[0].get("name") or ""
    added = Element(CONTROLS[kind], {"name": _free(root, "mask"), "toName": target})
    _put_above(root, target, added)
    SubElement(added, "Label", {"value": label, "background": COLOURS[0]})
    said.append(f"<{CONTROLS[kind]}> with the label '{label}'")


def _geometries(text: str) -> set[str]:
    """The kinds of controls that are filled now; none where the config cannot be used."""
    try:
        config = parse_label_config(text)
    except ConfigError:
        return set()
    return {target.control.geometry for image in config.images for target in config.targets(image)}


def _ensure_colours(root: Element, said: list[str]) -> None:
    """Give every label of a mask control without a colour one that its neighbours do not have."""
    tags = {tag.lower() for tag in CONTROLS.values()} | {"labels"}
    coloured: list[str] = []
    for parent in root.iter():
        if _tag(parent) not in tags or _is_smart(parent):
            continue
        labels = [child for child in parent.iter() if _tag(child) == "label" and child.get("value")]
        used = {str(child.get("background")).lower() for child in labels if child.get("background")}
        free = itertools.chain([c for c in COLOURS if c not in used], itertools.cycle(COLOURS))
        for child in labels:
            if not child.get("background"):
                child.set("background", next(free))
                coloured.append(str(child.get("value")))
    if coloured:
        said.append(f"colours that stand out for {_named(coloured)}")


def _ensure_smart_tools(root: Element, said: list[str]) -> None:
    """Add a click and a box tool for every image whose labels have none: a row above the image, with headings."""
    text = tostring(root, encoding="unicode")
    config = parse_label_config(text)
    for image in config.images:
        if any(_is_smart(element) and image in _targets(element) for element in root.iter()):
            continue
        labels = list(dict.fromkeys(t.label for t in config.targets(image) if t.label is not None))
        if not labels:
            continue
        colours = _colours(root)
        row = Element("View", {"style": _ROW})
        for tag, name, heading in SMART:
            shared = {"toName": image, "smart": "true", "smartOnly": "true"}
            group = SubElement(row, "View", {"style": _GROUP})
            SubElement(group, "Header", {"value": heading, "size": "6", "style": "margin: 0"})
            tool = SubElement(group, tag, {"name": _free(root, name), **shared})
            for label in labels:
                given = {"value": label.value, "alias": label.alias, "background": colours.get(label.value, "")}
                SubElement(tool, "Label", {key: value for key, value in given.items() if value})
        _put_above(root, image, row)
        said.append(f"smart tools (a click, a box) on '{image}'")


def _put_above(root: Element, image: str, added: Element) -> None:
    """Put a tag above the image, where its labels are in sight however tall the image is."""
    holds = (n for n, top in enumerate(root) if any(_tag(e) == "image" and e.get("name") == image for e in top.iter()))
    root.insert(next(holds, len(root)), added)


def _colours(root: Element) -> dict[str, str]:
    labels = (element for element in root.iter() if _tag(element) == "label")
    return {str(e.get("value")): str(e.get("background")) for e in labels if e.get("value") and e.get("background")}


def _free(root: Element, wanted: str) -> str:
    """A name that no tag has."""
    taken = {element.get("name") for element in root.iter()}
    return next(name for name in _numbered(wanted) if name not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}{number}" for number in itertools.count(2))


def _targets(element: Element) -> list[str]:
    return [name.strip() for name in str(element.get("toName") or "").split(",")]


def _is_smart(element: Element) -> bool:
    tag = element.tag
    return isinstance(tag, str) and "true" in (_lower(element, "smart"), _lower(element, "smartOnly"))


def _lower(element: Element, name: str) -> str:
    return str(element.get(name, "")).lower()


def _tag(element: Element) -> str:
    tag: Any = element.tag
    return tag.lower() if isinstance(tag, str) else ""


def _named(names: Iterable[str]) -> str:
    listed = [f"'{name}'" for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
