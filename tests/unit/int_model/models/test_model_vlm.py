from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from int_model.core.types import Image
from int_model.models.adapters.imaging import mean_colour, shrink
from int_model.models.adapters.vlm_inputs import ImageFitting
from int_model.models.protocols import ContrastiveVisionLanguage, CoordinateFrame, VisionLanguage, was_cut
from tests.unit.int_model.models.tiny import picture, save_qwen

NAMES = ("moth", "hidden zebra fish", "animal")
IMAGES = [picture(40, 56, 1), picture(64, 24, 2), picture(48, 48, 3)]
QUESTIONS = ["Name of the animal in one word.", "What hides here, on the bark of this tree?", "Name?"]


@pytest.fixture(scope="module")
def vlm(load_vlm: Any, profile: Path) -> VisionLanguage:
    return load_vlm(profile.parent / "vlm")


def squared(image: Image, colour: tuple[int, int, int]) -> PIL.Image.Image:
    """Padding by Pillow: another way to the same picture."""
    side = max(image.shape[:2])
    canvas = PIL.Image.new("RGB", (side, side), colour)
    canvas.paste(PIL.Image.fromarray(image), ((side - image.shape[1]) // 2, (side - image.shape[0]) // 2))
    return canvas


def naive_token_probabilities(folder: Path, image: Image, question: str, name: str, lead: str = " ") -> np.ndarray:
    """One full, unbatched forward pass over the processor's own inputs, float32 softmax per answer token."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    colour = tuple(int(255 * mean) for mean in processor.image_processor.image_mean)
    special = not prompt.startswith("<s>")

    def encode(text: str) -> Any:
        return processor(
            images=[[squared(image, colour)]], text=[text], return_tensors="pt", add_special_tokens=special
        )

    with torch.no_grad():
        whole = encode(prompt + lead + name)
        logits = model(**whole).logits[0]
    start = encode(prompt)["input_ids"].shape[1]
    ids = whole["input_ids"][0, start:]
    probabilities = torch.softmax(logits[start - 1 : -1], dim=-1)
    return probabilities[torch.arange(len(ids)), ids].double().numpy()


def test_it_is_a_vision_language_model(vlm: VisionLanguage) -> None:
    assert isinstance(vlm, VisionLanguage)
    assert vlm.frame == CoordinateFrame(padded=True, units="auto")


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_equal_a_naive_forward_pass(vlm: VisionLanguage, profile: Path, name: str) -> None:
    tokens = naive_token_probabilities(profile.parent / "vlm", IMAGES[0], QUESTIONS[0], name)
    expected = {
        "mean": np.exp(np.log(tokens).mean()),
        "first": tokens[0],
        "max": tokens.max(),
    }
    for reduce, value in expected.items():
        [row] = vlm.score(IMAGES[:1], QUESTIONS[:1], [[name]], reduce)  # type: ignore[arg-type]
        assert row.dtype == np.float64
        np.testing.assert_allclose(row, [value], rtol=1e-4)


def test_prod_is_the_probability_of_the_name_as_a_whole_answer_in_any_of_its_forms(
    vlm: VisionLanguage, profile: Path
) -> None:
    folder = profile.parent / "vlm"
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    forms: dict[tuple[int, ...], str] = {}
    for form in ("moth", "Moth"):
        ids = tuple(tokenizer(" " + form, add_special_tokens=False)["input_ids"])
        if form == "moth" or tokenizer.unk_token_id not in ids:
            forms.setdefault(ids, form)
    ended = [
        naive_token_probabilities(folder, IMAGES[0], QUESTIONS[0], form + tokenizer.eos_token).prod()
        for form in forms.values()
    ]
    [row] = vlm.score(IMAGES[:1], QUESTIONS[:1], [["moth"]], "prod")
    np.testing.assert_allclose(row, [sum(ended)], rtol=1e-4)


def test_a_name_of_many_tokens_is_scored_token_by_token(profile: Path) -> None:
    assert len(naive_token_probabilities(profile.parent / "vlm", IMAGES[0], QUESTIONS[0], "hidden zebra fish")) > 5


def test_distributions_hold_the_probabilities_of_the_answer(vlm: VisionLanguage, profile: Path) -> None:
    answers = ["hidden zebra fish", "moth", "animal"]
    rows = vlm.answer_distributions(IMAGES, QUESTIONS, answers)
    for image, question, answer, row in zip(IMAGES, QUESTIONS, answers, rows, strict=True):
        assert row.dtype == np.float32
        np.testing.assert_allclose(row.sum(axis=1), 1, atol=1e-5)
        tokens = naive_token_probabilities(profile.parent / "vlm", image, question, answer)
        assert len(row) == len(tokens)
        assert all(np.isclose(line, token, rtol=1e-3).any() for line, token in zip(row, tokens, strict=True))


@pytest.mark.parametrize(
    "options", [{"share_prefix": False}, {"max_batch": 1}, {"max_batch": 2}, {"feature_cache_mb": 0}]
)
def test_sharing_batching_and_caching_do_not_change_scores(
    vlm: VisionLanguage, load_vlm: Any, profile: Path, options: dict[str, Any]
) -> None:
    other = load_vlm(profile.parent / "vlm", **options)
    names = [NAMES, NAMES[:1], ()]
    for ours, theirs in zip(vlm.score(IMAGES, QUESTIONS, names), other.score(IMAGES, QUESTIONS, names), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert [len(row) for row in other.score(IMAGES, QUESTIONS, names)] == [3, 1, 0]


def test_only_the_image_changes_the_score(vlm: VisionLanguage) -> None:
    """D is 0 when X' equals X, and changes when nothing but X' changes."""
    original = IMAGES[0]
    inpainted = original.copy()
    inpainted[10:30, 10:40] = 127
    question = QUESTIONS[0]
    p, same, other = vlm.score([original, original.copy(), inpainted], [question] * 3, [NAMES] * 3)
    assert np.array_equal(p, same)
    assert (np.abs(p - other) > 1e-3 * p).all()
    [alone] = vlm.score([original], [question], [NAMES])
    np.testing.assert_allclose(alone, p, rtol=1e-5)


def test_what_a_centre_crop_would_hide_changes_the_score(vlm: VisionLanguage) -> None:
    """The released code cropped the centre: the outer quarters of a 2:1 image were invisible."""
    wide = picture(32, 64, 4)
    changed = wide.copy()
    changed[:, :8] = 255 - changed[:, :8]
    before, after = vlm.score([wide, changed], [QUESTIONS[0]] * 2, [NAMES] * 2)
    assert not np.allclose(before, after, rtol=1e-3)


def test_a_dialogue_is_the_same_alone_and_in_a_batch(vlm: VisionLanguage) -> None:
    turns = [(question, "And where?", "Say it again.") for question in QUESTIONS]
    together = vlm.dialogue(IMAGES, turns, (6, 3, 4))
    alone = [vlm.dialogue([image], [turn], (6, 3, 4))[0] for image, turn in zip(IMAGES, turns, strict=True)]
    assert together == alone
    assert [len(answers) for answers in together] == [3, 3, 3]


def test_a_dialogue_tells_which_answers_ended_by_themselves(load_vlm: Any, profile: Path, tmp_path: Path) -> None:
    """Naive generation tells what comes; a token of it becomes an end token, before or behind which the limit cuts."""
    folder = Path(shutil.copytree(profile.parent / "vlm", tmp_path / "vlm"))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": "Name?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=[squared(IMAGES[0], (122, 116, 104))], text=[text], return_tensors="pt")
    with torch.no_grad():
        said = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    end = next(token for i, token in enumerate(said) if i > 1 and token not in said[:i])
    model.generation_config.eos_token_id = [model.generation_config.eos_token_id, end]
    model.generation_config.save_pretrained(folder)
    vlm = load_vlm(folder)
    at = said.index(end) + 1
    for limit, cut in ((1, True), (at - 1, True), (at, False), (at + 5, False)):
        [(answer,)] = vlm.dialogue(IMAGES[:1], [("Name?",)], (limit,))
        assert was_cut(answer) == cut
    [(one,), (two,)] = vlm.dialogue([IMAGES[0], IMAGES[0]], [("Name?",), ("Name?",)], (at,))
    assert (was_cut(one), was_cut(two)) == (False, False)


def test_a_dialogue_equals_generation_from_the_processors_inputs(vlm: VisionLanguage, profile: Path) -> None:
    folder = profile.parent / "vlm"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    image = squared(IMAGES[0], (122, 116, 104))
    [(first, second)] = vlm.dialogue(IMAGES[:1], [("Name?", "Where?")], (5, 5))
    chat: list[dict[str, Any]] = []
    for question, expected in (("Name?", first), ("Where?", second)):
        content = [] if chat else [{"type": "image"}]
        chat.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = processor(images=[image], text=[text], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        answer = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert answer == expected
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})


def naive_contrast(
    folder: Path, image: Image, other: Image, question: str, alpha: float, length: int, plausible: float = 0.0
) -> str:
    """Greedy contrastive decoding by full, unbatched, uncached passes over the processor's own inputs."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    colour = tuple(int(255 * mean) for mean in processor.image_processor.image_mean)
    inputs = [processor(images=[[squared(i, colour)]], text=[prompt], return_tensors="pt") for i in (image, other)]
    said: list[int] = []
    for _ in range(length):
        rows = []
        for branch in inputs:
            ids = torch.cat([branch["input_ids"], torch.tensor([said], dtype=torch.long)], dim=1)
            with torch.no_grad():
                out = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=branch["pixel_values"])
            rows.append(out.logits[0, -1])
        chances = torch.softmax(rows[0], dim=-1)
        contrast = (1 + alpha) * rows[0] - alpha * rows[1]
        contrast[chances < plausible * chances.max()] = -torch.inf
        token = int(contrast.argmax())
        if token == model.generation_config.eos_token_id:
            break
        said.append(token)
    return str(processor.tokenizer.decode(said, skip_special_tokens=True)).strip()


@pytest.mark.parametrize(("alpha", "plausible"), [(0.5, 0.0), (1.0, 0.0), (3.0, 0.0), (1.0, 0.1), (3.0, 0.6)])
def test_contrastive_answers_equal_naive_ones_alone_and_in_a_batch(
    vlm: ContrastiveVisionLanguage, profile: Path, alpha: float, plausible: float
) -> None:
    others = [picture(40, 56, 11), picture(64, 24, 12), picture(48, 48, 13)]
    expected = [
        (naive_contrast(profile.parent / "vlm", image, other, question, alpha, 6, plausible),)
        for image, other, question in zip(IMAGES, others, QUESTIONS, strict=True)
    ]
    questions = [(question,) for question in QUESTIONS]
    assert vlm.contrast(IMAGES, others, questions, (6,), alpha, plausible) == expected
    alone = [
        vlm.contrast([i], [o], [q], (6,), alpha, plausible)[0]
        for i, o, q in zip(IMAGES, others, questions, strict=True)
    ]
    assert alone == expected


def test_the_other_image_decides_and_without_one_a_contrast_is_a_dialogue(vlm: Any) -> None:
    """A contrast branch that never sees its image gives the same answer whatever is in it."""
    turns = [(QUESTIONS[0], QUESTIONS[1])] * len(IMAGES)
    plain = vlm.dialogue(IMAGES, turns, (6, 5))
    others = [picture(*image.shape[:2], 20 + i) for i, image in enumerate(IMAGES)]
    assert vlm.contrast(IMAGES, IMAGES, turns, (6, 5), 1.0) == plain
    assert vlm.contrast(IMAGES, others, turns, (6, 5), 0.0) == plain
    assert vlm.contrast(IMAGES, others, turns, (6, 5), 3.0) != plain
    assert vlm.contrast(IMAGES, others, turns, (6, 5), 3.0, 1.0) == plain  # only the likeliest token is plausible
    with pytest.raises(ValueError, match="lists of one length"):
        vlm.contrast(IMAGES, IMAGES[:1], turns, (6, 5), 1.0)
    with pytest.raises(ValueError, match="as many questions"):
        vlm.contrast(IMAGES, IMAGES, turns, (6,), 1.0)


@pytest.mark.parametrize("version", ["2", "2_5"])
def test_contrast_with_two_dimensional_positions(load_vlm: Any, tmp_path: Path, version: str) -> None:
    pytest.importorskip("torchvision", reason="the extra 'qwen' is not installed")
    save_qwen(tmp_path, version)
    model = load_vlm(tmp_path, padded=False, max_batch=4)
    turns = [(question,) for question in QUESTIONS]
    others = [picture(*image.shape[:2], 20 + i) for i, image in enumerate(IMAGES)]
    assert model.contrast(IMAGES, IMAGES, turns, (6,), 1.0) == model.dialogue(IMAGES, turns, (6,))
    together = model.contrast(IMAGES, others, turns, (6,), 2.0)
    assert together == [
        model.contrast([i], [o], [q], (6,), 2.0)[0] for i, o, q in zip(IMAGES, others, turns, strict=True)
    ]


def test_an_image_is_encoded_once_however_often_it_is_asked_about(load_vlm: Any, profile: Path) -> None:
    vlm = load_vlm(profile.parent / "vlm")
    model = vlm._model
    encoded: list[int] = []
    encode = model.get_image_features

    def counting(pixel_values: torch.Tensor) -> Any:
        encoded.append(len(pixel_values))
        return encode(pixel_values=pixel_values)

    model.get_image_features = counting
    vlm.dialogue(IMAGES, [("Name?", "Where?", "Box?")] * 3, (2, 2, 2))
    vlm.score(IMAGES, QUESTIONS, [NAMES] * 3)
    vlm.score([IMAGES[0]] * 2, QUESTIONS[:2], [NAMES] * 2)
    assert sum(encoded) == 3


def test_a_placeholder_in_a_prompt_does_not_ask_for_another_image(vlm: VisionLanguage) -> None:
    plain = vlm.score(IMAGES[:1], ["Name of animal?"], [["moth"]])
    marked = vlm.score(IMAGES[:1], ["Name of<image> animal?"], [["moth"]])
    np.testing.assert_allclose(marked[0], plain[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vlm: vlm.score(IMAGES, QUESTIONS[:1], [NAMES] * 3), "one length"),
        (lambda vlm: vlm.score(IMAGES[:1], QUESTIONS[:1], [[" "]]), "not blank"),
        (lambda vlm: vlm.dialogue(IMAGES[:1], [("a", "b")], (3,)), "max_new_tokens"),
        (lambda vlm: vlm.score([np.zeros((4, 4), np.uint8)], ["a"], [["b"]]), "uint8 array of shape"),
    ],
)
def test_wrong_calls_say_what_is_wrong(vlm: VisionLanguage, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(vlm)


def test_no_images_no_answers(vlm: VisionLanguage) -> None:
    assert vlm.dialogue([], [], (3,)) == []
    assert vlm.score([], [], []) == []
    assert vlm.answer_distributions([], [], []) == []


def test_thin_and_single_pixel_images_are_answered(vlm: VisionLanguage) -> None:
    images = [picture(1, 1), picture(3, 90), picture(2, 3)]
    rows = vlm.score(images, ["Name?"] * 3, [["moth"]] * 3)
    assert all(0 < row[0] < 1 for row in rows)


class TestAnotherFamily:
    """Idefics3: image tiles, the processor's own inputs, a template without a space before the answer."""

    def test_probabilities_equal_a_naive_forward_pass(self, load_vlm: Any, idefics: Path) -> None:
        for share in (True, False):
            vlm = load_vlm(idefics, share_prefix=share)
            rows = vlm.score(IMAGES, QUESTIONS, [NAMES] * 3)
            for image, question, row in zip(IMAGES, QUESTIONS, rows, strict=True):
                tokens = [naive_token_probabilities(idefics, image, question, name, lead="") for name in NAMES]
                expected = [np.exp(np.log(t).mean()) for t in tokens]
                np.testing.assert_allclose(row, expected, rtol=2e-4)

    def test_a_dialogue_is_the_same_alone_and_in_a_batch(self, load_vlm: Any, idefics: Path) -> None:
        vlm = load_vlm(idefics)
        turns = [(question, "And where?") for question in QUESTIONS]
        assert vlm.dialogue(IMAGES, turns, (4, 4)) == [
            vlm.dialogue([image], [turn], (4, 4))[0] for image, turn in zip(IMAGES, turns, strict=True)
        ]


@pytest.mark.parametrize("version", ["2", "3"])
def test_two_dimensional_positions_survive_the_shared_prefix(load_vlm: Any, tmp_path: Path, version: str) -> None:
    pytest.importorskip("torchvision", reason="the extra 'qwen' is not installed")
    save_qwen(tmp_path, version)
    vlm = load_vlm(tmp_path, padded=False, units="thousand", max_side=96)
    full = load_vlm(tmp_path, padded=False, units="thousand", max_side=96, share_prefix=False)
    rows = zip(vlm.score(IMAGES, QUESTIONS, [NAMES] * 3), full.score(IMAGES, QUESTIONS, [NAMES] * 3), strict=True)
    for ours, theirs in rows:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    tokens = naive_token_probabilities(tmp_path, IMAGES[2], QUESTIONS[2], NAMES[1], lead="")
    [[row]] = vlm.score(IMAGES[2:], QUESTIONS[2:], [NAMES[1:2]])
    assert row == pytest.approx(np.exp(np.log(tokens).mean()), rel=1e-4)
    turns = [(question, "And where?") for question in QUESTIONS]
    assert vlm.dialogue(IMAGES, turns, (4, 4)) == [
        vlm.dialogue([image], [turn], (4, 4))[0] for image, turn in zip(IMAGES, turns, strict=True)
    ]


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_padding_keeps_every_pixel_in_the_middle(height: int, width: int) -> None:
    class Processor:
        image_mean = (0.481, 0.457, 0.408)

    image = picture(height, width)
    square = ImageFitting(Processor(), padded=True, max_side=0)(image)
    side = max(height, width)
    assert square.shape == (side, side, 3)
    top, left = (side - height) // 2, (side - width) // 2
    assert np.array_equal(square[top : top + height, left : left + width], image)
    rest = np.ones((side, side), bool)
    rest[top : top + height, left : left + width] = False
    assert (square[rest] == mean_colour(Processor.image_mean)).all()
    assert np.array_equal(ImageFitting(Processor(), padded=False, max_side=0)(image), image)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_shrinking_bounds_the_longer_side(height: int, width: int, longest: int) -> None:
    small = shrink(picture(height, width), longest)
    if max(height, width) <= longest:
        assert small.shape == (height, width, 3)
    else:
        assert max(small.shape[:2]) == longest
        assert min(small.shape[:2]) >= 1
