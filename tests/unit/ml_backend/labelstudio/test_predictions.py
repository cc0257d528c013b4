from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from int_model.core.types import Instance, Segmentation, Trace
from int_model.runner.results import StoredObject, StoredResult
from ml_backend.labelstudio.label_config import LabelingConfig, parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions, options_for
from ml_backend.labelstudio.predictions import ImageRegions, clicked_regions, image_regions
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.task_prompt import group_by_prompt, parse_extra_params
from ml_backend.labelstudio.validation import only_valid, problem
from ml_backend.labelstudio.wire import PredictionOut, RegionOut, with_fresh_ids

SIZE = (40, 50)


def config_of(body: str) -> LabelingConfig:
    return parse_label_config(f'<View><Image name="i" value="$image"/>{body}</View>')


TWO = config_of('<PolygonLabels name="p" toName="i"><Label value="Cat"/><Label value="Dog"/></PolygonLabels>')


def box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def found(*objects: tuple[np.ndarray, str, float], score: float = 0.9, **more: Any) -> StoredResult:
    kept = tuple(StoredObject.of(*entry) for entry in objects)
    return StoredResult(SIZE, kept, score, more.get("name", ""), more.get("contrast"), "" if kept else "none")


def drawn(config: LabelingConfig, *results: StoredResult, extra: Any = None, most: int = 100) -> ImageRegions:
    groups = group_by_prompt(config.targets("i"), parse_extra_params(extra), "", {})
    options = {c.name: options_for(c, {}, OutputOptions()).options for c in config.controls}
    return image_regions(config, list(zip(groups, results, strict=True)), options, max_regions=most)


def masks(result: ImageRegions) -> dict[str, np.ndarray]:
    return {r.value["polygonlabels"][0]: decode_region(r.model_dump()) for r in result.regions}


def test_overlaps_of_different_prompts_go_to_the_higher_score() -> None:
    result = drawn(TWO, found((box(5, 5, 30, 30), "cat", 0.6)), found((box(20, 5, 45, 30), "dog", 0.8)))
    shown = masks(result)
    np.testing.assert_array_equal(shown["Dog"], box(20, 5, 45, 30))
    np.testing.assert_array_equal(shown["Cat"], box(5, 5, 20, 30))
    assert not (shown["Cat"] & shown["Dog"]).any()


def test_what_is_hidden_all_but_entirely_goes() -> None:
    result = drawn(TWO, found((box(5, 5, 20, 20), "cat", 0.5)), found((box(4, 4, 40, 36), "dog", 0.8), score=0.7))
    assert list(masks(result)) == ["Dog"]
    assert result.score == pytest.approx(0.7)


def test_overlaps_of_one_prompts_objects_go_to_the_higher_score_too() -> None:
    """Else the outline of one object is a notch inside the other."""
    config = config_of('<PolygonLabels name="p" toName="i"><Label value="Cat"/></PolygonLabels>')
    result = drawn(config, found((box(5, 5, 30, 30), "cat", 0.6), (box(20, 5, 45, 30), "cat", 0.8)))
    assert [decode_region(r.model_dump()).sum() for r in result.regions] == [375, 625]


def test_the_remainders_of_an_object_behind_another_are_not_drawn() -> None:
    config = config_of('<PolygonLabels name="p" toName="i"><Label value="Cat"/></PolygonLabels>')
    result = drawn(config, found((box(0, 5, 40, 30), "cat", 0.6), (box(2, 0, 20, 40), "cat", 0.8)))
    assert [decode_region(r.model_dump()).sum() for r in result.regions] == [500, 720]


def test_strategies_that_answer_the_same_prompt_do_not_compete() -> None:
    config = config_of(
        '<PolygonLabels name="p" toName="i"><Label value="Cat"/></PolygonLabels>'
        '<BrushLabels name="b" toName="i" model_skip="false"><Label value="Cat"/></BrushLabels>'
    )
    groups = group_by_prompt(config.targets("i"), parse_extra_params(None), "", {}, strategies={"b": "grounded_sam"})
    assert [(g.prompt.text, g.strategy) for g in groups] == [("Cat", ""), ("Cat", "grounded_sam")]
    options = {c.name: OutputOptions() for c in config.controls}
    results = [found((box(5, 5, 30, 30), "cat", 0.6)), found((box(5, 5, 30, 30), "cat", 0.8))]
    result = image_regions(config, list(zip(groups, results, strict=True)), options, max_regions=9)
    assert [(r.from_name, decode_region(r.model_dump()).sum()) for r in result.regions] == [("p", 625), ("b", 625)]


def test_weak_results_are_left_out_and_claim_no_pixels() -> None:
    config = config_of(
        '<PolygonLabels name="p" toName="i" model_score_threshold="0.5"><Label value="Cat"/><Label value="Dog"/>'
        "</PolygonLabels>"
    )
    strong, weak = found((box(5, 5, 30, 30), "cat", 0.6)), found((box(5, 5, 30, 30), "dog", 0.9), score=0.4)
    assert list(masks(drawn(config, strong, weak))) == ["Cat"]
    assert drawn(config, weak, weak) == ImageRegions((), 0.0)
    assert drawn(config, found((box(1, 1, 9, 9), "c", 0.4)), weak).regions == ()


def test_the_mined_name_chooses_among_labels_with_one_prompt() -> None:
    result = drawn(TWO, found((box(1, 1, 20, 20), "dog", 0.6), (box(25, 1, 40, 20), "lynx", 0.7)), extra="animal")
    assert [r.value["polygonlabels"] for r in result.regions] == [["Dog"], ["Cat"]]
    assert result.regions[0].meta == {"text": ["animal: dog, score 0.60"]}


def test_the_score_is_the_mean_of_the_results_that_show_something() -> None:
    cat = found((box(1, 1, 20, 20), "cat", 0.9), (box(1, 22, 20, 38), "cat", 0.3), score=0.8)
    dog = found((box(25, 1, 40, 20), "dog", 0.5), score=0.4)
    assert drawn(TWO, cat, dog).score == pytest.approx(0.6)
    assert drawn(TWO, cat, found(score=0.1)).score == pytest.approx(0.8)


def test_the_score_of_clicked_objects_is_their_mean() -> None:
    objects = [Instance.of_mask(box(1, 1, 20, 20), "", 0.9), Instance.of_mask(box(25, 1, 40, 20), "", 0.3)]
    clicked = clicked_regions(TWO, TWO.targets("i")[0], objects, OutputOptions(score_threshold=0.5), text="a click")
    assert clicked.score == pytest.approx(0.6)
    assert [r.meta for r in clicked.regions] == [
        {"text": [f"a click, predicted IoU {score}"]} for score in ("0.90", "0.30")
    ]
    assert clicked_regions(TWO, TWO.targets("i")[0], [], OutputOptions(), text="a click") == ImageRegions((), 0.0)


def test_an_object_without_a_name_has_that_of_its_result() -> None:
    result = drawn(TWO, found((box(1, 1, 20, 20), "", 0.6), name="dog"), extra="animal")
    assert [r.value["polygonlabels"] for r in result.regions] == [["Dog"]]
    assert result.regions[0].meta == {"text": ["animal: dog, score 0.60"]}


def test_meta_shows_prompt_name_and_contrast() -> None:
    result = drawn(TWO, found((box(1, 1, 20, 20), "tabby", 0.5), contrast=0.25), found())
    assert result.regions[0].meta == {"text": ["Cat: tabby, contrast +0.25, score 0.50"]}


def test_the_number_of_regions_is_limited_to_the_best() -> None:
    objects = [(box(x, 1, x + 4, 20), "cat", x / 100) for x in range(1, 46, 5)]
    result = drawn(TWO, found(*objects), found(), most=3)
    assert sorted(r.score for r in result.regions) == [0.31, 0.36, 0.41]


def ring() -> np.ndarray:
    return box(5, 5, 35, 35) & ~box(15, 15, 25, 25)


@pytest.mark.parametrize(
    ("holes", "brush", "kind", "hole_kept"),
    [
        ("bridge", True, "polygonlabels", True),
        ("drop", True, "polygonlabels", False),
        ("brush", True, "brushlabels", True),
        ("brush", False, "polygonlabels", True),
    ],
)
def test_holes(holes: str, brush: bool, kind: str, hole_kept: bool) -> None:
    body = f'<PolygonLabels name="p" toName="i" model_holes="{holes}"><Label value="Cat"/></PolygonLabels>'
    if brush:
        body += '<BrushLabels name="b" toName="i"><Label value="Cat"/></BrushLabels>'
    config = config_of(body)
    (region,) = drawn(config, found((ring(), "cat", 0.6))).regions
    assert region.type == kind
    assert decode_region(region.model_dump())[20, 20] != hole_kept
    assert problem(region, config) is None


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "RectangleLabels"])
def test_specks_are_dropped_everywhere(tag: str) -> None:
    config = config_of(f'<{tag} name="p" toName="i"><Label value="Cat"/></{tag}>')
    (region,) = drawn(config, found((box(5, 5, 20, 20) | box(45, 35, 47, 37), "cat", 0.6))).regions
    np.testing.assert_array_equal(decode_region(region.model_dump()), box(5, 5, 20, 20))


def test_several_parts_are_several_polygons_with_one_score() -> None:
    result = drawn(TWO, found((box(2, 2, 12, 12) | box(20, 20, 40, 38), "cat", 0.6)), found())
    assert [r.score for r in result.regions] == [0.6, 0.6]
    assert len({r.id for r in result.regions}) == 2


def region(**changes: Any) -> RegionOut:
    plain = {
        "id": "a", "from_name": "p", "to_name": "i", "type": "polygonlabels", "original_width": 5, "original_height": 5,
        "score": 0.5, "value": {"points": [[0, 0], [1, 0], [1, 1]], "closed": True, "polygonlabels": ["Cat"]},
    }  # fmt: skip
    return RegionOut.model_validate(plain | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"from_name": "q"}, "no polygonlabels 'q'"),
        ({"to_name": "j"}, "on 'j'"),
        ({"type": "brushlabels"}, "no brushlabels"),
        ({"value": {"points": [[0, 0], [1, 0], [1, 1]], "polygonlabels": ["Cow"]}}, "not among"),
        ({"value": {"points": [[0, 0], [1, 0], [1, 1]], "polygonlabels": []}}, "not among"),
        ({"value": {"points": [[0, 0], [1, 0], [1, 1]]}}, "not among"),
        ({"value": {"points": [[0, 0], [1, 0]], "polygonlabels": ["Cat"]}}, "3 points"),
        ({"value": {"points": [[0, 0], [1, 0], [101, 1]], "polygonlabels": ["Cat"]}}, "0 to 100"),
        ({"value": {"points": [[0, 0], [1, 0], [float("nan"), 1]], "polygonlabels": ["Cat"]}}, "0 to 100"),
        ({"value": {"rle": [1, 300], "polygonlabels": ["Cat"]}}, "from 0 to 255"),
        ({"value": {"imageDataURL": "http://x", "polygonlabels": ["Cat"]}}, "PNG"),
        ({"value": {"x": 1, "y": 2, "width": 3, "polygonlabels": ["Cat"]}}, "0 to 100"),
    ],
)
def test_bad_regions_never_leave(changes: dict[str, Any], words: str | None) -> None:
    bad = region(**changes)
    reason = problem(bad, TWO)
    assert (reason is None) == (words is None)
    assert words is None or words in (reason or "")
    assert only_valid([region(id="b"), bad], TWO) == [region(id="b"), *([bad] if words is None else [])]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1, "x", None])
def test_scores_that_are_no_probability_never_leave(score: Any) -> None:
    with pytest.raises(ValidationError):
        region(score=score)
    with pytest.raises(ValidationError):
        PredictionOut(score=score, model_version="v")


def test_fresh_ids_keep_pairs_together() -> None:
    plain = PredictionOut(result=[region(id="x"), region(id="x"), region(id="y")], model_version="v").as_json()
    renewed = [r["id"] for r in with_fresh_ids(plain)["result"]]
    assert renewed[0] == renewed[1] != renewed[2]
    assert not {"x", "y"} & set(renewed)
    json.dumps(plain, allow_nan=False)


# --- results and store ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_results_pack_and_unpack(seed: int, height: int, width: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    all_masks = [rng.random((height, width)) < 0.3 for _ in range(count)]
    kept = [m for m in all_masks if m.any()]
    instances = tuple(Instance.of_mask(m, f"név {i}", i / 4) for i, m in enumerate(kept))
    segmentation = Segmentation((height, width), "t", instances, 0.5, Trace("t", "s"), name="é", reason="r")
    before = StoredResult.of(segmentation)
    after = StoredResult.unpack(before.pack())
    assert (after.size, after.score, after.name, after.contrast, after.reason) == ((height, width), 0.5, "é", None, "r")
    assert [(f.name, f.score) for f in after.objects] == [(f.name, f.score) for f in before.objects]
    for one, other in zip(before.objects, after.objects, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("payload", [b"", b"junk", found((box(1, 1, 5, 5), "c", 0.5)).pack()[:-4]])
def test_damaged_results_are_errors(payload: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        StoredResult.unpack(payload)


@pytest.mark.parametrize("tag", ["VectorLabels", "EllipseLabels"])
def test_vectors_and_ellipses_are_drawn(tag: str) -> None:
    config = config_of(f'<{tag} name="p" toName="i"><Label value="Cat"/></{tag}>')
    rows, columns = np.mgrid[:40, :50]
    disc = (columns - 25) ** 2 / 15**2 + (rows - 20) ** 2 / 9**2 < 1
    (region,) = drawn(config, found((disc, "cat", 0.6))).regions
    assert region.type == tag.lower()
    assert region.value[tag.lower()] == ["Cat"]
    mask = decode_region(region.model_dump())
    assert (mask & disc).sum() / (mask | disc).sum() > 0.95


def test_vector_and_ellipse_beside_labels_are_split_pairs() -> None:
    for tag in ("Vector", "Ellipse"):
        labels = '<Labels name="l" toName="i"><Label value="Cat"/></Labels>'
        config = config_of(f'{labels}<{tag} name="p" toName="i"/>')
        shape, named = drawn(config, found((box(5, 5, 30, 30), "cat", 0.6))).regions
        assert (shape.type, named.type, shape.id) == (tag.lower(), "labels", named.id)


def test_a_polygon_goes_before_a_vector_and_an_ellipse_before_a_rectangle() -> None:
    order = [f'<{tag}Labels name="{tag}" toName="i"><Label value="Cat"/></{tag}Labels>' for tag in
             ("Rectangle", "Ellipse", "Vector", "Brush", "Bitmask", "Polygon")]  # fmt: skip
    for count in range(6, 0, -1):
        (target,) = config_of("".join(order[:count])).targets("i")
        assert order[count - 1].startswith(f"<{target.control.name}Labels")


ONE = '<PolygonLabels name="p" toName="i"{}><Label value="Cat"/></PolygonLabels>'
WHOLE, SPECK, DOUBLE = box(5, 5, 35, 35), box(10, 10, 16, 16), box(4, 4, 30, 30)


@pytest.mark.parametrize("option", ["join", "drop", "keep", ""])
def test_pieces_and_doubles_of_one_object(option: str) -> None:
    config = config_of(ONE.format(f' model_nested="{option}"' if option else ""))
    result = drawn(config, found((WHOLE, "cat", 0.6), (SPECK, "cat", 0.9), (DOUBLE, "cat", 0.5)))
    shown = [decode_region(region.model_dump()) for region in result.regions]
    union = WHOLE | DOUBLE if option == "join" else WHOLE
    together = np.logical_or.reduce(shown)  # polygons keep 95 % of a mask
    assert (together & union).sum() >= 0.95 * (together | union).sum()
    if option in ("keep", ""):  # of the double so little is left that it goes
        assert [int(mask.sum()) for mask in shown] == [900 - 36, 36]
    else:
        assert len(shown) == 1
        assert [region.score for region in result.regions] == [0.9]
        assert "score 0.90" in result.regions[0].meta["text"][0]


@pytest.mark.parametrize(("option", "count"), [("join", 1), ("drop", 1), ("keep", 2)])
def test_an_object_and_a_piece_of_it_are_one_by_option(option: str, count: int) -> None:
    config = config_of(ONE.format(f' model_nested="{option}"'))
    assert len(drawn(config, found((WHOLE, "cat", 0.6), (SPECK, "cat", 0.9))).regions) == count
    assert [r.score for r in drawn(config, found((WHOLE, "cat", 0.6))).regions] == [0.6]


def test_an_object_in_an_object_of_another_label_stays() -> None:
    result = drawn(TWO, found((WHOLE, "cat", 0.6)), found((SPECK, "dog", 0.9)))
    assert set(masks(result)) == {"Cat", "Dog"}


@pytest.mark.parametrize(("option", "parts"), [("", 3), (' model_min_part="0.1"', 2), (' model_min_part="0.9"', 1)])
def test_small_parts_of_an_object_go_by_option(option: str, parts: int) -> None:
    mask = box(2, 2, 22, 22) | box(30, 2, 40, 22) | box(30, 30, 35, 35)  # 400, 200 and 25 pixels
    assert len(drawn(config_of(ONE.format(option)), found((mask, "cat", 0.6))).regions) == parts
