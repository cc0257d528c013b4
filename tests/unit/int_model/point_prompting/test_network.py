"""The point generator's forward pass against one written down here in float64, one query and one head at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from int_model.point_prompting.generator.network import GeneratorSettings, PointGenerator, Points, Seen, sine_positions

WIDTH, HEADS = 8, 2
ROWS, COLUMNS = 2, 3
Weights = dict[str, np.ndarray]


def made(points: int, *, sees: bool, layers: int = 2) -> PointGenerator:
    torch.manual_seed(points)
    settings = GeneratorSettings(5, 6, 4 if sees else 0, WIDTH, HEADS, layers, 12, queries=3, points=points)
    network = PointGenerator(settings).eval().requires_grad_(False)
    torch.nn.init.normal_(network.shift.weight, std=0.5)  # as after training; it begins with zeros
    torch.nn.init.normal_(network.shift.bias, std=0.5)
    return network


def seen(*, sees: bool) -> Seen:
    """Two pairs; the second expression is a token shorter."""
    source = torch.Generator().manual_seed(7)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, generator=source)

    words = torch.tensor([[True, True, True], [True, True, False]])
    segmenter = some(ROWS, COLUMNS, 4)
    return Seen(some(ROWS, COLUMNS, 5), some(ROWS, COLUMNS, 4), some(3, 6), words, segmenter if sees else None)


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def attend(asks: np.ndarray, keys: np.ndarray, values: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    w, b = weights[f"{name}.in_proj_weight"], weights[f"{name}.in_proj_bias"]
    q, k, v = (
        x @ w[i * WIDTH : (i + 1) * WIDTH].T + b[i * WIDTH : (i + 1) * WIDTH]
        for i, x in enumerate((asks, keys, values))
    )
    each = WIDTH // HEADS
    parts = []
    for head in range(HEADS):
        own = slice(head * each, (head + 1) * each)
        parts.append(softmax(q[:, own] @ k[:, own].T / math.sqrt(each)) @ v[:, own])
    return linear(np.concatenate(parts, axis=1), weights, f"{name}.out_proj")


def positions(x: float, y: float) -> np.ndarray:
    waves = [2 ** (5 * i / (WIDTH // 4 - 1)) * math.pi for i in range(WIDTH // 4)]
    row: list[float] = []
    for value in (x, y):
        row += [math.sin(value * wave) for wave in waves] + [math.cos(value * wave) for wave in waves]
    return np.array(row)


def slow(network: PointGenerator, shown: Seen, pair: int) -> tuple[np.ndarray, np.ndarray]:
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    tokens, centres = [], []
    for row in range(ROWS):
        for column in range(COLUMNS):
            token = linear(shown.patches[pair, row, column].double().numpy(), weights, "patch")
            token = token + linear(shown.similarity[pair, row, column].double().numpy(), weights, "similarity")
            if shown.segmenter is not None:
                token = token + linear(shown.segmenter[pair, row, column].double().numpy(), weights, "segmenter")
            tokens.append(norm(token, weights, "visual_norm"))
            centres.append(((column + 0.5) / COLUMNS, (row + 0.5) / ROWS))
    visual, where = np.stack(tokens), np.stack([positions(*centre) for centre in centres])
    words = shown.text[pair][shown.words[pair]].double().numpy()
    text = linear(words, weights, "text") + weights["order"][: len(words)]
    state = queries = weights["queries"]
    for index in range(network.settings.layers):
        name = f"layers.{index}"
        own = norm(state, weights, f"{name}.norms.0") + queries
        state = state + attend(own, own, own, weights, f"{name}.own")
        state = state + attend(norm(state, weights, f"{name}.norms.1") + queries, text, text, weights, f"{name}.read")
        look = norm(state, weights, f"{name}.norms.2") + queries
        state = state + attend(look, visual + where, visual + where, weights, f"{name}.look")
        hidden = linear(norm(state, weights, f"{name}.norms.3"), weights, f"{name}.feed.0")
        gelu = np.array([[0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in hidden])
        state = state + linear(gelu, weights, f"{name}.feed.2")
    state = norm(state, weights, "norm")
    keys = linear(visual + where, weights, "key")
    cell = np.array([1 / COLUMNS, 1 / ROWS])
    found = []
    for query in state:
        pointers = linear(query, weights, "pointer").reshape(-1, WIDTH)
        shifts = np.tanh(linear(query, weights, "shift")).reshape(-1, 2) * cell
        shares = [softmax(keys @ pointer / math.sqrt(WIDTH)) for pointer in pointers]
        found.append([share @ np.array(centres) + shift for share, shift in zip(shares, shifts, strict=True)])
    return np.clip(np.array(found), 0, 1), linear(state, weights, "confidence")[:, 0]


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("points", [1, 2])
def test_points_equal_a_slow_reference(points: int, sees: bool) -> None:
    network, shown = made(points, sees=sees), seen(sees=sees)
    answer = network(shown)
    assert answer.xy.shape == (2, 3, points, 2)
    for pair in range(2):
        xy, confidence = slow(network, shown, pair)
        np.testing.assert_allclose(answer.xy[pair].numpy(), xy, atol=1e-5)
        np.testing.assert_allclose(answer.confidence[pair].numpy(), confidence, atol=1e-5)
    assert 0 < float(answer.xy.median()) < 1


def test_a_token_that_does_not_exist_is_not_read() -> None:
    network, shown = made(1, sees=False), seen(sees=False)
    answer = network(shown)
    shown.text[1, 2] = 99.0
    assert torch.equal(network(shown).xy[1], answer.xy[1])
    shown.text[1, 1] = 99.0
    assert not torch.equal(network(shown).xy[1], answer.xy[1])


def test_an_untrained_generator_points_into_the_image_at_the_means_of_cells() -> None:
    torch.manual_seed(0)
    network = PointGenerator(GeneratorSettings(5, 6, width=WIDTH, heads=HEADS, layers=1, feed=8, queries=3)).eval()
    assert not network.shift.weight.any()
    xy = network(seen(sees=False)).xy.detach()
    assert 0.5 / COLUMNS < float(xy[..., 0].min()) < float(xy[..., 0].max()) < 1 - 0.5 / COLUMNS
    assert 0.5 / ROWS < float(xy[..., 1].min()) < float(xy[..., 1].max()) < 1 - 0.5 / ROWS


def test_flat_points_share_their_query_s_probability() -> None:
    xy = torch.arange(12.0).reshape(1, 3, 2, 2)
    flat, share = Points(xy, torch.tensor([[0.0, 2.0, -2.0]])).flat()
    assert flat.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]]
    high = 1 / (1 + math.exp(-2))
    assert share.tolist()[0] == pytest.approx([0.5, 0.5, high, high, 1 - high, 1 - high])


def test_positions_are_waves_from_two_images_long_to_a_sixteenth() -> None:
    where = sine_positions(torch.tensor([[0.25, 0.5]]), WIDTH)[0]
    assert where.tolist() == pytest.approx(positions(0.25, 0.5).tolist(), abs=1e-4)
