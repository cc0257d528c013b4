"""What a labeling config asks for: images, the controls to fill, their labels, and ``model_*`` attributes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

Geometry = Literal["polygon", "bitmask", "brush", "vector", "ellipse", "rectangle"]

MAX_CONFIG_CHARS = 1_000_000
PRIORITY: tuple[Geometry, ...] = ("polygon", "bitmask", "brush", "vector", "ellipse", "rectangle")
"""Where several controls of an image offer the same label, the first of these is filled."""

_LABELLED: dict[str, Geometry] = {
    "polygonlabels": "polygon",
    "bitmasklabels": "bitmask",
    "brushlabels": "brush",
    "vectorlabels": "vector",
    "ellipselabels": "ellipse",
    "rectanglelabels": "rectangle",
}
_BARE: dict[str, Geometry] = {geometry: geometry for geometry in PRIORITY}
_VARIABLE = re.compile(r"\$[\w\[\].{}]+")
_STEP = re.compile(r"[^.\[\]]+")
_PASTE = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
    '<Label value="Animal" model_prompt="camouflaged animal"/></PolygonLabels></View>'
)


class ConfigError(ValueError):
    """The labeling config cannot work; the message lists what it has, what is needed, and a line to paste."""


_LIKE_ADDRESS = re.compile(r"\s*(/|[A-Za-z][A-Za-z0-9+.-]*:|$)")
_REPEATED = (
    "<Repeater> is not supported: what is in it gets no predictions. Show several images with "
    "<Image valueList='$images'> instead"
)


@dataclass(frozen=True, slots=True)
class Label:
    """One ``<Label>``.

    Attributes:
        value: its name.
        alias: what stands in results instead of the name, or "".
        prompt: ``model_prompt``, else ``hint``, else "".
        predicted_values: names that the model may mine and that mean this label.
    """

    value: str
    alias: str = ""
    prompt: str = ""
    predicted_values: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """The text that results carry."""
        return self.alias or self.value

    def means(self, name: str) -> bool:
        """Whether a mined name is one of this label's, ignoring case."""
        return name.casefold() in {text.casefold() for text in (self.value, self.alias, *self.predicted_values) if text}


@dataclass(frozen=True, slots=True)
class ImageObject:
    """One ``<Image>``: its name and the template of its address (``$image``, or ``valueList`` for many)."""

    name: str
    value: str
    is_list: bool = False

    def addresses(self, data: Mapping[str, Any]) -> list[str]:
        """The image addresses of a task; "" for a page of a ``valueList`` that has none, while others do.

        Raises:
            ConfigError: the task has no such field, or it holds no address.
        """
        found = _lookup(self.value, data)
        if isinstance(found, str) and not _VARIABLE.fullmatch(self.value.strip()) and not _LIKE_ADDRESS.match(found):
            raise ConfigError(
                f"<Image name='{self.name}' value='{self.value}'> gives '{found.strip()[:100]}', which is no address; "
                f"write $ before the name of a field, and no spaces in it (the task has the fields {_listed(data)})"
            )
        many = found if isinstance(found, list) else [found]
        addresses = [_address(item) for item in many]
        if not any(addresses) or (len(addresses) > 1 and not self.is_list):
            raise ConfigError(
                f"the task's data has no image for <Image name='{self.name}' value='{self.value}'>: it has the fields "
                f"{_listed(data)}; import tasks with that field, or change the value"
            )
        return addresses


@dataclass(frozen=True, slots=True)
class Control:
    """A control to fill.

    Attributes:
        name: its ``name``; region ``from_name``.
        to_name: the image it belongs to.
        geometry: the kind of regions it takes.
        labels: its labels; empty for a bare geometry without ``<Labels>``.
        labels_name: name of the ``<Labels>`` that a bare geometry is paired with, else None.
        attributes: its XML attributes, names in lower case.
        order: position in the config.
    """

    name: str
    to_name: str
    geometry: Geometry
    labels: tuple[Label, ...]
    labels_name: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    order: int = 0

    @property
    def region_type(self) -> str:
        """The ``type`` of the geometry's regions."""
        return f"{self.geometry}labels" if self.labels and self.labels_name is None else self.geometry

    @property
    def prompt(self) -> str:
        return self.attributes.get("model_prompt", "").strip()

    @property
    def prompt_field(self) -> str:
        return self.attributes.get("model_prompt_field", "").strip().removeprefix("$")

    @property
    def skip(self) -> bool | None:
        """``model_skip``: True never fill, False fill even if another control has the labels, None by priority."""
        text = self.attributes.get("model_skip", "").strip().lower()
        return None if not text else text in ("true", "1", "yes")


@dataclass(frozen=True, slots=True)
class Target:
    """A label of a control that is to be filled; ``label`` is None for a bare geometry without labels."""

    control: Control
    label: Label | None


@dataclass(frozen=True, slots=True)
class LabelingConfig:
    """A parsed config that can work: at least one target."""

    images: Mapping[str, ImageObject]
    controls: tuple[Control, ...]
    warnings: tuple[str, ...] = ()

    def targets(self, image: str) -> list[Target]:
        """What to fill on that image, in the order of the config, after priority and ``model_skip``."""
        own = [c for c in self.controls if c.to_name == image and c.skip is not True]
        own.sort(key=lambda c: (PRIORITY.index(c.geometry), c.order))
        taken: set[str | None] = set()
        chosen: list[tuple[int, int, Target]] = []
        for control in own:
            offered: tuple[Label | None, ...] = control.labels or (None,)
            for place, label in enumerate(offered):
                name = label.value if label else None
                if control.skip is False or (name not in taken and not (name is None and taken)):
                    chosen.append((control.order, place, Target(control, label)))
                taken.add(name)
        return [target for _, _, target in sorted(chosen, key=lambda entry: entry[:2])]

    def brush_for(self, target: Target) -> Control | None:
        """The control that can take the target's label as a brush region (for parts with holes), if there is one."""
        for control in self.controls:
            same_image = control.geometry == "brush" and control.to_name == target.control.to_name
            if same_image and control.skip is not True and (target.label in control.labels or _same(target, control)):
                return control
        return None

    @property
    def digest(self) -> str:
        """A hash of all that can change predictions but the prompts, which may come from elsewhere, too."""
        controls = []
        for c in self.controls:
            options = {name: text for name, text in _model_attributes(c.attributes).items() if "prompt" not in name}
            controls.append([c.name, c.to_name, c.geometry, c.labels_name, options, [_key(x) for x in c.labels]])
        images = [[i.name, i.value, i.is_list] for i in self.images.values()]
        return hashlib.sha256(json.dumps([images, controls], sort_keys=True).encode()).hexdigest()


def parse_label_config(text: str | None, max_labels: int | None = None) -> LabelingConfig:
    """Parse a labeling config. Entities and DTDs are refused; tag names count in any case, as in Label Studio.

    Args:
        text: the config.
        max_labels: most labels, and most controls; None for any number.

    Raises:
        ConfigError: not XML, too long, too many labels, or nothing in it that this backend could fill.
    """
    elements = _elements(text)
    if max_labels is not None:
        for what, tags in (("labels", ("label",)), ("controls", (*_LABELLED, *_BARE)), ("images", ("image",))):
            if (count := sum(_tag(element) in tags for element in elements)) > max_labels:
                raise ConfigError(f"the labeling config has {count} {what}; the most is INT_MAX_LABELS ({max_labels})")
    images = _images(elements)
    warnings = [_REPEATED] if any(_tag(element) == "repeater" for element in elements) else []
    controls = _controls(elements, images, warnings)
    config = LabelingConfig(images, controls, tuple(warnings))
    if not any(config.targets(name) for name in images):
        raise ConfigError(_cannot_work(f"it has {_inventory(elements)}", warnings))
    return config


def only_images(text: str | None) -> LabelingConfig:
    """The config's images, without controls: where the asker makes the regions. Raises ``ConfigError`` as above."""
    elements = _elements(text)
    images = _images(elements)
    if not images:
        raise ConfigError(_cannot_work(f"it has {_inventory(elements)}"))
    return LabelingConfig(images, ())


def _elements(text: str | None) -> list[Element]:
    if not text or not text.strip():
        raise ConfigError(_cannot_work("it is empty"))
    if len(text) > MAX_CONFIG_CHARS:
        raise ConfigError(f"the labeling config has {len(text)} characters; the limit is {MAX_CONFIG_CHARS}")
    try:
        root = fromstring(text, forbid_dtd=True)
    except DefusedXmlException:
        raise ConfigError(
            "the labeling config declares a DTD or entities, which are not allowed; remove them"
        ) from None
    except (ParseError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the labeling config is not valid XML ({error}); correct it in Settings > Labeling"
        ) from None
    return list(_outside_repeaters(root))


def _outside_repeaters(element: Element) -> Iterator[Element]:
    """An element and what is in it, but for the insides of ``<Repeater>``, which are patterns of tags."""
    waiting = [element]
    while waiting:
        yield (one := waiting.pop())
        if _tag(one) != "repeater":
            waiting += reversed(list(one))


def _images(elements: Iterable[Element]) -> dict[str, ImageObject]:
    return {image.name: image for image in map(_image, elements) if image is not None}


def _tag(element: Element) -> str:
    return element.tag.lower() if isinstance(element.tag, str) else ""


def _attributes(element: Element) -> dict[str, str]:
    return {key.lower(): value for key, value in element.attrib.items()}


def _image(element: Element) -> ImageObject | None:
    if _tag(element) != "image":
        return None
    attributes = _attributes(element)
    name, many = attributes.get("name", ""), attributes.get("valuelist", "")
    value = many or attributes.get("value", "")
    return ImageObject(name, value, bool(many)) if name and value else None


def _controls(elements: list[Element], images: Mapping[str, ImageObject], warnings: list[str]) -> tuple[Control, ...]:
    beside: dict[str, tuple[tuple[Label, ...], dict[str, str]]] = {}
    for element in elements:
        if _tag(element) == "labels":
            attributes = _attributes(element)
            found = (_labels(element), attributes)
            for target in re.split(r"\s*,\s*", attributes.get("toname", "").strip()):
                beside.setdefault(target, found)
    out = []
    for order, element in enumerate(elements):
        geometry = _LABELLED.get(_tag(element)) or _BARE.get(_tag(element))
        if geometry is None:
            continue
        attributes = _attributes(element)
        name, targets = attributes.get("name", ""), [t.strip() for t in attributes.get("toname", "").split(",")]
        to_name = next((target for target in targets if target in images), "")
        if not name or not to_name:
            have = ", ".join(images) or "none"
            warnings.append(
                f"<{element.tag} name='{name}' toName='{','.join(targets)}'> names no image (images: {have})"
            )
            continue
        labels, labels_name = _labels(element), None
        if _tag(element) in _BARE and to_name in beside:
            labels, theirs = beside[to_name]
            labels_name = theirs.get("name", "")
            attributes = _model_attributes(theirs) | attributes
        if not labels and (_tag(element) in _LABELLED or labels_name is not None):
            warnings.append(
                f"<{element.tag} name='{name}'> has no <Label value='...'> (labels from tasks are not read)"
            )
            continue
        out.append(Control(name, to_name, geometry, labels, labels_name, attributes, order))
    return tuple(out)


def _labels(element: Element) -> tuple[Label, ...]:
    labels = []
    for child in element.iter():
        attributes = _attributes(child)
        value = attributes.get("value", "")
        if _tag(child) != "label" or not value or value.startswith("$"):
            continue
        prompt = attributes.get("model_prompt", "").strip() or attributes.get("hint", "").strip()
        predicted = tuple(v.strip() for v in attributes.get("predicted_values", "").split(",") if v.strip())
        if attributes.get("model_skip", "").strip().lower() not in ("true", "1", "yes"):
            labels.append(Label(value, attributes.get("alias", ""), prompt, predicted))
    return tuple(labels)


def _same(target: Target, control: Control) -> bool:
    if target.label is None:
        return not control.labels
    return any(label.output == target.label.output for label in control.labels)


def _model_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in attributes.items() if key.startswith("model_")}


def _key(label: Label) -> list[Any]:
    return [label.value, label.alias, list(label.predicted_values)]


def _lookup(template: str, data: Mapping[str, Any]) -> Any:
    """A template's value, as Label Studio reads it: a whole variable keeps its type, others are put into the text."""
    whole = _VARIABLE.fullmatch(template.strip())
    if whole:
        return _get(whole.group()[1:], data)
    return _VARIABLE.sub(lambda match: str(_get(match.group()[1:], data) or ""), template)


def _get(path: str, data: Mapping[str, Any]) -> Any:
    if path in data:
        return data[path]
    value: Any = data
    for step in _STEP.findall(path):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _address(item: Any) -> str:
    if isinstance(item, Mapping):
        item = item.get("url") or item.get("image")
    return item.strip() if isinstance(item, str) else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _inventory(elements: list[Element]) -> str:
    named = [f"<{e.tag} name='{e.get('name')}'>" for e in elements if isinstance(e.tag, str) and e.get("name")]
    return ", ".join(named[:20]) or "no tag with a name"


def _cannot_work(has: str, warnings: Iterable[str] = ()) -> str:
    problems = "".join(f"; {warning}" for warning in warnings)
    return (
        f"this labeling config cannot be pre-annotated: {has}{problems}. Needed: an <Image> and, with its name as "
        "toName, PolygonLabels, BitmaskLabels, BrushLabels, VectorLabels, EllipseLabels or RectangleLabels (or "
        "<Labels> beside Polygon, Bitmask, Brush, Vector, Ellipse or Rectangle) with at least one "
        f"<Label value='...'>. Paste for example: {_PASTE}"
    )
