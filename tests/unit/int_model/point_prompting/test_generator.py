"""The point generator at use: what it sees, which of its points are given on, its file, its hypotheses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from int_model.models.calls import ModelCalls
from int_model.models.suite import ModelSuite, load_suite
from int_model.point_prompting.generator.bundle import GeneratorError, TrainedGenerator, probes_of, read, unpack
from int_model.point_prompting.generator.expressions import Described, colour_of, head_noun, singling_out
from int_model.point_prompting.generator.features import MOST_TOKENS, on_cells, see_images, see_texts, seen_of, stacked
from int_model.point_prompting.generator.filters import PointFilter, SignedPoints, signed_points
from int_model.point_prompting.generator.grounding import PointGrounder
from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator, Points, Seen
from tests.support.fakes import FakeTextImage, fake_suite


@pytest.fixture(scope="module")
def nano() -> ModelSuite:
    torch.set_num_threads(1)
    return load_suite("nano", device="cpu", offline=True)


def generator(suite: ModelSuite, *, sees: bool = True, seed: int = 0) -> TrainedGenerator:
    torch.manual_seed(seed)
    settings = GeneratorSettings(96, 96, 96 if sees else 0, width=32, heads=4, layers=1, feed=32, queries=6)
    probes = probes_of(suite.text_image, suite.segmenter if sees else None)
    return TrainedGenerator(PointGenerator(settings).eval(), 3, negatives=True, training={"steps": 7}, probes=probes)


def picture(size: tuple[int, int] = (96, 128)) -> np.ndarray:
    image = np.full((*size, 3), 70, dtype=np.uint8)
    image[30:70, 20:60] = (210, 150, 60)
    image[20:50, 80:110] = (60, 90, 210)
    return image


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("the frog", "frog"),
        ("the left fish", "fish"),
        ("The red beetle.", "beetle"),
        ("the crab next to the shell", "crab"),
        ("a small skin lesion", "skin lesion"),
        ("person wearing a hat", "person"),
        ("the one on the left", "the one on the left"),
        ("leftmost", "leftmost"),
        ("camouflaged animal", "camouflaged animal"),
    ],
)
def test_the_head_noun_is_what_is_left_without_place_colour_and_relation(text: str, noun: str) -> None:
    assert head_noun(text) == noun


def test_colours_are_words_not_parts_of_words() -> None:
    assert colour_of("the Red fish") == "red"
    assert colour_of("a bored fish") == ""


def test_expressions_single_one_thing_out() -> None:
    things = [
        Described("fish", "red", (0.2, 0.5), 0.10),
        Described("fish", "blue", (0.8, 0.5), 0.05),
        Described("boot", "red", (0.85, 0.6), 0.05),
    ]
    said = {text: i for i in range(3) for _, text in singling_out(i, things)}
    assert said == {
        "the red fish": 0,
        "the left fish": 0,
        "the big fish": 0,
        "the blue fish": 1,
        "the right fish": 1,
        "the small fish": 1,
        "the fish next to the boot": 1,
        "the boot": 2,
        "the red boot": 2,
    }


def fish(x: float, y: float, area: float = 0.1, attribute: str = "") -> Described:
    return Described("fish", attribute, (x, y), area)


@pytest.mark.parametrize(
    ("things", "said"),
    [
        ([fish(0.5, 0.5)], {"name": "the fish"}),
        ([fish(0.5, 0.5, attribute="red")], {"name": "the fish", "attribute": "the red fish"}),
        ([fish(0.5, 0.5, attribute="red"), fish(0.5, 0.5, attribute="red")], {}),
        ([fish(0.5, 0.5, attribute="red"), fish(0.5, 0.5)], {}),  # the other may be red too
        ([fish(0.5, 0.5), fish(0.5, 0.5, attribute="red")], {}),
        ([fish(0.25, 0.5), fish(0.5, 0.5)], {"place": "the left fish"}),
        ([fish(0.5, 0.5), fish(0.25, 0.5)], {"place": "the right fish"}),
        ([fish(0.5, 0.25), fish(0.5, 0.5)], {"place": "the top fish"}),
        ([fish(0.5, 0.5), fish(0.5, 0.25)], {"place": "the bottom fish"}),
        ([fish(0.4, 0.5), fish(0.5, 0.5)], {}),  # too near to be left of it
        ([fish(0.5, 0.5), fish(0.25, 0.5), fish(0.75, 0.5)], {}),  # in between
        ([fish(0.0, 0.5), fish(0.25, 0.5), fish(0.1, 0.5)], {}),
        ([fish(0.5, 0.5, 0.2), fish(0.5, 0.5, 0.1)], {"size": "the big fish"}),
        ([fish(0.5, 0.5, 0.2), fish(0.5, 0.5, 0.1), fish(0.5, 0.5, 0.15)], {}),
        ([fish(0.5, 0.5, 0.1), fish(0.5, 0.5, 0.2)], {"size": "the small fish"}),
        ([fish(0.5, 0.5, 0.1), fish(0.5, 0.5, 0.2), fish(0.5, 0.5, 0.12)], {}),
        ([fish(0.5, 0.5, 0.16), fish(0.5, 0.5, 0.1)], {}),
        ([fish(0.5, 0.5, 1.7), fish(0.5, 0.5, 1.0)], {}),  # more than that is big
        ([fish(0.5, 0.5, 1.0), fish(0.5, 0.5, 1.7)], {}),
        ([fish(0.0, 0.5), fish(0.18, 0.5)], {}),
        ([fish(0.18, 0.5), fish(0.0, 0.5)], {}),
    ],
)
def test_an_expression_is_said_where_it_is_true_of_one_thing_only(
    things: list[Described], said: dict[str, str]
) -> None:
    assert dict(singling_out(0, things)) == said


def test_a_neighbour_is_clearly_nearer_to_one_than_to_all_others_of_its_kind() -> None:
    near, far, boot = fish(0.5, 0.3), fish(0.5, 0.9), Described("boot", "", (0.5, 0.4), 0.1)
    said = dict(singling_out(0, [near, far, boot]))
    assert said["neighbour"] == "the fish next to the boot"
    assert "neighbour" not in dict(singling_out(1, [near, far, boot]))
    assert "neighbour" not in dict(singling_out(0, [near, far, boot, boot])), "which boot?"
    exactly = [fish(0.0, 0.0), fish(0.65, 1.0), Described("boot", "", (0.65, 0.0), 0.1)]  # 0.65 of the distance
    assert "neighbour" not in dict(singling_out(0, exactly))
    middle = Described("boot", "", (0.5, 0.55), 0.1)  # 0.25 to one, 0.35 to the other
    assert "neighbour" not in dict(singling_out(0, [near, far, middle]))


# --------------------------------------------------------------- what it sees


def test_every_token_is_seen_and_the_sentence_last(nano: ModelSuite) -> None:
    left, right = see_texts(nano.text_image, ["the left fish", "the right fish"])
    assert np.allclose(left.tokens[-1], left.sentence)
    assert np.allclose(np.linalg.norm(left.tokens, axis=1), 1, atol=1e-5)
    assert len(left.tokens) > 4
    empty, sentence, noun = nano.text_image.embed_texts(["", "the left fish", "fish"])
    for map_, text in zip(left.maps, (sentence, noun), strict=True):
        assert np.allclose(map_, (text - empty) / np.linalg.norm(text - empty), atol=1e-5)
    assert np.allclose(left.maps[1], right.maps[1], atol=1e-5)  # the head noun is the same
    assert not np.allclose(left.maps[0], right.maps[0], atol=1e-3)


class Spelled:
    """A CLIP whose feature of a text counts its letters, and whose tokens are the text's words."""

    logit_scale = 100.0

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.feature(text) for text in texts])

    def embed_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.stack([self.feature(word) for word in text.split()]) for text in texts]

    @staticmethod
    def feature(text: str) -> np.ndarray:
        row = np.array([1 + text.count(letter) for letter in "efhit"], dtype=np.float32)
        return row / np.linalg.norm(row)


def test_a_map_is_of_what_a_text_says_beyond_an_empty_one() -> None:
    """Otherwise both maps are mostly what all texts have in common."""
    clip = Spelled()
    (seen,) = see_texts(clip, ["The  left FISH"])  # type: ignore[arg-type]
    assert np.allclose(seen.tokens, clip.embed_texts(["the", "left", "fish", "the left fish"]))
    empty = clip.feature("")
    for map_, text in zip(seen.maps, ("the left fish", "fish"), strict=True):
        beyond = clip.feature(text) - empty
        assert np.allclose(map_, beyond / np.linalg.norm(beyond), atol=1e-5)
    (long,) = see_texts(clip, ["fish " * 70])  # type: ignore[arg-type]
    assert len(long.tokens) == MOST_TOKENS
    assert np.array_equal(long.tokens[-1], long.sentence)


def test_a_batch_tells_which_tokens_exist_and_scales_each_map_to_its_own_range() -> None:
    """Over the word mask the generator attends; a token that is not masked would be read as one of zeros."""
    texts = see_texts(Spelled(), ["the left fish", "fish"])  # type: ignore[arg-type]
    patches = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = seen_of(patches, None, texts)
    assert seen.words.tolist() == [[True] * 4, [True, True, False, False]]
    assert not seen.text[1, 2:].any()
    assert np.allclose(seen.text[1, :2].numpy(), texts[1].tokens)
    for row in range(2):
        for m in range(2):
            cosines = patches[row].numpy() @ texts[row].maps[m]
            scaled = (cosines - cosines.min()) / (cosines.max() - cosines.min())
            assert np.allclose(seen.similarity[row, ..., m].numpy(), scaled, atol=1e-4)
            assert np.allclose(seen.similarity[row, ..., 2 + m].numpy(), cosines, atol=1e-5)


def test_a_clip_without_token_features_gives_the_sentence() -> None:
    (seen,) = see_texts(FakeTextImage(), ["the red thing"])
    assert len(seen.tokens) == 1


def test_the_segmenters_features_lie_on_clips_cells() -> None:
    features = np.zeros((1, 8, 8), dtype=np.float32)
    features[0, 1, 6] = 1  # an image twice as wide as high: rows 0 to 3 of the square show it
    placed = on_cells(features, (50, 100), (4, 8))
    assert placed.shape == (4, 8, 1)
    assert np.unravel_index(placed[..., 0].argmax(), (4, 8)) == (1, 6)


def test_a_strip_of_an_image_has_features_of_its_own_not_of_the_padding() -> None:
    features = np.full((1, 8, 8), 99, dtype=np.float32)
    features[0, 0] = np.arange(8)  # one row of the square shows an image 100 times as wide as high
    assert np.array_equal(on_cells(features, (1, 100), (2, 8))[..., 0], [np.arange(8)] * 2)
    assert np.array_equal(on_cells(features.transpose(0, 2, 1), (100, 1), (8, 2))[..., 0].T, [np.arange(8)] * 2)


def test_points_do_not_depend_on_what_else_is_in_the_batch(nano: ModelSuite) -> None:
    made = generator(nano)
    images, texts = [picture(), picture((128, 96))], ["the fish", "the crab next to the boot"]

    def said(images: list[np.ndarray], texts: list[str]) -> Points:
        encoded = [nano.segmenter.features(e) for e in nano.segmenter.encode(images)]  # type: ignore[attr-defined]
        seen = see_images(nano.text_image.embed_patches(images), images, encoded)
        return made.network(seen_of(*stacked(seen, "cpu"), see_texts(nano.text_image, texts)))

    both, alone = said(images, texts), said(images[:1], texts[:1])
    assert torch.allclose(both.xy[:1], alone.xy, atol=1e-4)
    assert torch.allclose(both.confidence[:1], alone.confidence, atol=1e-4)


def test_a_generator_that_reads_the_segmenter_says_so_when_it_is_not_shown(nano: ModelSuite) -> None:
    seen = Seen(torch.zeros(1, 2, 2, 96), torch.zeros(1, 2, 2, 4), torch.zeros(1, 1, 96), torch.ones(1, 1).bool())
    with pytest.raises(ValueError, match="segmenter's features"):
        generator(nano).network(seen)
    for width, heads in ((30, 4), (30, 3), (32, 5)):
        with pytest.raises(ValueError, match=f"width {width} is a multiple of 4 and of its {heads} heads"):
            GeneratorSettings(8, 8, width=width, heads=heads)
    assert GeneratorSettings(8, 8).segmenter_width == 0, "as in the paper it sees CLIP alone"


# -------------------------------------------------------------------- filters


def test_points_get_signs_and_what_is_left_out_is_counted() -> None:
    xy = np.array([[0.5, 0.5], [0.505, 0.5], [0.2, 0.2], [0.9, 0.9], [0.6, 0.5], [0.95, 0.9]])
    confidence = np.array([0.9, 0.8, 0.4, 0.1, 0.2, 0.25])
    found = signed_points(xy, confidence, (100, 200), PointFilter(most=1))
    assert found.points.tolist() == [[100.0, 50.0], [120.0, 50.0]]  # the negative nearest to the positive
    assert found.labels.tolist() == [1, 0]
    assert found.left_out == {"undecided": 1, "close": 1, "too many": 2}
    assert len(found.labels) + sum(found.left_out.values()) == len(xy)
    assert found.presence == pytest.approx(0.9)


def test_as_many_positives_as_may_be_are_given_by_confidence() -> None:
    xy, sure = np.array([[0.1, 0.5], [0.8, 0.5], [0.2, 0.5], [0.9, 0.5]]), np.array([0.7, 0.8, 0.9, 0.6])
    for most in (4, 5):
        found = signed_points(xy, sure, (100, 100), PointFilter(apart=0.0, most=most))
        assert found.points[:, 0].tolist() == pytest.approx([20, 80, 10, 90])
        assert found.confidence.tolist() == [0.9, 0.8, 0.7, 0.6]


def test_the_negatives_nearest_to_any_positive_are_given_first() -> None:
    """A point straight above one positive and level with the other is not near to either."""
    xy = np.array([[0.1, 0.5], [0.9, 0.5], [0.5, 0.5], [0.1, 0.44], [0.86, 0.5]])
    found = signed_points(xy, np.array([0.9, 0.8, 0.1, 0.1, 0.1]), (100, 100), PointFilter(apart=0.0, most=2))
    assert found.points[found.labels == 0].tolist() == [[86.0, 50.0], [10.0, 44.0]]


def test_borders_of_the_filter() -> None:
    """The limits of confidence and the least distance themselves are within; no points are no presence."""
    how = PointFilter(positive=0.75, negative=0.25, apart=0.1)
    xy = np.array([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5], [0.5, 0.1]])
    found = signed_points(xy, np.array([0.75, 0.25, 0.5, 0.2]), (100, 100), how)
    assert found.labels.tolist() == [1, 0, 0]
    assert found.left_out == {"undecided": 1}
    assert found.presence == 0.75
    row = np.array([[0.1, 0.5], [0.6, 0.5]])  # 50 pixels apart, of a diagonal of 125
    kept = signed_points(row, np.array([0.9, 0.8]), (75, 100), PointFilter(apart=0.4))
    assert kept.labels.tolist() == [1, 1]
    assert signed_points(row, np.array([0.9, 0.8]), (75, 100), PointFilter(apart=0.41)).left_out == {"close": 1}
    none = signed_points(np.zeros((0, 2)), np.zeros(0), (10, 10), PointFilter())
    assert (none.points.shape, none.presence, none.present) == ((0, 2), 0.0, False)


@pytest.mark.parametrize(
    "how", [PointFilter(), PointFilter(most=2), PointFilter(negatives=False), PointFilter(0.9, 0.1)]
)
def test_no_negative_vanishes_silently(how: PointFilter) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        xy, confidence = rng.random((12, 2)), rng.random(12)
        found = signed_points(xy, confidence, (90, 120), how)
        assert len(found.labels) + sum(found.left_out.values()) == 12
        if not how.negatives and found.present:
            assert found.left_out["negatives are off"] == (confidence <= how.negative).sum()


def test_nothing_is_present_where_no_point_is_sure() -> None:
    found = signed_points(np.random.default_rng(0).random((5, 2)), np.full(5, 0.2), (90, 120), PointFilter())
    assert not found.present
    assert len(found.points) == 0
    assert found.left_out == {"no positive beside": 5}
    assert found.presence == pytest.approx(0.2)


def test_many_positives_are_thinned_to_far_ones() -> None:
    xs = np.linspace(0.1, 0.9, 9)
    xy = np.stack([xs, np.full(9, 0.5)], axis=-1)
    confidence = np.array([0.6, 0.6, 0.6, 0.6, 0.95, 0.6, 0.6, 0.6, 0.6])
    found = signed_points(xy, confidence, (100, 100), PointFilter(most=3))
    assert found.points[0].tolist() == [50.0, 50.0]
    assert sorted(found.points[:, 0].tolist()) == pytest.approx([10.0, 50.0, 90.0])


def test_signs_do_not_overlap() -> None:
    with pytest.raises(ValueError, match="lower"):
        PointFilter(positive=0.3, negative=0.5)


# ------------------------------------------------------------------- the file


def test_a_file_gives_the_same_generator_and_bytes(nano: ModelSuite, tmp_path: Path) -> None:
    made = generator(nano)
    (tmp_path / "g.safetensors").write_bytes(made.pack())
    again = read(tmp_path / "g.safetensors")
    assert again.pack() == made.pack()
    assert (again.most, again.negatives, again.training) == (3, True, {"steps": 7})
    for name, value in made.network.state_dict().items():
        assert torch.allclose(value, again.network.state_dict()[name], atol=1e-3)
    again.check(nano.text_image, nano.segmenter)


def test_other_models_are_refused(nano: ModelSuite) -> None:
    made = generator(nano)
    for name, model in (("text", "CLIP"), ("segmenter", "segmenter")):
        probes = {**made.probes, name: torch.roll(made.probes[name], 1)}
        with pytest.raises(GeneratorError, match=f"another {model}"):
            dataclasses.replace(made, probes=probes).check(nano.text_image, nano.segmenter)
    with pytest.raises(GeneratorError, match="another CLIP"):
        made.check(FakeTextImage(), nano.segmenter)


def test_damaged_and_foreign_files_are_refused(nano: ModelSuite, tmp_path: Path) -> None:
    data = generator(nano).pack()
    for broken in (b"", data[:200], data[:-50]):
        with pytest.raises(GeneratorError, match="damaged"):
            unpack(broken)
    with pytest.raises(GeneratorError, match="schema 9"):
        unpack(data.replace(b'\\"schema\\": 1', b'\\"schema\\": 9'))
    with pytest.raises(GeneratorError, match="cannot be read"):
        read(tmp_path / "none.safetensors")


# --------------------------------------------------------------- the grounder


def _signed(points: list[list[float]], labels: list[int], confidence: list[float]) -> SignedPoints:
    return SignedPoints(np.array(points), np.array(labels), np.array(confidence), {}, max(confidence))


def test_hypotheses_are_different_things_the_best_first(nano: ModelSuite) -> None:
    grounder, image = PointGrounder(nano, generator(nano), PointFilter()), picture()
    calls = ModelCalls(nano, 1)
    (embedding,) = calls.encode([0], [image])
    far = _signed([[40.0, 50.0], [95.0, 35.0], [5.0, 90.0]], [1, 1, 0], [0.9, 0.6, 0.1])
    several = grounder.hypotheses(calls, 0, embedding, far, (96, 128), most=3)
    masks = [hypothesis.logits > 0 for hypothesis in several]
    assert all((one & other).sum() < 0.5 * (one | other).sum() for i, one in enumerate(masks) for other in masks[:i])
    assert len(grounder.hypotheses(calls, 0, embedding, far, (96, 128), most=1)) == 1
    assert all(0 <= hypothesis.score <= 1 for hypothesis in several)
    absent = SignedPoints(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), np.zeros(0), {}, 0.2)
    assert grounder.hypotheses(calls, 0, embedding, absent, (96, 128), most=3) == []


def test_a_generator_is_never_given_more_points_than_it_was_trained_with(nano: ModelSuite) -> None:
    grounder = PointGrounder(nano, generator(nano), PointFilter(positive=0.0, negative=0.0, most=8))
    (found,), (embedding,) = grounder.points(ModelCalls(nano, 1), [0], [picture()], ["the fish"])
    assert 1 <= (found.labels == 1).sum() <= 3
    assert embedding is not None
    assert grounder.points(ModelCalls(nano, 1), [], [], []) == ([], [])


def test_a_segmenter_that_shows_nothing_is_named(nano: ModelSuite) -> None:
    made = dataclasses.replace(generator(nano), probes={})
    with pytest.raises(GeneratorError, match="does not show"):
        PointGrounder(fake_suite(), made, PointFilter())
