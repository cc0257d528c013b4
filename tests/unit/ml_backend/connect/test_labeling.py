"""What is added to a labeling config: enough to be filled, never less than was there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ml_backend.connect.labeling import COLOURS, CONTROLS, AmendError, ControlKind, amended
from ml_backend.demo.samples import load_samples, samples_folder
from ml_backend.labelstudio.label_config import parse_label_config

IMAGE = '<Image name="picture" value="$photo"/>'
FULL = (
    '<View><!-- ours --><Style>.a > .b {color: red}</Style><Header value="Find it"/>'
    + IMAGE
    + '<PolygonLabels name="shape" '
    'toName="picture"><Label value="Frog"/><Label value="Fish" background="#00ff00" alias="f"/></PolygonLabels>'
    '<Choices name="ok" toName="picture"><Choice value="good"/></Choices></View>'
)


def add(text: str, *, control: ControlKind | None = None, smart: bool = False) -> tuple[str, list[str]]:
    return amended(text, control=control, label="Polyp", field="scan", smart=smart)


@pytest.mark.parametrize("text", ["", "<View></View>", '<View><Text name="t" value="$t"/></View>'])
@pytest.mark.parametrize("control", list(CONTROLS))
def test_a_config_without_image_gets_image_control_label_and_colour(text: str, control: ControlKind) -> None:
    new, said = add(text, control=control)
    config = parse_label_config(new)
    (image,) = config.images.values()
    assert image.value == "$scan"
    (target,) = config.targets(image.name)
    assert target.control.geometry == control
    assert target.label is not None
    assert target.label.value == "Polyp"
    assert COLOURS[0] in new
    assert len(said) == 2


def test_an_image_that_is_there_is_used() -> None:
    new, _ = add(f"<View>{IMAGE}</View>")
    config = parse_label_config(new)
    assert list(config.images) == ["picture"]
    assert config.targets("picture")[0].control.geometry == "polygon"


def test_nothing_that_was_there_is_lost() -> None:
    new, said = add(FULL, smart=True)
    before, after = fromstring(FULL), fromstring(new)
    assert "<!-- ours -->" in new
    assert after[: len(before)][0].text == before[0].text
    kept = iter(after.iter())  # all that was there is still there, in its order
    for old in before.iter():
        same = (new for new in kept if new.tag == old.tag and old.attrib.items() <= new.attrib.items())
        assert next(same, None) is not None, old.attrib
    labels = [label.attrib for label in after.iter("Label")][:2]
    assert labels[0]["value"] == "Frog"
    assert labels[0]["background"] in COLOURS
    assert labels[1] == {"value": "Fish", "background": "#00ff00", "alias": "f"}
    assert len(said) == 2


def test_smart_tools_offer_the_same_labels_in_the_same_colours_and_change_no_target() -> None:
    new, _ = add(FULL, smart=True)
    tools = [e for e in fromstring(new).iter() if e.get("smart") == "true"]
    assert [tool.tag for tool in tools] == ["KeyPointLabels", "RectangleLabels"]
    colours = {label.get("value"): label.get("background") for label in fromstring(new).iter("Label")}
    for tool in tools:
        assert tool.get("smartOnly") == "true"
        assert [(e.get("value"), e.get("background")) for e in tool] == list(colours.items())
    assert {t.control.name for t in parse_label_config(new).targets("picture")} == {"shape"}


@pytest.mark.parametrize("text", ["", FULL, f"<View><View>{IMAGE}</View></View>"])
def test_tools_stand_above_the_image_with_a_heading_each(text: str) -> None:
    new, _ = add(text, smart=True)
    tags = [element.tag for element in fromstring(new).iter()]
    assert tags.index("KeyPointLabels") < tags.index("RectangleLabels") < tags.index("Image")
    for tool, heading in (("KeyPointLabels", "Click"), ("RectangleLabels", "Box")):
        above = list(fromstring(new).iter())[tags.index(tool) - 1]
        assert (above.tag, above.get("value")) == ("Header", heading)
    if text != FULL:  # the added control goes first, so that its labels keep the first keys
        assert tags.index("PolygonLabels") < tags.index("KeyPointLabels")


@pytest.mark.parametrize("smart", [False, True])
@pytest.mark.parametrize("text", ["", FULL])
def test_adding_twice_changes_nothing(text: str, smart: bool) -> None:
    once, _ = add(text, smart=smart)
    assert add(once, smart=smart) == (once, [])


def test_names_that_are_taken_are_not_used_again() -> None:
    taken = '<View><Text name="image" value="$a"/><Text name="mask" value="$b"/></View>'
    new, _ = add(taken)
    names = [e.get("name") for e in fromstring(new).iter() if e.get("name")]
    assert len(set(names)) == len(names) == 4


def test_another_control_than_the_one_that_is_there_is_refused() -> None:
    with pytest.raises(AmendError, match=r"polygon control already.*Labeling Interface"):
        add(FULL, control="brush")


@pytest.mark.parametrize("text", ["<View>", "no xml", '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>'])
def test_what_is_no_xml_is_refused(text: str) -> None:
    with pytest.raises(AmendError, match="Labeling Interface"):
        add(text)


@given(count=st.integers(1, 30), given_=st.sets(st.sampled_from(COLOURS), max_size=4))
def test_labels_get_different_colours_as_long_as_there_are_any(count: int, given_: set[str]) -> None:
    own = "".join(f'<Label value="g{i}" background="{colour}"/>' for i, colour in enumerate(sorted(given_)))
    bare = "".join(f'<Label value="b{i}"/>' for i in range(count))
    text = f'<View>{IMAGE}<BrushLabels name="m" toName="picture">{own}{bare}</BrushLabels></View>'
    new, _ = add(text)
    colours = [label.get("background") for label in fromstring(new).iter("Label")]
    assert None not in colours
    assert len(set(colours)) == min(len(COLOURS), len(colours))


def lab(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIELAB of ``uint8 [N, 3]``: distances are as people see them; about 2 can just be told apart."""
    found = cv2.cvtColor(colours.reshape(-1, 1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2Lab).reshape(-1, 3)
    return np.asarray(found, dtype=np.float32)


def test_colours_stand_out_from_the_outlines_of_all_samples_and_from_one_another() -> None:
    ours = lab(np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS], dtype=np.uint8))
    least = np.full(len(COLOURS), np.inf)
    for sample in load_samples(samples_folder()):
        image = np.asarray(Image.open(sample.image).convert("RGB"))
        mask = (np.asarray(Image.open(sample.mask).convert("L")) > 127).astype(np.uint8)
        band = cv2.dilate(mask, np.ones((9, 9))) > cv2.erode(mask, np.ones((9, 9)))
        distances = np.linalg.norm(lab(image[band])[:, None] - ours, axis=2)
        least = np.minimum(least, np.percentile(distances, 5, axis=0))
    assert least[0] > 75
    assert least.min() > 30
    between = np.linalg.norm(ours[:, None] - ours, axis=2)
    assert between[~np.eye(len(COLOURS), dtype=bool)].min() > 30


def test_an_interface_of_a_projects_own_is_left_alone_unless_it_has_an_image() -> None:
    own = '<ReactCode name="own" toName="own" data="$image"><![CDATA[() => null]]></ReactCode>'
    with pytest.raises(AmendError, match=r"interface of its own \(<ReactCode>\)"):
        add(f"<View>{own}</View>")
    text, said = add(f'<View>{own}<Image name="image" value="$image"/></View>')
    assert "<ReactCode" in text
    assert any(one.startswith("<PolygonLabels>") for one in said)
