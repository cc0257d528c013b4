"""Checkpoints of the original segment-anything package (``.pth``): SAM ViT-B, -L and -H, MedSAM and the like.

The architecture is read off the tensors' shapes, their names are those of the original package (facebookresearch/
segment-anything, April 2023); the network is transformers' own, which gives the same output.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
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
)
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.profile import OfficialSamRole
from int_model.models.weights import Source

_DECODER_HEADS = 8  # the only number that no tensor's shape tells; all published checkpoints have it
PROMPTS_AND_DECODER: Rules = [
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
]
"""What SAM and SAM 2 have in common."""
_RULES: Rules = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"\.point_embeddings\.", ".point_embed."),
    *PROMPTS_AND_DECODER,
]


def load(settings: OfficialSamRole, source: Source) -> HFSamSegmenter:
    """Load a ``.pth`` file. Raises ``WeightsError`` that names what is missing or unknown in it."""
    official = source.read(read_tensors, "checkpoint")
    config = told_by_shapes(source, "segment-anything", lambda: architecture(official))
    model = network(source, SamModel, config, converted(official))
    side = config.vision_config.image_size
    images = SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    return HFSamSegmenter(model, images, settings)


def converted(official: Mapping[str, Tensor]) -> Tensors:
    """The tensors under the names of transformers' ``SamModel``."""
    return with_shared_embedding(renamed(named_layers(official), _RULES))


def with_shared_embedding(tensors: Tensors) -> Tensors:
    """Positions in the image and in prompts are encoded alike: transformers keeps the same tensor in two places."""
    shared = tensors.get("prompt_encoder.shared_embedding.positional_embedding")
    return tensors if shared is None else {**tensors, "shared_image_embedding.positional_embedding": shared.clone()}


def architecture(official: Mapping[str, Tensor]) -> SamConfig:
    """The configuration that the tensors' shapes tell. Raises ``KeyError`` with the first name that is not there."""
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    hidden, _, patch, _ = shapes["image_encoder.patch_embed.proj.weight"]
    grid = shapes["image_encoder.pos_embed"][1]
    blocks = count(shapes, r"image_encoder\.blocks\.(\d+)\.")
    relative = [shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(blocks)]
    everywhere = [i for i, (length, _) in enumerate(relative) if length == 2 * grid - 1]
    windows = {(length + 1) // 2 for length, _ in relative if length != 2 * grid - 1}
    channels = shapes["image_encoder.neck.0.weight"][0]
    inner = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    vision = SamVisionConfig(
        hidden_size=hidden,
        output_channels=channels,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // relative[0][1],
        image_size=grid * patch,
        patch_size=patch,
        mlp_dim=shapes["image_encoder.blocks.0.mlp.lin1.weight"][0],
        window_size=max(windows, default=0),
        global_attn_indexes=everywhere,
        num_pos_feats=shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"][1],
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=channels,
        image_size=grid * patch,
        patch_size=patch,
        mask_input_channels=shapes["prompt_encoder.mask_downscaling.3.weight"][0],
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=channels,
        mlp_dim=shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
        num_hidden_layers=count(shapes, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        num_attention_heads=_DECODER_HEADS,
        attention_downsample_rate=channels // inner,
        num_multimask_outputs=shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        iou_head_depth=count(shapes, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_head_hidden_dim=shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
        layer_norm_eps=1e-5,  # PyTorch's default, which the original keeps here
    )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
