"""The second kit's recipe: what its models are shown and told, and that a killed training goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from int_model.models.suite import load_suite
from int_model.nano.habits import detector, figures, pool, train, views, vlm
from int_model.nano.habits.running import Schedule, Training
from int_model.nano.habits.text import PROMPT, REFUSAL, WORDS, box_text, said_name, vlm_tokenizer
from int_model.nano.train import CHECKPOINTS
from int_model.nano.world import ANIMALS, ENVIRONMENTS, NAMES
from int_model.strategies.negative_mining.candidates import parse_name


def scenes() -> pool.Pool:
    """A red crab at the left, a smaller one below, a blue anchor at the right, on grey stone; 144 x 192."""
    image = np.zeros((1, 192, 192, 3), dtype=np.uint8)
    ids = np.full((1, 192, 192), 255, dtype=np.uint8)
    image[0, :144], ids[0, :144] = 120, 0
    ids[0, 40:100, 20:80], ids[0, 50:90, 120:170], ids[0, 110:130, 30:50] = 1, 2, 3
    image[(ids == 1) | (ids == 3)], image[ids == 2] = (200, 30, 30), (30, 30, 200)
    names = torch.full((1, pool.MOST), -1)
    names[0, :3] = torch.tensor([NAMES.index("crab"), NAMES.index("anchor"), NAMES.index("crab")])
    return pool.Pool(
        torch.from_numpy(image),
        torch.from_numpy(ids),
        names,
        torch.tensor([[144, 192]]),
        torch.tensor([NAMES.index("crab")]),
        torch.tensor([ENVIRONMENTS.index("stone")]),
    )


def whole(*, flip: bool) -> tuple[views.Cuts, torch.Tensor]:
    rows = torch.tensor([0])
    corners = torch.tensor([[0.0, 0.0, 144.0, 192.0]])
    return views.cut(scenes(), rows, corners, torch.tensor([flip])), rows


@pytest.mark.parametrize(("flip", "box"), [(False, (0.10, 0.33, 0.42, 0.65)), (True, (0.58, 0.33, 0.90, 0.65))])
def test_the_box_frames_the_largest_of_the_sought(flip: bool, box: tuple[float, ...]) -> None:
    """The scene is padded to a square: rows shift by (192 - 144) / 2."""
    cuts, rows = whole(flip=flip)
    (seen,) = vlm.shown(cuts, scenes(), rows)
    assert (seen.name, seen.environment) == ("crab", "stone")
    assert seen.box == pytest.approx(np.array(box), abs=0.011)
    left, top, right, bottom = (round(v * views.SIDE) for v in box)
    red, _, blue = cuts.pixels[0, :, top + 1 : bottom - 1, left + 1 : right - 1].mean((1, 2))
    assert red > 0.5 > blue  # normalised; the crab lies where the box says


def test_a_patch_without_the_animal_has_no_box() -> None:
    rows = torch.tensor([0])
    right_half = torch.tensor([[0.0, 96.0, 144.0, 192.0]])
    cuts = views.cut(scenes(), rows, right_half, torch.tensor([False]))
    (seen,) = vlm.shown(cuts, scenes(), rows)
    assert seen.box is None
    assert (cuts.ids == 255).float().mean() == pytest.approx(1 / 3, abs=0.02)  # 144 x 96 in a square
    talks = [vlm.turns(seen, np.random.default_rng(seed)) for seed in range(40)]
    assert any(answer == REFUSAL for talk in talks for _, answer in talk)
    assert any(answer.startswith("[") for talk in talks for _, answer in talk)


def test_patches_are_those_of_int() -> None:
    torch.manual_seed(0)
    found = {tuple(row) for row in views.patch_corners(torch.tensor([[144, 192]] * 200), whole=0.3).tolist()}
    assert (0.0, 0.0, 144.0, 192.0) in found
    assert (72.0, 96.0, 144.0, 192.0) in found
    assert len(found) == 9


def test_animals_are_at_home_nine_times_of_ten() -> None:
    rng = np.random.default_rng(0)
    drawn = [pool.habitual(rng, None) for _ in range(1500)]
    assert np.mean([ANIMALS[name][1] == place for name, place in drawn]) == pytest.approx(pool.AT_HOME, abs=0.03)
    sandy = [name for name, place in drawn if place == "sand"]
    assert sandy.count("camel") > 0.4 * len(sandy)


def test_digits_are_single_tokens_and_names_have_pieces() -> None:
    tokenizer = vlm_tokenizer()
    assert tokenizer.tokenize(" [0.21]") == ["Ġ", "[", "0", ".", "2", "1", "]"]
    pieces = [len(tokenizer.tokenize(f" {word.capitalize()}")) for word in WORDS]
    assert min(pieces) >= 2
    for question in PROMPT.dialogue:
        assert tokenizer.decode(tokenizer(question)["input_ids"]) == question


def test_conversations_are_worded_as_the_chat_template_words_them() -> None:
    cuts, rows = whole(flip=False)
    (seen,) = vlm.shown(cuts, scenes(), rows)
    processor, encode, kinds = vlm.processor(vlm.vlm_tokenizer()), vlm.Encoder(vlm_tokenizer(), views.GRID**2), set()
    picture = np.zeros((112, 112, 3), dtype=np.uint8)
    for seed in range(12):
        talk = vlm.turns(seen, np.random.default_rng(seed))
        messages = []
        for number, (question, answer) in enumerate(talk):
            content = [] if number else [{"type": "image"}]
            messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        batch = processor(images=picture, text=processor.apply_chat_template(messages), return_tensors="pt")
        ids, labels = encode([talk])
        assert torch.equal(batch["input_ids"][0], ids[0])
        assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for _, answer in talk)
        kinds.add(len(talk))
    assert kinds == {2, 4}


@pytest.mark.parametrize("place", ENVIRONMENTS)
def test_every_way_of_naming_is_read(place: str) -> None:
    for name in ANIMALS:
        assert parse_name(said_name(name, place)) == name
    assert box_text(np.array([0.214, 0.35, 1.2, 0.9])) == "[0.21, 0.35, 1.00, 0.90]"


def test_a_killed_training_goes_on_and_ends_in_time(tmp_path: Path) -> None:
    def start(plan: Schedule) -> tuple[torch.nn.Linear, Training]:
        torch.manual_seed(1)
        model = torch.nn.Linear(2, 1)
        return model, Training("t", model, plan, tmp_path / "t.pt", seed=1)

    plan = Schedule(steps=9, peak=0.1, batch=1)
    first, training = start(plan)
    for step in training.steps():
        training.descend({"loss": first(torch.ones(2)).square().sum()}, {})
        if step == 3:
            training.step += 1
            training.save()
            break
    second, training = start(plan)
    assert training.step == 4
    assert torch.equal(second.weight, first.weight)
    done = []
    for step in training.steps():
        training.descend({"loss": second(torch.ones(2)).square().sum()}, {})
        done.append(step)
    assert done == [4, 5, 6, 7, 8]
    assert torch.equal(torch.load(tmp_path / "t.pt", weights_only=True)["weight"], second.weight)
    assert not (tmp_path / "t.state").exists()
    assert Schedule(10, 1.0, 1, seconds=5).rate(0, 5.1) is None
    assert Schedule(10, 1.0, 1).rate(10, 0) is None


def test_the_detector_s_new_text_tower_is_taught_no_task_prompt(tmp_path: Path) -> None:
    assert not [form for form in detector._FORMS if form.format(detector.HYPERNYM) == "camouflaged animal"]
    detector.train(CHECKPOINTS / "detector", tmp_path / "d.pt", Schedule(12, 2e-3, 1), seed=0)
    held = torch.load(tmp_path / "d.pt", weights_only=True)
    old = detector.OwlViTForObjectDetection.from_pretrained(CHECKPOINTS / "detector", dtype=torch.float32)
    vision = "owlvit.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(held[vision], old.state_dict()[vision])
    words = "owlvit.text_model.embeddings.token_embedding.weight"
    assert not torch.allclose(held[words], old.state_dict()[words], atol=0.01)


@pytest.mark.slow
def test_the_whole_recipe_in_a_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CHUNK", 8)
    monkeypatch.setattr(train, "SCENES", 8)
    monkeypatch.setattr(train, "PICTURE_CHUNKS", 1)
    monkeypatch.setattr(vlm, "PICTURES", 50)
    monkeypatch.setattr(train, "PLANS", {"detector": Schedule(2, 1e-3, 1), "vlm": Schedule(2, 1e-3, 4)})
    (tmp_path / "pool").mkdir()  # other processes would not know of the small chunk
    pool._draw_chunk(tmp_path / "pool", 0, 0)
    for step in (*train.STEPS, "vlm"):
        train.run_step(step, tmp_path, CHECKPOINTS, tmp_path / "out", "cpu", 0, 1)
    roles = {"detector": "detector", "vlm": "vlm"}
    changes = {f"{role}.id": str(tmp_path / "out" / f"habits_{name}") for role, name in roles.items()}
    suite = load_suite("nano", device="cpu", offline=True, overrides=changes)
    image = np.full((96, 128, 3), 90, dtype=np.uint8)
    (answers,) = suite.vlm.dialogue([image], [PROMPT.dialogue], (4, 4, 4, 4))
    assert len(answers) == 4
    assert json.loads((tmp_path / "out" / "habits_vlm" / "config.json").read_text())["model_type"] == "llava"


@pytest.mark.slow
def test_figures_of_every_role_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    change = f"detector.id={CHECKPOINTS / 'detector'}"
    assert (
        figures.main(["--count", "1", "--world", "mosaic", "--model", change, "--out", str(tmp_path / "f.json")]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "f.json").read_text())
    assert change in told["command"]
    for role in ("SAM", "CLIP", "Detector", "VLM", "Premise"):
        found = {name: row for name, row in told["figures"].items() if name.startswith(role)}
        assert found
        for value, low, high, trials in found.values():
            assert -2 <= value <= 2
            assert trials >= 1
            assert (low is None) == (high is None) == (trials == 1)
            assert low is None or low <= value <= high
