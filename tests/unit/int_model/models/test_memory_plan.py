"""What a profile takes of an accelerator, told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.real.build import Built
from int_model.models import suite as suites
from int_model.models.memory_plan import CHECKPOINTS, fitting, plan
from int_model.models.profile import profile_names, read_profile
from int_model.models.suite import load_suite


@pytest.mark.parametrize("name", profile_names())
def test_what_a_profile_states_is_more_than_its_weights_and_its_caches(name: str) -> None:
    own = plan(read_profile(name))
    assert own.stated_gb is not None
    assert 0 < own.least_gb < own.stated_gb
    assert own.weights_gb + own.caches_gb <= own.stated_gb


def test_profiles_fit_by_what_they_need_the_most_demanding_first() -> None:
    assert fitting(141)[0].profile == "llava"
    assert {found.profile for found in fitting(16)} >= {"llava-16gb", "nano"}
    assert not {"llava", "qwen"} & {found.profile for found in fitting(16)}
    assert fitting(0.1) == []


def test_a_card_that_is_too_small_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "accelerator_total", lambda _: 17.0)
    with pytest.raises(ValueError, match=r"'llava' take .* GB, and cpu has 17.0 GB: choose the profile .*llava-16gb"):
        load_suite("llava", device="cpu")


def test_weights_in_a_folder_are_counted_from_their_headers(profile: Path) -> None:
    suite = load_suite(profile, device="cpu", offline=True)
    counted = {role.role: role.weights_gb for role in plan(read_profile(profile, {"segmenter.dtype": "float32"})).roles}
    parameters = {id(tensor): tensor for tensor in suite.segmenter.model.parameters()}  # type: ignore[attr-defined]
    tensors = sum(tensor.numel() for tensor in parameters.values())
    kept = sum(tensor.numel() for tensor in suite.segmenter.model.state_dict().values())  # type: ignore[attr-defined]
    assert counted["segmenter"] is not None
    assert 4 * tensors <= counted["segmenter"] * 1e9 + 1 <= 4 * kept + 1
    assert counted["inpainter"] == 0


def test_more_rows_and_more_precise_weights_take_more() -> None:
    few, many = (plan(read_profile("llava", {"vlm.max_batch": rows})) for rows in ("1", "9"))
    assert many.caches_gb > 5 * (few.caches_gb - 2)
    assert many.weights_gb == few.weights_gb
    exact = plan(read_profile("llava", {"vlm.dtype": "float32"}))
    assert exact.weights_gb > 1.8 * few.weights_gb
    small = plan(read_profile("llava", {"vlm.quantize": "int4"}))
    assert small.weights_gb < 0.5 * few.weights_gb


@pytest.mark.parametrize("name", ["edge", "llava", "llava-16gb", "medical", "qwen"])
def test_the_table_of_checkpoints_is_what_their_configurations_give(name: str) -> None:
    if read_profile(name).vlm.id.startswith("Qwen"):  # type: ignore[attr-defined]
        pytest.importorskip("torchvision", reason="the extra 'qwen' is not installed")
    profile = read_profile(name)
    built = Built(profile, torch.device("meta"))
    counted: dict[str, int] = {}
    for role, parts in built.parts.items():
        if not parts:  # no weights, as of classical inpainting
            continue
        known = CHECKPOINTS[getattr(profile, role).id]
        networks = [m for part in parts.values() for m in getattr(part, "components", {"": part}).values()]
        tensors = {
            id(tensor): tensor.numel()
            for network in networks
            if isinstance(network, torch.nn.Module)
            for tensor in network.parameters()
        }
        counted[getattr(profile, role).id] = sum(tensors.values())
        if role == "vlm":
            decoder = parts["model"].get_decoder()
            assert known.language == sum(tensor.numel() for tensor in decoder.layers.parameters())
            text = decoder.config
            width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
            assert known.cached == 2 * text.num_hidden_layers * text.num_key_value_heads * width
    assert {name: CHECKPOINTS[name].parameters for name in counted} == counted
