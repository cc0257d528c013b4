"""The original package's checkpoints: read without the package, and equal to it where it is installed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from int_model.core.types import Box
from int_model.models.adapters.originals.sam import load
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.identity import weights_identity
from int_model.models.profile import OfficialSamRole, read_profile
from int_model.models.protocols import MaskPrompt, Segmenter
from int_model.models.suite import load_suite
from int_model.models.weights import WeightsError
from tests.unit.int_model.models.conftest import load_role
from tests.unit.int_model.models.tiny import enliven, picture

HEADS = 8
IMAGE = picture(48, 90, 1)
PROMPTS = [
    MaskPrompt(box=Box(10, 8, 60, 40)),
    MaskPrompt(points=np.array([[20.0, 20.0], [70.0, 30.0]]), labels=np.array([1, 0])),
    MaskPrompt(box=Box(1, 1, 80, 30), points=np.array([[30.0, 20.0]]), labels=np.array([1])),
]


def names_and_shapes() -> dict[str, tuple[int, ...]]:
    """A small SAM's tensors as the original package names them; written down here, from its sources."""
    width, mlp, out, patch, grid, side = 32, 64, 16, 8, 8, 4
    table: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        table[f"{name}.weight"], table[f"{name}.bias"] = shape, shape[:1]

    table["image_encoder.pos_embed"] = (1, grid, grid, width)
    layer("image_encoder.patch_embed.proj", width, 3, patch, patch)
    for block, length in enumerate((side, grid)):
        own = f"image_encoder.blocks.{block}"
        layer(f"{own}.norm1", width)
        layer(f"{own}.norm2", width)
        table[f"{own}.attn.rel_pos_h"] = table[f"{own}.attn.rel_pos_w"] = (2 * length - 1, width // 2)
        layer(f"{own}.attn.qkv", 3 * width, width)
        layer(f"{own}.attn.proj", width, width)
        layer(f"{own}.mlp.lin1", mlp, width)
        layer(f"{own}.mlp.lin2", width, mlp)
    table["image_encoder.neck.0.weight"] = (out, width, 1, 1)
    table["image_encoder.neck.2.weight"] = (out, out, 3, 3)
    layer("image_encoder.neck.1", out)
    layer("image_encoder.neck.3", out)
    prompt = "prompt_encoder"
    table[f"{prompt}.pe_layer.positional_encoding_gaussian_matrix"] = (2, out // 2)
    for name in (*(f"point_embeddings.{i}" for i in range(4)), "not_a_point_embed", "no_mask_embed"):
        table[f"{prompt}.{name}.weight"] = (1, out)
    for place, shape in ((0, (1, 1, 2, 2)), (1, (1,)), (3, (4, 1, 2, 2)), (4, (4,)), (6, (out, 4, 1, 1))):
        layer(f"{prompt}.mask_downscaling.{place}", *shape)
    decoder = "mask_decoder"
    attentions = {"self_attn": out, "cross_attn_token_to_image": out // 2, "cross_attn_image_to_token": out // 2}
    for block in range(2):
        own = f"{decoder}.transformer.layers.{block}"
        for attention, inner in attentions.items():
            for which in ("q_proj", "k_proj", "v_proj"):
                layer(f"{own}.{attention}.{which}", inner, out)
            layer(f"{own}.{attention}.out_proj", out, inner)
        for norm in range(1, 5):
            layer(f"{own}.norm{norm}", out)
        layer(f"{own}.mlp.lin1", 32, out)
        layer(f"{own}.mlp.lin2", out, 32)
    for which in ("q_proj", "k_proj", "v_proj"):
        layer(f"{decoder}.transformer.final_attn_token_to_image.{which}", out // 2, out)
    layer(f"{decoder}.transformer.final_attn_token_to_image.out_proj", out, out // 2)
    layer(f"{decoder}.transformer.norm_final_attn", out)
    table[f"{decoder}.iou_token.weight"], table[f"{decoder}.mask_tokens.weight"] = (1, out), (4, out)
    for place, shape in ((0, (out, 4, 2, 2)), (1, (4,)), (3, (4, 2, 2, 2))):
        layer(f"{decoder}.output_upscaling.{place}", *shape)
        table[f"{decoder}.output_upscaling.{place}.bias"] = (shape[1] if len(shape) > 1 else shape[0],)
    for head, last in (*((f"output_hypernetworks_mlps.{i}", 2) for i in range(4)), ("iou_prediction_head", 4)):
        for place, rows in ((0, out), (1, out), (2, last)):
            layer(f"{decoder}.{head}.layers.{place}", rows, out)
    return table


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return {name: 0.25 * torch.randn(shape, generator=random) for name, shape in names_and_shapes().items()}


def loaded(path: Path) -> HFSamSegmenter:
    return load_role("segmenter", OfficialSamRole(id=str(path)), load)


def test_a_checkpoint_is_read_by_its_shapes_alone(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "sam_tiny.pth")
    segmenter = loaded(tmp_path / "sam_tiny.pth")
    assert isinstance(segmenter, Segmenter)
    vision = segmenter.model.config.vision_config
    assert (vision.image_size, vision.patch_size, vision.window_size, vision.global_attn_indexes) == (64, 8, 4, [1])
    assert (vision.num_attention_heads, vision.mlp_dim, vision.num_hidden_layers) == (2, 64, 2)
    own = segmenter.model.state_dict()
    assert torch.equal(own["mask_decoder.iou_prediction_head.proj_out.bias"], tensors[_LAST_BIAS])
    for proposal in segmenter.decode(segmenter.encode([IMAGE])[0], PROMPTS):
        assert proposal.logits.shape == (3, 48, 90)
        assert np.isfinite(proposal.logits).all()


_LAST_BIAS = "mask_decoder.iou_prediction_head.layers.2.bias"


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_what_training_scripts_wrap_around_it_is_taken_off(
    wrapper: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(tensors, tmp_path / "bare.pth")
    torch.save({wrapper: {f"module.{n}": t for n, t in tensors.items()}, "epoch": 3}, tmp_path / "wrapped.pth")
    bare, wrapped = (loaded(tmp_path / f"{name}.pth") for name in ("bare", "wrapped"))
    ours, theirs = (s.decode(s.encode([IMAGE])[0], PROMPTS[:1])[0] for s in (bare, wrapped))
    assert np.array_equal(ours.logits, theirs.logits)


def test_missing_and_unknown_tensors_are_named(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save({n: t for n, t in tensors.items() if n != "image_encoder.blocks.1.mlp.lin2.bias"}, path)
    with pytest.raises(WeightsError, match=r"vision_encoder\.layers\.1\.mlp\.lin2\.bias"):
        loaded(path)
    torch.save({**tensors, "hq_decoder.extra": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"hq_decoder\.extra"):
        loaded(path)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match=r"is not a checkpoint of segment-anything .*patch_embed"):
        loaded(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        loaded(path)
    with pytest.raises(WeightsError, match="there is no file"):
        loaded(tmp_path / "absent.pth")


def test_a_profile_takes_a_file_and_its_identity_follows_the_content(
    tensors: dict[str, torch.Tensor], profile: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(tensors, path)
    over = {"segmenter.kind": "segment-anything", "segmenter.id": str(path)}
    suite = load_suite(profile, device="cpu", overrides=over, offline=True)
    assert suite.segmenter.decode(suite.segmenter.encode([IMAGE])[0], PROMPTS[:1])
    before = weights_identity(read_profile(profile, over).segmenter)  # type: ignore[arg-type]
    tensors[_LAST_BIAS] += 1
    torch.save(tensors, path)
    assert weights_identity(read_profile(profile, over).segmenter) != before  # type: ignore[arg-type]


def original() -> Any:
    """A tiny model of the original package, random."""
    package = pytest.importorskip("segment_anything.modeling", reason="the package segment-anything is not installed")
    encoder = package.ImageEncoderViT(
        depth=2,
        embed_dim=32,
        img_size=64,
        mlp_ratio=2,
        num_heads=2,
        patch_size=8,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[1],
        window_size=4,
        out_chans=16,
    )
    prompts = package.PromptEncoder(
        embed_dim=16, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=4
    )
    transformer = package.TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=32, num_heads=HEADS)
    decoder = package.MaskDecoder(
        num_multimask_outputs=3,
        transformer=transformer,
        transformer_dim=16,
        iou_head_depth=3,
        iou_head_hidden_dim=16,
    )
    return enliven(package.Sam(encoder, prompts, decoder), 11)


def test_masks_equal_the_original_packages(tmp_path: Path) -> None:
    sam = original()
    from segment_anything import SamPredictor

    assert {name: tuple(tensor.shape) for name, tensor in sam.state_dict().items()} == names_and_shapes()
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    ours, theirs = loaded(tmp_path / "sam.pth"), SamPredictor(sam)
    theirs.set_image(IMAGE)
    [embedding] = ours.encode([IMAGE])
    for prompt, proposal in zip(PROMPTS, ours.decode(embedding, PROMPTS), strict=True):
        points = {"point_coords": prompt.points, "point_labels": prompt.labels} if len(prompt.labels) else {}
        box = None if prompt.box is None else np.array(prompt.box.as_tuple())
        logits, iou, low = theirs.predict(box=box, **points, multimask_output=True, return_logits=True)
        np.testing.assert_allclose(proposal.low_res, low, atol=1e-4)
        np.testing.assert_allclose(proposal.logits, logits, atol=1e-4)
        np.testing.assert_allclose(proposal.iou, iou, atol=1e-5)
