"""Checkpoints of the original sam2 package (``.pt``): SAM 2 and 2.1, Hiera tiny, small, base+ and large.

Tensors' names are those of facebookresearch/sam2; the network is transformers' own, which gives the same output. What
no shape tells (heads, windows, where attention is global) is in a table of the four published encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from int_model.models.adapters.originals.files import (
    Rules,
    Tensors,
    count,
    named_layers,
    network,
    read_tensors,
    renamed,
    told_by_shapes,
    without,
)
from int_model.models.adapters.originals.sam import PROMPTS_AND_DECODER, with_shared_embedding
from int_model.models.adapters.sam2 import HFSam2Segmenter
from int_model.models.profile import OfficialSam2Role
from int_model.models.weights import Source, WeightsError


@dataclass(frozen=True, slots=True)
class Hiera:
    """What the shapes of an encoder do not tell.

    Attributes:
        heads: of the first stage; every later stage has twice as many.
        windows: side of a window of attention, by stage.
        everywhere: the blocks whose attention is global.
        side: of the image that the encoder sees, in pixels.
    """

    heads: int
    windows: tuple[int, ...]
    everywhere: tuple[int, ...]
    side: int = 1024


VARIANTS: dict[tuple[int, int], Hiera] = {
    (96, 12): Hiera(1, (8, 4, 14, 7), (5, 7, 9)),
    (96, 16): Hiera(1, (8, 4, 14, 7), (7, 10, 13)),
    (112, 24): Hiera(2, (8, 4, 14, 7), (12, 16, 20)),
    (144, 48): Hiera(2, (8, 4, 16, 8), (23, 33, 43)),
}
"""The published encoders (tiny, small, base+, large), by the width of the first stage and the number of blocks."""
_FOR_VIDEOS = (
    "memory_attention.",
    "memory_encoder.",
    "mask_downsample.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)
_STRIDE = 16  # of the embedding
_RULES: Rules = [
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^(mask_decoder\.transformer\..*)\.out_proj\.", r"\1.o_proj."),
    *PROMPTS_AND_DECODER,
]


def load(settings: OfficialSam2Role, source: Source) -> HFSam2Segmenter:
    """Load a ``.pt`` file. Raises ``WeightsError`` that names what is missing or unknown in it."""
    official = without(source.read(read_tensors, "checkpoint"), _FOR_VIDEOS)
    config = told_by_shapes(source, "sam2", lambda: architecture(official, source))
    return HFSam2Segmenter(network(source, Sam2Model, config, converted(official)), {}, settings)


def converted(official: Mapping[str, Tensor]) -> Tensors:
    """The tensors under the names of transformers' ``Sam2Model``."""
    found = with_shared_embedding(renamed(named_layers(official), _RULES))
    points = [f"prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4)]
    if found.keys() >= set(points):
        found["prompt_encoder.point_embed.weight"] = torch.cat([found.pop(name) for name in points])
    return found


def architecture(official: Mapping[str, Tensor], source: Source) -> Sam2Config:
    """The configuration that the tensors' shapes and the table of published encoders tell.

    Raises ``KeyError`` with the first name that is not there, ``WeightsError`` for an encoder that is not in the table.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    blocks = count(shapes, r"image_encoder\.trunk\.blocks\.(\d+)\.")
    widths = [shapes[f"image_encoder.trunk.blocks.{i}.attn.proj.weight"][0] for i in range(blocks)]
    stages = sorted(set(widths))
    known = VARIANTS.get((stages[0], blocks))
    if known is None:
        raise WeightsError(
            f"{source.location} has an encoder of {blocks} blocks, {stages[0]} wide, which none of the published SAM 2 "
            f"has: set {source.role}.id to one, or {source.role}.kind to hf for a folder written by save_pretrained"
        )
    channels = shapes["image_encoder.neck.convs.0.conv.weight"][0]
    sizes = [[known.side // stride] * 2 for stride in (4, 8, 16)]
    backbone = Sam2HieraDetConfig(
        hidden_size=stages[0],
        num_attention_heads=known.heads,
        image_size=[known.side] * 2,
        window_positional_embedding_background_size=list(shapes["image_encoder.trunk.pos_embed"][2:]),
        blocks_per_stage=[widths.count(width) for width in stages],
        embed_dim_per_stage=stages,
        num_attention_heads_per_stage=[known.heads << stage for stage in range(len(stages))],
        window_size_per_stage=list(known.windows),
        global_attention_blocks=list(known.everywhere),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=stages[::-1],
        backbone_feature_sizes=sizes,
        fpn_hidden_size=channels,
    )
    prompts = Sam2PromptEncoderConfig(
        hidden_size=channels,
        image_size=known.side,
        patch_size=_STRIDE,
        mask_input_channels=shapes["sam_prompt_encoder.mask_downscaling.3.weight"][0],
    )
    decoder = Sam2MaskDecoderConfig(
        hidden_size=channels,
        mlp_dim=shapes["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"][0],
        iou_head_hidden_dim=shapes["sam_mask_decoder.iou_prediction_head.layers.0.weight"][0],
    )
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
