"""The training recipes' own arithmetic, and that what they teach is what the adapters ask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from int_model.core.task_prompt import TaskPrompt
from int_model.nano import segmenter, tower, tower_views, vlm
from int_model.nano.pool import PooledScene
from int_model.nano.text import clip_tokenizer
from int_model.nano.world import ALL_ENVIRONMENTS, NAMES


def pooled(shape: tuple[int, int] = (144, 192)) -> PooledScene:
    """A red crab at the left, a blue anchor at the right, on grey stone."""
    image = np.full((*shape, 3), 120, dtype=np.uint8)
    ids = np.zeros(shape, dtype=np.uint8)
    ids[40:100, 20:80], ids[50:90, 120:170] = 1, 2
    image[ids == 1], image[ids == 2] = (200, 30, 30), (30, 30, 200)
    names = (NAMES.index("crab"), NAMES.index("anchor"))
    return PooledScene(image, ids, names, names[0], ALL_ENVIRONMENTS.index("stone"), "camouflaged animal")


def test_cells_boxes_and_colours_of_a_view_agree() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        view = tower_views.make_view(pooled(), rng)
        assert view.image.shape == (tower_views.SIDE, tower_views.SIDE, 3)
        means = view.image.reshape(tower.GRID, tower_views.CELL, tower.GRID, tower_views.CELL, 3).mean(axis=(1, 3))
        for name, channel in (("crab", 0), ("anchor", 2)):
            for y, x in np.argwhere(view.things == NAMES.index(name)):
                assert view.cells[y, x] == NAMES.index(name)
                assert means[y, x].argmax() == channel
                cx, cy, w, h = view.boxes[y, x]
                assert abs(cx - (x + 0.5) / tower.GRID) <= w / 2 + 1 / tower.GRID
                assert abs(cy - (y + 0.5) / tower.GRID) <= h / 2 + 1 / tower.GRID
                seen.add(name)
    assert seen == {"crab", "anchor"}


def test_cells_and_boxes_of_a_window_refer_to_its_place() -> None:
    rng = np.random.default_rng(5)
    framed = 0
    for _ in range(40):
        window = tower_views.make_window(pooled(), rng)
        grid = window.cells.shape[0]
        assert window.image.shape == (tower_views.WINDOW, tower_views.WINDOW, 3)
        means = window.image.reshape(grid, tower_views.CELL, grid, tower_views.CELL, 3).mean(axis=(1, 3))
        for y, x in np.argwhere(window.things >= 0):
            assert means[y, x].argmax() == (0 if NAMES[window.things[y, x]] == "crab" else 2)
            cx, cy, w, h = window.boxes[y, x] * tower.GRID
            assert abs(cx - (x + 0.5 + window.corner[1])) <= w / 2 + 1
            assert abs(cy - (y + 0.5 + window.corner[0])) <= h / 2 + 1
            framed += 1
    assert framed > 20


def test_on_whole_views_training_sees_as_owl_vit_does() -> None:
    torch.manual_seed(0)
    model = tower.Towers().eval()
    pixels = torch.randn(2, 3, tower_views.SIDE, tower_views.SIDE)
    queries = torch.nn.functional.normalize(torch.randn(4, tower.TEXT), dim=-1)
    with torch.no_grad():
        hidden, places = model.tokens(pixels, torch.zeros(2, 2, dtype=torch.int64))
        scores, boxes = model.heads(hidden, places, queries)
        merged, _ = model.owl.image_embedder(pixels)
        theirs, _ = model.owl.class_predictor(merged.flatten(1, 2), queries[None].expand(2, -1, -1), None)
        their_boxes = model.owl.box_predictor(merged.flatten(1, 2), merged)
    assert torch.allclose(scores, theirs, atol=1e-4)
    assert torch.allclose(boxes, their_boxes, atol=1e-5)


def test_giou_against_a_slow_reference() -> None:
    rng = np.random.default_rng(1)
    corner, size = rng.uniform(0, 0.6, (50, 2, 2)), rng.uniform(0.05, 0.4, (50, 2, 2))
    boxes = torch.tensor(np.concatenate([corner + size / 2, size], axis=-1))
    fast = tower.giou(boxes[:, 0], boxes[:, 1])
    for row in range(50):
        (ax1, ay1), (bx1, by1) = corner[row]
        (ax2, ay2), (bx2, by2) = corner[row] + size[row]
        common = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
        total = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common
        hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
        assert fast[row].item() == pytest.approx(common / total - (hull - total) / hull)


def test_clip_and_owl_vit_share_their_towers() -> None:
    torch.manual_seed(0)
    owl = tower.Towers().owl.eval()
    clip = tower.as_clip(owl).eval()
    pixels = torch.randn(2, 3, tower_views.SIDE, tower_views.SIDE)
    tokens = clip_tokenizer()(["a photo of a crab.", "snow"], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = clip.get_image_features(pixels).pooler_output, clip.get_text_features(**tokens).pooler_output
        vision = owl.owlvit.vision_model(pixels).pooler_output
        text = owl.owlvit.text_model(**tokens).pooler_output
        theirs = owl.owlvit.visual_projection(vision), owl.owlvit.text_projection(text)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_lessons_are_worded_as_the_chat_template_words_them() -> None:
    rng = np.random.default_rng(2)
    processor, encode = vlm.processor(vlm.vlm_tokenizer()), vlm.Encoder(vlm.vlm_tokenizer())
    kinds = set()
    for _ in range(12):
        lesson = vlm.lesson(pooled(), rng)
        messages = []
        for number, (question, answer) in enumerate(lesson.turns):
            picture = [] if number else [{"type": "image"}]
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text = processor.apply_chat_template(messages)
        batch = processor(images=lesson.image, text=text, return_tensors="pt")
        ids, labels = encode([lesson.turns])
        assert torch.equal(batch["input_ids"][0], ids[0])
        answers = "".join(f" {answer}</s>" for _, answer in lesson.turns)
        assert processor.tokenizer.decode(labels[labels != -100]) == answers
        assert torch.allclose(batch["pixel_values"], tower.to_tensor([lesson.image]), atol=1e-5)
        kinds.add(len(lesson.turns))
        asked = {question for question, _ in lesson.turns}
        assert asked <= set(TaskPrompt("camouflaged animal").dialogue) or "names are" in asked.pop()
    assert kinds == {1, 4}


def test_box_answers_frame_the_animal() -> None:
    """On the whole scene, padded to a square: rows shift by (192 - 144) / 2."""
    rng = np.random.default_rng(3)
    expected = {(0.10, 0.33, 0.42, 0.65), (0.58, 0.33, 0.90, 0.65)}  # as it is, and mirrored
    found = set()
    for _ in range(80):
        lesson = vlm.lesson(pooled(), rng)
        box = lesson.turns[-1][1]
        if box.startswith("["):
            found.add(tuple(round(float(v), 2) for v in box.strip("[]").split(",")))
    assert expected <= found


@pytest.mark.parametrize("kind", ["box", "points", "both"])
@pytest.mark.parametrize("draw", [segmenter.scene_batch, segmenter.window_batch])
def test_segmenter_prompts_lie_on_their_objects(draw: Callable[..., segmenter.Batch], kind: str) -> None:
    batch = draw([pooled(), pooled((192, 192))] * 3, kind, np.random.default_rng(4))
    prompts = batch.prompts()
    assert (prompts["input_boxes"] is not None) == (kind != "points")
    assert (prompts["input_points"] is not None) == (kind != "box")
    for row in range(6):
        shift = batch.corners[row].flip(0) * segmenter.CELL
        for p in range(batch.masks.shape[1]):
            assert batch.masks[row, p].any()
            for point, label in zip(batch.points[row, p] - shift, batch.labels[row, p], strict=True):
                x, y = point.int().tolist()
                assert batch.masks[row, p, y, x] == label


def test_on_whole_scenes_training_predicts_as_sam_does() -> None:
    torch.manual_seed(0)
    model = segmenter.fresh().eval()
    torch.nn.init.normal_(model.vision_encoder.pos_embed)
    batch = segmenter.scene_batch([pooled()], "both", np.random.default_rng(1))
    with torch.no_grad():
        logits, iou = segmenter.predict(model, batch, multimask=True)
        prompts = {k: v for k, v in batch.prompts().items() if v is not None}
        theirs = model(pixel_values=batch.pixels, **prompts, multimask_output=True)
    assert torch.allclose(logits, theirs.pred_masks, atol=1e-4)
    assert torch.allclose(iou, theirs.iou_scores, atol=1e-5)


def test_the_segmenter_is_never_shown_the_held_out_animals() -> None:
    scene = pooled()
    assert not segmenter.usable(scene)  # a crab
    other = PooledScene(scene.image, scene.ids, (NAMES.index("snake"),), NAMES.index("snake"), 0, scene.task)
    assert segmenter.usable(other)


def test_the_loss_is_lowest_for_the_right_mask() -> None:
    masks = torch.zeros(1, 1, 64, 64)
    masks[..., 16:48, 16:48] = 1
    right = torch.nn.functional.avg_pool2d(masks, 4)[:, :, None] * 6 - 3
    iou = torch.ones(1, 1, 1)
    inside = torch.ones(1, 64, 64)
    good, reached = segmenter.loss_of(right, iou, masks, inside)
    bad, _ = segmenter.loss_of(right.roll(1, -1), iou, masks, inside)
    nothing, _ = segmenter.loss_of(torch.full_like(right, -3.0), iou, masks, inside)
    assert reached == 1
    assert good < bad < nothing
