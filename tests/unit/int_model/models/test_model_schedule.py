"""What a vision-language model has read once it does not read again, and no answer changes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from int_model.models.adapters.imaging import by_size
from int_model.models.protocols import was_cut
from tests.unit.int_model.models.tiny import picture, save_qwen

IMAGES = [picture(40, 56, 1), picture(64, 24, 2), picture(48, 48, 3)]
TURNS = [
    (q, "And where?", "Say it again.", "Where exactly?") for q in ("Name of the animal in one word.", "What?", "N?")
]
LIMITS = (7, 3, 1, 5)
QUESTION = "Which of them is it, on the bark of this tree?"
NAMES = ("moth", "hidden zebra fish")


def counted(vlm: Any) -> Counter[str]:
    """Tokens that the language model computes: ``read`` of prompts, ``said`` one at a time; ``images`` encoded."""
    decoder, counts = vlm._model.get_decoder(), Counter[str]()
    forward: Callable[..., Any] = decoder.forward

    def count(*arguments: Any, **options: Any) -> Any:
        inputs = options["inputs_embeds"]
        counts["read" if inputs.shape[1] > 1 else "said"] += inputs.shape[0] * inputs.shape[1]
        return forward(*arguments, **options)

    decoder.forward = count
    return counts


@pytest.fixture(params=["llava", "idefics"])
def folder(request: pytest.FixtureRequest, profile: Path) -> Path:
    return profile.parent / "vlm" if request.param == "llava" else request.getfixturevalue("idefics")


@pytest.fixture
def kept(load_vlm: Any, folder: Path) -> Any:
    return load_vlm(folder)


@pytest.fixture
def plain(load_vlm: Any, folder: Path) -> Any:
    return load_vlm(folder, share_prefix=False)


def test_later_turns_read_only_what_is_new_and_are_answered_the_same(kept: Any, plain: Any) -> None:
    before, now = counted(plain), counted(kept)
    assert kept.dialogue(IMAGES, TURNS, LIMITS) == plain.dialogue(IMAGES, TURNS, LIMITS)
    assert 0 < 2 * now["read"] < before["read"]


def test_what_the_limit_cut_is_told_from_what_ended_by_itself(kept: Any, plain: Any) -> None:
    for vlm in (kept, plain):
        vlm._generation.eos_token_id = vlm._tokenizer.convert_tokens_to_ids([vlm._tokenizer.tokenize("e")[0], "</s>"])
    said, expected = kept.dialogue(IMAGES, TURNS, (12,) * 4), plain.dialogue(IMAGES, TURNS, (12,) * 4)
    assert said == expected
    assert [[was_cut(a) for a in row] for row in said] == [[was_cut(a) for a in row] for row in expected]


def test_answers_of_different_lengths_do_not_disturb_each_other(kept: Any) -> None:
    """Rows end at different steps; what the longer ones fed meanwhile must stay unseen."""
    ends = kept._tokenizer.convert_tokens_to_ids([kept._tokenizer.tokenize("e")[0], "</s>"])
    kept._generation.eos_token_id = ends
    together = kept.dialogue(IMAGES, TURNS, (12, 12, 12, 12))
    alone = [kept.dialogue([image], [turns], (12,) * 4)[0] for image, turns in zip(IMAGES, TURNS, strict=True)]
    assert together == alone


def test_scoring_goes_on_from_what_the_dialogue_read(kept: Any, load_vlm: Any, folder: Path) -> None:
    fresh = load_vlm(folder)
    expected = fresh.score(IMAGES, [QUESTION] * 3, [NAMES] * 3)
    kept.dialogue(IMAGES, TURNS, LIMITS)
    before, now = counted(fresh), counted(kept)
    fresh.score(IMAGES, [QUESTION] * 3, [NAMES] * 3)
    found = kept.score(IMAGES, [QUESTION] * 3, [NAMES] * 3)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert now["read"] < before["read"]


def test_images_that_no_dialogue_was_about_are_scored_beside_those_that_one_was(kept: Any, plain: Any) -> None:
    kept.dialogue(IMAGES[:2], TURNS[:2], LIMITS)
    others = [IMAGES[2], IMAGES[0], picture(40, 56, 9), IMAGES[1]]
    expected = plain.score(others, [QUESTION] * 4, [NAMES] * 4)
    for ours, theirs in zip(kept.score(others, [QUESTION] * 4, [NAMES] * 4), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_nothing_is_kept_longer_than_until_the_first_scoring_nor_beyond_its_share_of_memory(
    kept: Any, load_vlm: Any, folder: Path
) -> None:
    kept.dialogue(IMAGES, TURNS, LIMITS)
    assert len(kept._kept) == 3
    kept.dialogue(IMAGES[:1], TURNS[:1], LIMITS)
    assert len(kept._kept) == 1
    kept.score(IMAGES[:1], [QUESTION], [NAMES])
    assert len(kept._kept) == 0
    none = load_vlm(folder, prefix_cache_mb=0)
    assert none.dialogue(IMAGES, TURNS, LIMITS) == kept.dialogue(IMAGES, TURNS, LIMITS)
    assert len(none._kept) == 0


def test_a_template_that_words_the_first_turn_anew_is_read_anew(profile: Path, load_vlm: Any) -> None:
    """Nothing that was read is taken for something else: such a prompt is read as a whole."""
    template = (
        "{% for m in messages %}{{ m['role'] }}{{ messages | length }}: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    ours, plain = load_vlm(profile.parent / "vlm"), load_vlm(profile.parent / "vlm", share_prefix=False)
    for vlm in (ours, plain):
        vlm._processor.chat_template = template
    assert ours.dialogue(IMAGES, TURNS, LIMITS) == plain.dialogue(IMAGES, TURNS, LIMITS)


@pytest.mark.parametrize("version", ["2", "3"])
def test_models_that_count_an_image_in_two_dimensions(version: str, load_vlm: Any, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the extra 'qwen' is not installed")
    save_qwen(tmp_path / "qwen", version)
    options = {"padded": False, "units": "thousand"}
    ours = load_vlm(tmp_path / "qwen", **options)
    plain = load_vlm(tmp_path / "qwen", **options, share_prefix=False)
    images = [picture(56, 84, 1), picture(112, 56, 2), picture(64, 64, 3)]
    assert ours.dialogue(images, TURNS, LIMITS) == plain.dialogue(images, TURNS, LIMITS)
    expected = plain.score(images, [QUESTION] * 3, [NAMES] * 3)
    before, now = counted(plain), counted(ours)
    for mine, theirs in zip(ours.score(images, [QUESTION] * 3, [NAMES] * 3), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4)
    plain.score(images, [QUESTION] * 3, [NAMES] * 3)
    assert now["read"] < before["read"]


def test_batches_hold_images_of_about_one_size() -> None:
    sizes = [(40, 40), (80, 80), (40, 80), (80, 40), (80, 80)]
    order = by_size([picture(*size) for size in sizes])
    assert [sizes[i] for i in order] == [(80, 80), (80, 80), (40, 80), (80, 40), (40, 40)]
    assert order[:2] == [1, 4]
