from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.labelstudio.label_config import ConfigError, LabelingConfig, parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions, options_for

IMAGE = '<Image name="image" value="$image"/>'
CATS = '<Label value="Cat"/><Label value="Dog"/>'


def view(body: str) -> str:
    return f"<View>{body}</View>"


def filled(config: LabelingConfig, image: str = "image") -> list[tuple[str, str | None]]:
    return [(t.control.name, t.label.value if t.label else None) for t in config.targets(image)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f'<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>', [("p", "Cat"), ("p", "Dog")]),
        (f'<polygonlabels name="p" toname="image">{CATS}</polygonlabels>', [("p", "Cat"), ("p", "Dog")]),
        (f'<BrushLabels name="b" toName="image">{CATS}</BrushLabels>', [("b", "Cat"), ("b", "Dog")]),
        (f'<BitmaskLabels name="m" toName="image">{CATS}</BitmaskLabels>', [("m", "Cat"), ("m", "Dog")]),
        (f'<RectangleLabels name="r" toName="image">{CATS}</RectangleLabels>', [("r", "Cat"), ("r", "Dog")]),
        # priority: polygon, bitmask, brush, rectangle
        (
            (
                f'<RectangleLabels name="r" toName="image">{CATS}</RectangleLabels>'
                f'<BrushLabels name="b" toName="image">{CATS}</BrushLabels>'
                f'<BitmaskLabels name="m" toName="image">{CATS}</BitmaskLabels>'
                f'<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>'
            ),
            [("p", "Cat"), ("p", "Dog")],
        ),
        (
            (
                f'<BrushLabels name="b" toName="image">{CATS}</BrushLabels>'
                f'<BitmaskLabels name="m" toName="image">{CATS}</BitmaskLabels>'
            ),
            [("m", "Cat"), ("m", "Dog")],
        ),
        # a label that only the lower one offers is filled there
        (
            (
                '<PolygonLabels name="p" toName="image"><Label value="Cat"/></PolygonLabels>'
                f'<BrushLabels name="b" toName="image">{CATS}</BrushLabels>'
            ),
            [("p", "Cat"), ("b", "Dog")],
        ),
        # model_skip
        (
            (
                f'<PolygonLabels name="p" toName="image" model_skip="true">{CATS}</PolygonLabels>'
                f'<BrushLabels name="b" toName="image">{CATS}</BrushLabels>'
            ),
            [("b", "Cat"), ("b", "Dog")],
        ),
        (
            (
                '<PolygonLabels name="p" toName="image"><Label value="Cat"/></PolygonLabels>'
                '<BrushLabels name="b" toName="image" model_skip="false"><Label value="Cat"/></BrushLabels>'
            ),
            [("p", "Cat"), ("b", "Cat")],
        ),
        (
            (
                '<PolygonLabels name="p" toName="image"><Label value="Cat"/><Label value="Bg" model_skip="true"/>'
                "</PolygonLabels>"
            ),
            [("p", "Cat")],
        ),
        # split tags, and a bare geometry
        (
            f'<Labels name="l" toName="image">{CATS}</Labels><Brush name="b" toName="image"/>',
            [("b", "Cat"), ("b", "Dog")],
        ),
        ('<Polygon name="p" toName="image" model_prompt="cat"/>', [("p", None)]),
        # labels deeper down; other tags in between
        (
            (
                f'<PolygonLabels name="p" toName="image"><View><Header value="x"/>{CATS}</View></PolygonLabels>'
                '<Choices name="c" toName="image"><Choice value="a"/></Choices><!-- a comment -->'
            ),
            [("p", "Cat"), ("p", "Dog")],
        ),
        (f'<PolygonLabels name="p" toName="x, image">{CATS}</PolygonLabels>', [("p", "Cat"), ("p", "Dog")]),
    ],
)
def test_what_is_filled(body: str, expected: list[tuple[str, str | None]]) -> None:
    assert filled(parse_label_config(view(IMAGE + body))) == expected


@pytest.mark.parametrize(
    ("attributes", "labels", "expected"),
    [
        ("", CATS, {"Cat": True, "Dog": True}),
        ('model_skip="false"', CATS, {"Cat": True, "Dog": True}),
        ('model_skip="true"', CATS, {"Cat": False, "Dog": False}),
        ("", '<Label value="Dog"/>', {"Cat": False, "Dog": True}),
    ],
)
def test_parts_with_holes_go_to_a_brush_that_offers_their_label(
    attributes: str, labels: str, expected: dict[str, bool]
) -> None:
    polygons = f'<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>'
    brush = f'<BrushLabels name="b" toName="image" {attributes}>{labels}</BrushLabels>'
    config = parse_label_config(view(IMAGE + polygons + brush))
    found = {t.label.value: config.brush_for(t) for t in config.targets("image") if t.label and t.control.name == "p"}
    assert {label: one is not None and one.name == "b" for label, one in found.items()} == expected


def test_several_images_have_their_own_controls() -> None:
    config = parse_label_config(
        view(
            '<Image name="a" value="$left"/><Image name="b" value="$right"/>'
            f'<PolygonLabels name="p" toName="a">{CATS}</PolygonLabels>'
            '<BrushLabels name="q" toName="b"><Label value="Cat"/></BrushLabels>'
        )
    )
    assert filled(config, "a") == [("p", "Cat"), ("p", "Dog")]
    assert filled(config, "b") == [("q", "Cat")]


def test_attributes_of_labels() -> None:
    config = parse_label_config(
        view(
            f'{IMAGE}<PolygonLabels name="p" toName="image" model_prompt="all" model_prompt_field="$q">'
            '<Label value="Cat" alias="c" hint="a hint" predicted_values="tabby, lion ,"/>'
            '<Label value="Dog" hint="h" model_prompt="m"/></PolygonLabels>'
        )
    )
    cat, dog = config.controls[0].labels
    assert (cat.prompt, cat.output, cat.predicted_values) == ("a hint", "c", ("tabby", "lion"))
    assert [cat.means(n) for n in ("CAT", "c", "Lion", "dog")] == [True, True, True, False]
    assert (dog.prompt, dog.output) == ("m", "Dog")
    assert (config.controls[0].prompt, config.controls[0].prompt_field) == ("all", "q")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "it is empty"),
        ("  ", "it is empty"),
        ("<View>", "not valid XML"),
        ("plain", "not valid XML"),
        ("<View/>", "no tag with a name"),
        (view(IMAGE), "<Image name='image'>"),
        (view(f'<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>'), "names no image (images: none)"),
        (view(f'{IMAGE}<PolygonLabels name="p" toName="img">{CATS}</PolygonLabels>'), "(images: image)"),
        (view(f'{IMAGE}<PolygonLabels name="p" toName="image"/>'), "has no <Label"),
        (view(f'{IMAGE}<PolygonLabels name="p" toName="image" value="$labels"/>'), "labels from tasks are not read"),
        (view(f'{IMAGE}<Choices name="c" toName="image"/>'), "Choices"),
        (view(f'{IMAGE}<KeyPointLabels name="k" toName="image">{CATS}</KeyPointLabels>'), "KeyPointLabels"),
        (
            view(f'{IMAGE}<PolygonLabels name="p" toName="image" model_skip="1">{CATS}</PolygonLabels>'),
            "cannot be pre-annotated",
        ),
        ("<a>" * 2000 + "</a>" * 2000, "no tag with a name"),
        ("x" * 1_000_001, "limit is 1000000"),
        ("<View>\ud800</View>", "not valid XML"),
        ("<View>\x00</View>", "not valid XML"),
    ],
)
def test_configs_that_cannot_work_say_why(text: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_label_config(text)
    assert words in str(caught.value)


def test_the_message_has_a_line_that_works_when_pasted() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_label_config("<View/>")
    line = str(caught.value).partition("Paste for example: ")[2]
    assert filled(parse_label_config(line)) == [("label", "Animal")]


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "text",
    [
        f'<!DOCTYPE v [<!ENTITY l0 "lol">{LAUGHS}]><View>&l9;</View>',
        '<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]><View>&x;</View>',
        '<!DOCTYPE v SYSTEM "http://127.0.0.1/evil.dtd"><View/>',
        "<!DOCTYPE v [<!ENTITY % p SYSTEM 'http://127.0.0.1/'> %p;]><View/>",
    ],
)
def test_entities_and_dtds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        parse_label_config(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80) | st.from_regex(r"<View>(<[A-Za-z]{1,9} [a-z]=\"[^\"<&]*\"/>){0,4}</View>", fullmatch=True))
def test_any_text_parses_or_says_why(text: str) -> None:
    try:
        config = parse_label_config(text)
    except ConfigError as error:
        message = str(error)
    else:
        message = "fine" if config.controls else ""
    assert message


@pytest.mark.parametrize(
    ("value", "data", "expected"),
    [
        ("$image", {"image": " /a.png "}, ["/a.png"]),
        ("$a.b", {"a": {"b": "/x"}}, ["/x"]),
        ("$a.b", {"a.b": "/x"}, ["/x"]),
        ("$list[1]", {"list": ["/0", "/1"]}, ["/1"]),
        ("$list[1].url", {"list": [{"url": "/0"}, {"url": "/1"}]}, ["/1"]),
        ("https://host/$name", {"name": "a.png"}, ["https://host/a.png"]),
        ("https://host/fixed.png", {}, ["https://host/fixed.png"]),
        ("$image", {"image": {"url": "/u"}}, ["/u"]),
        ("$image", {"image": ["/only"]}, ["/only"]),
    ],
)
def test_image_addresses(value: str, data: dict[str, Any], expected: list[str]) -> None:
    config = parse_label_config(
        view(f'<Image name="i" value="{value}"/><PolygonLabels name="p" toName="i">{CATS}</PolygonLabels>')
    )
    assert config.images["i"].addresses(data) == expected


@pytest.mark.parametrize(
    "data", [{}, {"image": None}, {"image": ""}, {"image": 3}, {"image": ["/a", "/b"]}, {"image": []}]
)
def test_tasks_without_an_image_say_which_fields_they_have(data: dict[str, Any]) -> None:
    config = parse_label_config(view(f'{IMAGE}<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>'))
    with pytest.raises(ConfigError, match=r"\$image"):
        config.images["image"].addresses(data)


def test_lists_of_images() -> None:
    config = parse_label_config(
        view(f'<Image name="i" valueList="$pages"/><PolygonLabels name="p" toName="i">{CATS}</PolygonLabels>')
    )
    assert config.images["i"].addresses({"pages": ["/a", {"url": "/b"}]}) == ["/a", "/b"]
    assert config.images["i"].addresses({"pages": ["/a", None, {"url": 3}]}) == ["/a", "", ""]
    with pytest.raises(ConfigError, match=r"\$pages"):
        config.images["i"].addresses({"pages": [None, ""]})


def test_the_digest_changes_with_what_matters_only() -> None:
    base = view(f'{IMAGE}<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>')
    same = [
        base.replace("<View>", '<View style="x"><Style>.a {{}}</Style>'),
        base.replace('value="Cat"', 'value="Cat" background="red"'),
        base.replace('value="Cat"', 'value="Cat" hint="prompts are versioned by what they come to"'),
        base.replace("><", ">\n  <"),
    ]
    other = [
        base.replace("Cat", "Lion"),
        base.replace('name="p"', 'name="q"'),
        base.replace("$image", "$photo"),
        base.replace('toName="image"', 'toName="image" model_holes="drop"'),
        base.replace("PolygonLabels", "BrushLabels"),
    ]
    digest = parse_label_config(base).digest
    assert {parse_label_config(text).digest for text in same} == {digest}
    assert digest not in {parse_label_config(text).digest for text in other}


@pytest.mark.parametrize(
    ("attributes", "extra", "expected", "warned"),
    [
        ("", {}, {}, 0),
        ('model_epsilon="2.5" model_holes="Drop"', {}, {"epsilon": 2.5, "holes": "drop"}, 0),
        ('model_min_area="4"', {"min_area": 9, "epsilon": 3}, {"min_area": 4, "epsilon": 3.0}, 0),
        ("", {"model_score_threshold": "0.4"}, {"score_threshold": 0.4}, 0),
        ('model_epsilon="lots"', {"score_threshold": 7, "holes": ["x"]}, {}, 3),
        ('model_max_points="2"', {}, {}, 1),
        ('model_epsilon="nan"', {}, {}, 1),
        ('model_epsilon=""', {"epsilon": None}, {}, 0),
        ('model_strategy=" Grounded_SAM "', {"strategy": "vlm_box"}, {"strategy": "grounded_sam"}, 0),
        ("", {"strategy": "vlm_box"}, {"strategy": "vlm_box"}, 0),
        ('model_strategy="inter"', {}, {}, 1),
    ],
)
def test_output_options(attributes: str, extra: dict[str, Any], expected: dict[str, Any], warned: int) -> None:
    text = view(f'{IMAGE}<PolygonLabels name="p" toName="image" {attributes}>{CATS}</PolygonLabels>')
    chosen = options_for(parse_label_config(text).controls[0], extra, OutputOptions())
    assert chosen.options == OutputOptions(**expected)
    assert len(chosen.warnings) == warned


def test_an_unknown_strategy_names_the_choices() -> None:
    text = view(f'{IMAGE}<PolygonLabels name="p" toName="image" model_strategy="inter">{CATS}</PolygonLabels>')
    (warning,) = options_for(parse_label_config(text).controls[0], {}, OutputOptions()).warnings
    assert "strategy = 'inter' in <... name='p'> is ignored: there is no such strategy; choose one of: int," in warning


def test_tags_in_a_repeater_are_left_out_with_a_warning() -> None:
    inside = f'<Image name="p{{{{i}}}}" value="$pages[{{{{i}}}}]"/><PolygonLabels name="q" toName="p{{{{i}}}}">{CATS}'
    repeater = f'<Repeater on="$pages" indexFlag="{{{{i}}}}">{inside}</PolygonLabels></Repeater>'
    config = parse_label_config(view(f'{IMAGE}<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>{repeater}'))
    assert list(config.images) == ["image"]
    assert [control.name for control in config.controls] == ["p"]
    (warning,) = config.warnings
    assert warning.startswith("<Repeater> is not supported")
    with pytest.raises(ConfigError, match=r"<Repeater> is not supported.*valueList"):
        parse_label_config(view(repeater))


@pytest.mark.parametrize("value", ["image", "$my image", "photos/$image"])
def test_a_template_that_gives_no_address_is_blamed_itself(value: str) -> None:
    config = parse_label_config(
        view(f'<Image name="i" value="{value}"/><PolygonLabels name="p" toName="i">{CATS}</PolygonLabels>')
    )
    with pytest.raises(ConfigError, match=r"which is no address; write \$ before the name of a field"):
        config.images["i"].addresses({"image": "cat.png", "my image": "/a.png"})


@pytest.mark.parametrize("value", ["$base/$image", "https://example.com/$image", "/data/$image", "s3://b/$image"])
def test_templates_that_give_addresses_are_filled(value: str) -> None:
    config = parse_label_config(
        view(f'<Image name="i" value="{value}"/><PolygonLabels name="p" toName="i">{CATS}</PolygonLabels>')
    )
    (address,) = config.images["i"].addresses({"image": "cat.png", "base": "http://x"})
    assert address.endswith("/cat.png")
