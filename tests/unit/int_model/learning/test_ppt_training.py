"""The curriculum from pairs to a generator: no masks go in, a training that is interrupted comes out the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from int_model.learning.ppt.composites import Cutting, compose
from int_model.learning.ppt.curriculum import Learner
from int_model.learning.ppt.fit import OutOfTimeError, Shape, train_generator
from int_model.learning.ppt.gallery import Gallery
from int_model.learning.ppt.pairs import Pair, PairsError, PairSet, merged, mined_names, read_pairs
from int_model.learning.ppt.plan import Plan
from int_model.learning.ppt.proposals import Clicking, Proposals
from int_model.learning.ppt.pseudo_masks import Filters
from int_model.learning.ppt.rounds import Referring, Selection, believed
from int_model.learning.ppt.state import StateError, resume, save_state
from int_model.learning.ppt.train import main, parser, sources
from int_model.models.suite import ModelSuite
from int_model.point_prompting.generator.bundle import read, unpack
from tests.unit.int_model.learning.conftest import disc, drawn

SHAPE = Shape(width=32, heads=4, layers=1, feed=32, queries=6)
PLAN = Plan(
    steps=(2, 2, 4), batch=3, rate=1e-3, warm_up=2, every=2, positives=3, negatives=3, most=3, composites=4, seed=5,
    clicking=Clicking(grid=3, least_quality=0.3), filters=Filters(agreement=0.0, grid=2), selection=Selection(0.0, 0.0),
)  # fmt: skip


def holding(image: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: image


@pytest.fixture(scope="module")
def pairs() -> tuple[PairSet, PairSet]:
    """Discs that are called things; which pixels they cover is told to nobody."""
    names = ("ball", "bell", "apple")
    objects = {str(i): holding(drawn(i).image) for i in range(3)}
    both = {str(i): holding(drawn(10 + i, count=2).image) for i in range(2)}
    said = [Pair(str(i), text, text) for i in range(2) for text in ("the left ball", "the right ball")]
    return PairSet(objects, tuple(Pair(str(i), names[i]) for i in range(3))), PairSet(both, tuple(said))


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress is shown."""


def test_nothing_that_training_is_given_holds_a_mask() -> None:
    assert {field.name for field in dataclasses.fields(Pair)} == {"image", "text", "referent"}
    assert {field.name for field in dataclasses.fields(PairSet)} == {"images", "pairs"}


def test_a_training_that_was_interrupted_ends_with_the_same_weights(
    nano: ModelSuite, pairs: tuple[PairSet, PairSet], tmp_path: Path
) -> None:
    whole = train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, tell=quiet)
    state = tmp_path / "state.safetensors"
    with pytest.raises(OutOfTimeError, match="1 of 8 steps"):
        train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, state=state, seconds=0, tell=quiet)
    stops = []

    def stop(what: str, done: int, _total: int) -> None:
        if what.startswith("stage"):
            stops.append(done)
            if done == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, state=state, tell=stop)
    again = train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, state=state, tell=quiet)
    assert stops[0] == 2  # it went on after the step that was kept, not from the start
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert whole.training["objects"] == 3
    assert json.loads(json.dumps(dict(again.training))) == json.loads(json.dumps(dict(whole.training)))


def test_a_state_in_the_middle_of_stage_three_goes_on_with_the_pairs_believed(
    nano: ModelSuite, pairs: tuple[PairSet, PairSet], tmp_path: Path
) -> None:
    kept = tmp_path / "state.safetensors"
    learners: list[Learner] = []

    def both(path: Path | None) -> list[float]:
        from int_model.learning.ppt.fit import settings_of
        from int_model.learning.ppt.samples import prepare
        from int_model.learning.sam import TrainableSam
        from int_model.point_prompting.generator.network import PointGenerator

        gallery = Gallery(nano.text_image, TrainableSam(nano.segmenter), True, "cpu")  # type: ignore[arg-type]
        material = prepare(gallery, *pairs, PLAN, quiet)
        torch.manual_seed(PLAN.seed)
        learner = Learner(PointGenerator(settings_of(gallery, SHAPE)), PLAN, gallery, material)
        learners.append(learner)
        if path is None:
            return learner.train()
        if not resume(learner, path):
            learner.train(until=5)
            save_state(learner, path)
            return []
        assert learner.step == 5
        return learner.train()

    losses = both(None)
    both(kept)
    assert learners[1].accepted
    assert both(kept) == losses[5:]
    assert learners[2].accepted == learners[0].accepted


def test_a_state_of_another_training_is_refused(
    nano: ModelSuite, pairs: tuple[PairSet, PairSet], tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(OutOfTimeError):
        train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, state=state, seconds=0, tell=quiet)
    other = dataclasses.replace(PLAN, seed=6)
    with pytest.raises(StateError, match="other settings"):
        train_generator(nano, *pairs, plan=other, shape=SHAPE, state=state, tell=quiet)
    state.write_bytes(b"torn")
    with pytest.raises(StateError, match="delete it"):
        train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, state=state, tell=quiet)


def test_what_was_learned_so_far_can_be_used(nano: ModelSuite, pairs: tuple[PairSet, PairSet]) -> None:
    with pytest.raises(OutOfTimeError) as stopped:
        train_generator(nano, *pairs, plan=PLAN, shape=SHAPE, seconds=0, tell=quiet)
    again = unpack(stopped.value.generator.pack())
    again.check(nano.text_image, nano.segmenter)
    assert again.training["steps"] == 1


def test_without_referring_pairs_stage_three_repeats_what_there_is(
    nano: ModelSuite, pairs: tuple[PairSet, PairSet]
) -> None:
    made = train_generator(nano, pairs[0], None, plan=PLAN, shape=SHAPE, tell=quiet)
    assert made.training["referring"] == 0
    assert made.training["steps"] == 8


def test_the_plan_names_stages_and_when_pairs_are_selected() -> None:
    assert [PLAN.stage(step) for step in range(8)] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert [step for step in range(8) if PLAN.selects(step)] == [4, 6]
    mixed = dataclasses.replace(PLAN, order="mixed")
    assert {mixed.stage(step) for step in range(8)} == {3}
    assert [step for step in range(8) if mixed.selects(step)] == [0, 2, 4, 6]
    first = dataclasses.replace(PLAN, order="first")
    assert {first.shares(step) for step in range(8)} == {(1.0, 0.0, 0.0)}
    with pytest.raises(ValueError, match="at least one step"):
        Plan(steps=(0, 0, 0))


# ------------------------------------------------------------------ selection


def _entry(referents: list[str]) -> Referring:
    masks = np.zeros((3, 12, 12), dtype=np.bool_)
    masks[0, :4], masks[1, 4:8], masks[2, 8:] = True, True, True
    pairs = tuple(Pair("a", f"text {i}", referent) for i, referent in enumerate(referents))
    return Referring(0, Proposals(masks, np.ones(3)), np.zeros((3, 4), dtype=np.float32), pairs)


def test_expressions_of_one_thing_take_one_proposal_and_those_of_another_take_another() -> None:
    clip = np.array([[1.0, 0.6, 0.0], [0.5, 0.9, 0.0], [0.9, 0.85, 0.0]])
    teacher = np.full((3, 3), 0.6)
    found = believed(clip, teacher, _entry(["x", "x", "y"]), Selection(margin=0.01, agreement=0.5))
    assert sorted(found) == [(0, 1), (1, 1), (2, 0)]  # y is the clearest but one; x shares one proposal


def test_unclear_pairs_and_pairs_that_the_teacher_disputes_are_not_believed() -> None:
    how = Selection(margin=0.2, agreement=0.5)
    sure = np.array([[1.0, 0.0, 0.0]])
    assert believed(sure, np.array([[0.9, 0.0, 0.0]]), _entry([""]), how) == [(0, 0)]
    assert believed(sure, np.array([[0.4, 0.3, 0.0]]), _entry([""]), how) == []
    assert believed(np.array([[1.0, 0.9, 0.0]]), np.array([[0.9, 0.9, 0.0]]), _entry([""]), how) == []


# ----------------------------------------------------------------- composites


def test_composites_have_exact_masks_and_expressions_true_of_one_object() -> None:
    cuttings = []
    for number, (name, colour) in enumerate(
        (("ball", (220, 40, 40)), ("bell", (40, 60, 220)), ("ball", (40, 200, 60)))
    ):
        image = np.full((64, 64, 3), 30, dtype=np.uint8)
        mask = disc((64, 64), 32, 32, 14)
        image[mask] = colour
        cuttings.append(Cutting(image, mask, f"a {('red', 'blue', 'green')[number]} {name}"))
    places = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    seen = set()
    for index in range(60):
        made = compose(cuttings, index, seed=3)
        for i, mask in enumerate(made.masks):
            assert made.image[cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0].max() > 150
            assert not any((mask & other).any() for j, other in enumerate(made.masks) if i != j)
        for text, thing in made.expressions:
            word = text.split()[1]
            seen.add("absent" if thing < 0 else word if word in places else "other")
            if thing < 0 or word not in places:
                continue
            axis, sign = places[word]
            at = [np.argwhere(mask).mean(axis=0)[1 - axis] for mask in made.masks]
            assert all(sign * (at[thing] - at[i]) >= 0 for i in range(len(at)) if _same(made, thing, i, text))
    assert {"left", "right", "top", "bottom", "absent", "other"} <= seen
    assert np.array_equal(compose(cuttings, 7, seed=3).image, compose(cuttings, 7, seed=3).image)


def _same(made: object, thing: int, other: int, text: str) -> bool:
    """Whether another object of the composite also has a place expression with this noun."""
    noun = text.split()[-1]
    said = {t for t, number in made.expressions if number == other}  # type: ignore[attr-defined]
    return other != thing and any(t.split()[-1] == noun and len(t.split()) == 3 for t in said)


# -------------------------------------------------------------------- sources


def _picture(path: Path) -> Path:
    cv2.imwrite(str(path), drawn(1).image)
    return path


def test_a_folder_of_images_with_texts(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    _picture(tmp_path / "b.jpg")
    (tmp_path / "a.txt").write_text("the fish\n\nthe left fish\n")
    found = read_pairs(tmp_path)
    assert [pair.text for pair in found.pairs] == ["the fish", "the left fish"]
    assert found.images[found.pairs[0].image]().shape == (96, 128, 3)
    (tmp_path / "none").mkdir()
    with pytest.raises(PairsError, match="holds no image"):
        read_pairs(tmp_path / "none")


def test_json_lines_and_a_referring_file(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    lines = tmp_path / "pairs.jsonl"
    lines.write_text(
        '{"image": "a.png", "text": "a fish"}\n\n{"image": "a.png", "text": "the left fish", "referent": 4}\n'
    )
    assert [(pair.text, pair.referent) for pair in read_pairs(lines).pairs] == [("a fish", ""), ("the left fish", "4")]
    refs = tmp_path / "refs.json"
    refs.write_text(
        json.dumps([{"file_name": "a.png", "ref_id": 7, "sentences": [{"sent": "left fish"}, {"raw": "fish on left"}]}])
    )
    assert {(pair.text, pair.referent) for pair in read_pairs(refs).pairs} == {
        ("left fish", "7"),
        ("fish on left", "7"),
    }
    lines.write_text('{"image": "a.png"}\n')
    with pytest.raises(PairsError, match="line 1"):
        read_pairs(lines)
    lines.write_text('{"image": "b.png", "text": "x"}\n')
    with pytest.raises(PairsError, match=r"b.png does not exist"):
        read_pairs(lines)
    refs.write_text('{"a": 1}')
    with pytest.raises(PairsError, match="ref_id"):
        read_pairs(refs)
    with pytest.raises(PairsError, match="pickle"):
        read_pairs(_picture(tmp_path / "refs.p.png").rename(tmp_path / "refs.p"))


def test_mined_names_are_texts_and_each_counts_once(tmp_path: Path) -> None:
    path = _picture(tmp_path / "a.png")
    assert [pair.text for pair in mined_names([(path, "Fish"), (path, "Fish"), (path, " ")]).pairs] == ["fish"]


def test_lines_and_sentences_without_a_word_are_no_pairs(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    refs, lines = tmp_path / "refs.json", tmp_path / "pairs.jsonl"
    entry = {"file_name": "a.png", "ref_id": "", "sentences": [" ", "the fish ", {"sent": "", "raw": "a fish"}]}
    refs.write_text(json.dumps([entry]))
    assert [pair.text for pair in read_pairs(refs).pairs] == ["the fish", "a fish"]
    lines.write_text('{"image": "a.png", "text": "  "}\n{"image": "a.png", "text": " the fish"}\n')
    assert [pair.text for pair in read_pairs(lines).pairs] == ["the fish"]
    lines.write_text('{"image": "a.png", "text": "a"}\n\n{"image": 3}\n')
    with pytest.raises(PairsError, match="line 3"):
        read_pairs(lines)


def test_a_plain_text_has_at_most_five_words() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    for text, plain in (("the left small red fish", True), ("the left small small red fish", False)):
        alone = PairSet({"a": holding(image), "b": holding(image)}, (Pair("a", text), Pair("b", "crab")))
        assert [pair.image for pair in alone.object_centric().pairs] == (["a", "b"] if plain else ["b"])


def test_object_centric_images_have_one_plain_text() -> None:
    texts = {"a": ["a red fish"], "b": ["the fish next to the boot"], "c": ["fish", "bell"], "d": ["crab"]}
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    pairs = PairSet(
        {key: holding(image) for key in texts}, tuple(Pair(k, t) for k, some in texts.items() for t in some)
    )
    assert [pair.image for pair in pairs.object_centric().pairs] == ["a", "d"]
    both = merged([pairs, pairs])
    assert len(both.images) == 8
    with pytest.raises(PairsError, match="object-centric"):
        PairSet(pairs.images, (Pair("c", "fish"), Pair("c", "bell"))).object_centric()
    with pytest.raises(PairsError, match="no pair"):
        PairSet({}, ())


# ---------------------------------------------------------------- the command


def test_the_command_trains_from_a_folder_and_goes_on_where_it_was(tmp_path: Path) -> None:
    for number, name in enumerate(("ball", "bell", "apple")):
        cv2.imwrite(str(tmp_path / f"{number}.png"), drawn(number).image)
        (tmp_path / f"{number}.txt").write_text(f"the {name}\n")
    out = tmp_path / "out" / "generator.safetensors"
    out.parent.mkdir()
    asked = ["--pairs", str(tmp_path), "--out", str(out), "--steps", "1", "1", "1", "--composites", "2"]
    assert main([*asked, "--device", "cpu", "--seconds", "0"]) == 1
    assert not out.exists()
    assert main([*asked, "--device", "cpu"]) == 0
    assert read(out).training["steps"] == 3
    assert out.stat().st_size < 2_000_000
    assert [path.name for path in out.parent.iterdir()] == ["generator.safetensors"]


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "g.safetensors")]
    assert main(out) == 2
    assert "give --pairs, --objects or --names" in capsys.readouterr().err
    assert main([*out, "--names", str(tmp_path)]) == 2
    assert "int-backend segment" in capsys.readouterr().err


def test_names_that_a_run_mined_are_pairs(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "run" / "trace").mkdir(parents=True)
    record = {"image": "a.png", "instances": [{"label": "Fish"}, {"label": "fish"}]}
    (tmp_path / "run" / "trace" / "a.json").write_text(json.dumps(record))
    options = parser().parse_args(["--names", str(tmp_path / "run"), "--images", str(tmp_path), "--out", "g"])
    objects, referring = sources(options)
    assert [pair.text for pair in objects.pairs] == ["fish"]
    assert referring is not None
    (tmp_path / "run" / "trace" / "a.json").write_text("{}")
    with pytest.raises(PairsError, match="no record"):
        sources(options)
