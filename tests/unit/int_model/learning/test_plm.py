"""Prompt learning's forward pass against one written down here in float64, one prompt and one head at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from int_model.learning.arms.plm import PromptLearning

WIDTH, HEADS = 8, 2
Weights = dict[str, np.ndarray]


def made(*, identity: float = 1.0) -> PromptLearning:
    torch.manual_seed(5)
    module = PromptLearning(WIDTH, ["frog", "owl"], heads=HEADS, identity=identity).eval()
    torch.nn.init.normal_(module.out.weight, std=0.3)  # as after training; it begins with zeros
    torch.nn.init.normal_(module.out.bias, std=0.3)
    return module.requires_grad_(False)


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three prompts of four tokens; features and positions of 2 x 3 cells."""
    source = torch.Generator().manual_seed(2)
    return (
        torch.randn(3, 4, WIDTH, generator=source),
        torch.randn(3, WIDTH, 2, 3, generator=source),
        torch.randn(3, WIDTH, 2, 3, generator=source),
    )


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(asks: np.ndarray, keys: np.ndarray, values: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    w, b = weights[f"{name}.in_proj_weight"], weights[f"{name}.in_proj_bias"]
    thirds = [slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3)]
    q, k, v = (x @ w[third].T + b[third] for x, third in zip((asks, keys, values), thirds, strict=True))
    each = WIDTH // HEADS
    parts = []
    for head in range(HEADS):
        own = slice(head * each, (head + 1) * each)
        raised = np.exp(q[:, own] @ k[:, own].T / math.sqrt(each))
        parts.append(raised / raised.sum(1, keepdims=True) @ v[:, own])
    return linear(np.concatenate(parts, axis=1), weights, f"{name}.out_proj")


def slow(module: PromptLearning, row: int, label: int) -> np.ndarray:
    """Spec A.3: self-attention with the label's token, attention to the image, MLP, residual to the prompt's tokens."""
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    sparse, features, positions = (part[row].double().numpy() for part in given())
    values = features.reshape(WIDTH, -1).T
    keys = values + positions.reshape(WIDTH, -1).T
    prompt = np.concatenate([sparse, weights["label_tokens"][label : label + 1]])
    normed = norm(prompt, weights, "self_norm")
    tokens = prompt + attend(normed, normed, normed, weights, "self_attention")
    asks = norm(tokens, weights, "image_norm") + prompt
    tokens = tokens + attend(asks, keys, values, weights, "image_attention")
    hidden = linear(norm(tokens, weights, "mlp_norm"), weights, "mlp.0")
    gelu = np.array([[0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in line] for line in hidden])
    tokens = tokens + linear(gelu, weights, "mlp.2")
    return sparse + linear(tokens[: len(sparse)], weights, "out")


def test_tokens_are_adjusted_as_a_slow_reference_adjusts_them_and_unknown_labels_not_at_all() -> None:
    module, (sparse, features, positions) = made(), given()
    found = module.adjust(["owl", "toad", "frog"])(sparse, features, positions)
    assert found.shape == sparse.shape
    np.testing.assert_allclose(found[0].numpy(), slow(module, 0, 1), atol=1e-5)
    np.testing.assert_allclose(found[2].numpy(), slow(module, 2, 0), atol=1e-5)
    assert torch.equal(found[1], sparse[1]), "to the bit"
    assert module.mlp[0].out_features == 4 * WIDTH


def test_an_untrained_module_changes_nothing_and_its_labels_begin_alike() -> None:
    torch.manual_seed(0)
    module, (sparse, features, positions) = PromptLearning(32, [str(i) for i in range(40)]), given()
    assert float(module.label_tokens.detach().std()) == pytest.approx(0.02, rel=0.2)
    small = PromptLearning(WIDTH, ["frog"], heads=HEADS)
    assert torch.equal(small.adjust(["frog"] * 3)(sparse, features, positions), sparse)


@pytest.mark.parametrize("identity", [1.0, 0.25])
def test_the_penalty_is_the_mean_squared_change(identity: float) -> None:
    module, (sparse, features, positions) = made(identity=identity), given()
    assert module.penalty() is None, "nothing has been changed yet"
    found = module.adjust(["owl"] * 3)(sparse, features, positions)
    penalty = module.penalty()
    assert penalty is not None
    assert float(penalty) == pytest.approx(identity * float(((found - sparse) ** 2).mean()), rel=1e-4)


def test_without_a_weight_there_is_no_penalty_and_by_default_it_is_one() -> None:
    module, (sparse, features, positions) = made(identity=0.0), given()
    module.adjust(["owl"] * 3)(sparse, features, positions)
    assert module.penalty() is None
    plain = PromptLearning(WIDTH, ["frog"], heads=HEADS)
    torch.nn.init.ones_(plain.out.bias)
    found = plain.adjust(["frog"] * 3)(sparse, features, positions)
    penalty = plain.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(((found - sparse) ** 2).mean().item())
