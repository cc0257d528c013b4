"""Every arm changes nothing before it is trained, learns afterwards, and leaves labels alone that it does not know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from int_model.core.types import Box
from int_model.learning.adaptation import Adaptation, Outline, Weights
from int_model.learning.applied import AdaptedSegmenter
from int_model.learning.arms.outlines import Asked, best_column, choose_outlines, choose_slots
from int_model.learning.decoding import AdaptedDecoder, restore
from int_model.learning.examples import Example
from int_model.learning.fit import FitOptions, Fitter, label_order, make_arm, tensors_of
from int_model.learning.sam import TrainableSam
from int_model.learning.scoring import ask, score
from int_model.learning.training import Cache, Schedule, train
from int_model.learning.views import Augmentation
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.protocols import MaskPrompt
from tests.unit.int_model.learning.conftest import disc, drawn

POINT = MaskPrompt(points=np.array([[30.0, 48.0]]), labels=np.array([1]))
POINTS = MaskPrompt(points=np.array([[30.0, 48.0], [90.0, 20.0]]), labels=np.array([1, 0]))
BOX = MaskPrompt(box=Box(8, 20, 56, 76))
BOTH = MaskPrompt(box=Box(8, 20, 56, 76), points=np.array([[30.0, 48.0]]), labels=np.array([1]))
KINDS = ("tokens", "plm", "lora", "decoder")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [POINT, POINTS, BOX, BOTH], ids=["point", "points", "box", "both"])
def test_an_untrained_arm_is_equal_to_the_segmenter_to_the_bit(
    kind: str, prompt: MaskPrompt, segmenter: HFSamSegmenter
) -> None:
    (embedding,) = segmenter.encode([drawn(1).image])
    (wanted,) = segmenter.decode(embedding, [prompt])
    sam = TrainableSam(segmenter)
    arm = make_arm(kind, sam, ["disc"])
    decoder = AdaptedDecoder(
        segmenter, Adaptation(weights=Weights(kind, tensors_of(kind, sam, arm), label_order(kind, ["disc"])))
    )
    (found,) = decoder.decode(decoder.sam.adopt(embedding), [prompt], "disc")
    assert np.array_equal(found.logits, wanted.logits)
    assert np.array_equal(found.low_res, wanted.low_res)
    assert np.array_equal(found.iou, wanted.iou)


def test_a_mask_prompt_and_slot_0_are_decoded_as_the_segmenter_does(segmenter: HFSamSegmenter) -> None:
    (embedding,) = segmenter.encode([drawn(1).image])
    (first,) = segmenter.decode(embedding, [POINT])
    again = MaskPrompt(points=POINT.points, labels=POINT.labels, mask_input=first.low_res[0])
    (wanted,) = segmenter.decode(embedding, [again], multimask=False)
    decoder = AdaptedDecoder(segmenter, Adaptation(outlines={"disc": Outline(slot=0)}))
    (found,) = decoder.decode(decoder.sam.adopt(embedding), [again], "disc")
    assert np.array_equal(found.logits, wanted.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_every_arm_learns_and_its_kept_tensors_decode_alike(kind: str, segmenter: HFSamSegmenter) -> None:
    example = drawn(5)
    sam = TrainableSam(segmenter)
    arm = make_arm(kind, sam, ["disc"])
    samples = Cache(sam, Augmentation(views=2)).samples(example)
    losses = train(sam, arm, samples, lambda _: 2, Schedule(steps=30, rate=3e-3 if kind != "tokens" else 3e-2))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    kept = Adaptation(weights=Weights(kind, tensors_of(kind, sam, arm), label_order(kind, ["disc"])))
    if isinstance(arm, torch.nn.Module):
        arm.eval()  # attention takes a faster path in use, which differs in the last bits
    decoder = AdaptedDecoder(segmenter, kept)
    (encoded,) = decoder.encode([example.image])
    with torch.inference_mode():
        wanted, _ = sam.logits([encoded], [POINT], (1, 2, 3), arm.adjust(["disc"]))
    (found,) = decoder.decode(encoded, [POINT], "disc")
    assert np.array_equal(found.low_res, wanted[0].numpy())


@pytest.mark.parametrize("kind", ["tokens", "plm"])
def test_a_label_that_the_arm_does_not_know_is_decoded_as_before(kind: str, segmenter: HFSamSegmenter) -> None:
    sam = TrainableSam(segmenter)
    arm = make_arm(kind, sam, ["disc"])
    samples = Cache(sam, Augmentation(views=1)).samples(drawn(5))
    train(sam, arm, samples, lambda _: 1, Schedule(steps=5, rate=1e-2))
    kept = Adaptation(weights=Weights(kind, tensors_of(kind, sam, arm), ("disc",)))
    decoder = AdaptedDecoder(segmenter, kept)
    (embedding,) = segmenter.encode([drawn(1).image])
    (wanted,) = segmenter.decode(embedding, [BOX])
    other = AdaptedSegmenter(decoder, segmenter, "something else")
    (found,) = other.decode(other.encode([drawn(1).image])[0], [BOX])
    assert np.array_equal(found.logits, wanted.logits)
    (own,) = decoder.decode(decoder.sam.adopt(embedding), [BOX], "disc")
    assert not np.array_equal(own.logits, wanted.logits)


def test_training_never_touches_the_segmenter_that_serves(segmenter: HFSamSegmenter) -> None:
    before = {name: value.clone() for name, value in segmenter.model.state_dict().items()}
    fitter = Fitter(segmenter, FitOptions(steps=4, augmentation=Augmentation(views=1)))
    for arm in ("plm", "lora", "decoder"):
        fitter.fit(arm, [drawn(1), drawn(2)])  # type: ignore[arg-type]
    after = segmenter.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_weights_of_another_segmenter_are_refused(segmenter: HFSamSegmenter) -> None:
    odd = {"vectors": np.zeros((1, 7), dtype=np.float32)}
    with pytest.raises(ValueError, match="do not fit this segmenter"):
        restore(TrainableSam(segmenter), Weights("tokens", odd, ("disc",)))


def test_resumed_training_equals_uninterrupted_training(segmenter: HFSamSegmenter) -> None:
    def run(steps_until_stop: int | None) -> dict[str, np.ndarray]:
        sam = TrainableSam(segmenter)
        torch.manual_seed(0)
        arm = make_arm("plm", sam, ["disc"])
        samples = Cache(sam, Augmentation(views=2)).samples(drawn(5, count=2))
        schedule, states = Schedule(steps=12, rate=1e-3), []
        if steps_until_stop is None:
            train(sam, arm, samples, lambda _: 1, schedule)
            return tensors_of("plm", sam, arm)

        def stop(done: int, total: int) -> None:
            if done == steps_until_stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(sam, arm, samples, lambda _: 1, schedule, keep=states.append, keep_every=3, step_done=stop)
        sam = TrainableSam(segmenter)
        torch.manual_seed(1)  # the kept state decides, not what the module begins with
        arm = make_arm("plm", sam, ["disc"])
        samples = Cache(sam, Augmentation(views=2)).samples(drawn(5, count=2))
        train(sam, arm, samples, lambda _: 1, schedule, state=states[-1])
        return tensors_of("plm", sam, arm)

    whole, resumed = run(None), run(8)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_nothing_to_learn_from_is_said(segmenter: HFSamSegmenter) -> None:
    empty = Example(drawn(1).image, ())
    with pytest.raises(ValueError, match="no example has an object"):
        Fitter(segmenter).fit("slots", [empty])


def test_the_slot_that_means_the_label_is_found(segmenter: HFSamSegmenter) -> None:
    """The truth is what slot 3 draws: the choice must be slot 3, on images that it was not chosen on too."""
    decoder = AdaptedDecoder(segmenter, Adaptation())
    asked = []
    for seed in range(6):
        example = drawn(seed)
        (encoded,) = decoder.encode([example.image])
        for entry in ask(example, encoded):
            logits, _ = decoder.slot_logits(encoded, entry.prompt, "disc")
            asked.append(Asked(encoded, entry.prompt, logits[3] > 0, "disc", example.unit))
    found = choose_slots(decoder, asked)
    assert found.get("disc", Outline()).slot in (3, None)
    values = [decoder.slot_logits(entry.encoded, entry.prompt, "disc") for entry in asked]
    if any((logits[3] > 0).sum() != (logits[taken] > 0).sum() for logits, taken in values):
        assert found["disc"].slot == 3


def test_a_wider_outline_convention_is_learned_as_an_offset(segmenter: HFSamSegmenter) -> None:
    decoder = AdaptedDecoder(segmenter, Adaptation())
    asked = []
    for seed in range(5):
        example = drawn(seed)
        (encoded,) = decoder.encode([example.image])
        (target,) = example.targets
        wide = Outline(offset=0.12).apply(np.where(target.mask, np.float32(1), np.float32(-1))) > 0
        asked += [Asked(encoded, entry.prompt, wide, "disc", example.unit) for entry in ask(example, encoded)]
    assert 0.05 <= choose_outlines(decoder, asked)["disc"].offset <= 0.2


@pytest.mark.parametrize(
    ("gains", "changes"),
    [
        ([0.2, 0.21, 0.19, 0.2], True),
        ([0.3, -0.25, 0.2, -0.2], False),  # within one standard error
        ([-0.1, -0.1, -0.1], False),
        ([0.02], False),  # one image alone must speak clearly
        ([0.3], True),
    ],
)
def test_choices_change_only_above_one_standard_error(gains: list[float], changes: bool) -> None:
    table = np.array([[0.5, 0.5 + gain] for gain in gains])
    assert best_column(table, [str(i) for i in range(len(gains))]) == int(changes)


def test_prompts_of_one_image_are_one_piece_of_evidence() -> None:
    table = np.array([[0.5, 0.9]] * 50 + [[0.5, 0.1]])
    assert best_column(table, ["same"] * 50 + ["other"]) == 0


def test_scores_notice_a_click_that_covers_the_other_object(segmenter: HFSamSegmenter) -> None:
    example = drawn(7, count=2)
    decoder = AdaptedDecoder(segmenter, Adaptation())
    (encoded,) = decoder.encode([example.image])
    fair = score(decoder, example, encoded)
    greedy = AdaptedDecoder(segmenter, Adaptation(outlines={"disc": Outline(threshold=-1e6)}))
    leaking = score(greedy, example, encoded)
    assert fair.leak is not None
    assert leaking.leak is not None
    assert leaking.leak > fair.leak + 0.02
    assert fair.value > leaking.value
    assert score(decoder, drawn(7), decoder.encode([drawn(7).image])[0]).leak is None


def test_the_same_prompts_are_asked_in_every_session() -> None:
    example = drawn(9, count=2)
    first, second = ask(example, None), ask(example, None)  # type: ignore[arg-type]
    assert len(first) == 8
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.prompt.points, other.prompt.points)
        assert one.prompt.box == other.prompt.box
    assert disc((4, 4), 2, 2, 2).any()


def test_a_slot_is_chosen_for_clicks_and_for_boxes_apart(segmenter: HFSamSegmenter) -> None:
    """Clicks mean slot 3, boxes what SAM would take: the choice for clicks leaves masks of boxes to the bit."""
    fitter = Fitter(segmenter, FitOptions(steps=2))
    decoder = AdaptedDecoder(segmenter, Adaptation())
    examples = [drawn(seed) for seed in range(5)]
    asked = []
    for example in examples:
        (encoded,) = decoder.encode([example.image])
        for entry in ask(example, encoded):
            logits, taken = decoder.slot_logits(encoded, entry.prompt, "disc")
            truth = logits[taken if entry.prompt.box is not None else 3] > 0
            asked.append(Asked(encoded, entry.prompt, truth, "disc", example.unit))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitter, "_asked", lambda _: asked)
        found = fitter.fit("slots", examples)
    assert found.outline("disc").slot == 3
    assert found.outline("disc", boxed=True) == Outline()
    adapted = AdaptedDecoder(segmenter, found)
    (encoded,) = adapted.encode([examples[0].image])
    (mine,), (base,) = adapted.decode(encoded, [BOX], "disc"), decoder.decode(encoded, [BOX], "disc")
    assert np.array_equal(mine.logits, base.logits)
    assert len(adapted.decode(encoded, [POINT], "disc")[0].logits) == 1


def test_an_outline_that_covers_other_objects_is_not_chosen(segmenter: HFSamSegmenter) -> None:
    """Wider outlines fit the truth better, but reach into the neighbour on the images that have one."""
    decoder = AdaptedDecoder(segmenter, Adaptation())

    def asked(neighbour: bool) -> list[Asked]:
        found = []
        for seed in range(6):
            example = drawn(seed)
            (encoded,) = decoder.encode([example.image])
            for entry in ask(example, encoded):
                logits, taken = decoder.slot_logits(encoded, entry.prompt, "disc")
                wide = Outline(offset=0.12).apply(logits[taken]) > 0
                rim = wide & ~(Outline(offset=0.05).apply(logits[taken]) > 0)
                truth, others = (wide & ~rim, (rim,)) if neighbour and seed < 2 else (wide, ())
                found.append(Asked(encoded, entry.prompt, truth, "disc", example.unit, others))
        return found

    assert choose_outlines(decoder, asked(neighbour=False))["disc"].offset >= 0.08
    careful = choose_outlines(decoder, asked(neighbour=True)).get("disc", Outline())
    assert careful.offset <= 0.05
