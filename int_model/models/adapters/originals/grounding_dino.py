"""Checkpoints of the original groundingdino package (``.pth``): Swin-T and Swin-B, and what was tuned from them.

The architecture is read off the tensors' shapes, their names are those of IDEA-Research/GroundingDINO; the network is
transformers' own, which gives the same output. The file holds no vocabulary: BERT's comes from ``tokenizer``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    SwinConfig,
)

from int_model.models.adapters.detector import HFZeroShotDetector
from int_model.models.adapters.originals.files import (
    Rules,
    Tensors,
    count,
    in_three,
    network,
    read_tensors,
    renamed,
    told_by_shapes,
    without,
)
from int_model.models.profile import OfficialGroundingDinoRole
from int_model.models.weights import Source

_HEADS, _POINTS, _BERT_HEAD = 8, 4, 64  # no shape tells them; all published checkpoints have these
_SHORTEST, _LONGEST = 800, 1333  # the package's inference resizes to these
_NOT_NEEDED = (
    "label_enc.",  # noise of the training
    "bert.pooler.",
    "bert.embeddings.position_ids",
    "transformer.decoder.bbox_embed.",  # the same tensors as bbox_embed
)
_SWIN = "model.backbone.conv_encoder.model"
_BLOCK = rf"{_SWIN}.encoder.layers.\1.blocks.\2"
_LAYER = r"model.encoder.layers.\1"
_RULES: Rules = [
    # the image's backbone
    (r"^backbone\.0\.patch_embed\.proj\.", f"{_SWIN}.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", f"{_SWIN}.embeddings.norm."),
    (r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.", rf"{_BLOCK}.layernorm_before."),
    (r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.norm2\.", rf"{_BLOCK}.layernorm_after."),
    (
        r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table$",
        rf"{_BLOCK}.attention.self.relative_position_bias_table",
    ),
    (r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.proj\.", rf"{_BLOCK}.attention.output.dense."),
    (r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.", rf"{_BLOCK}.intermediate.dense."),
    (r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.", rf"{_BLOCK}.output.dense."),
    (r"^backbone\.0\.layers\.(\d+)\.downsample\.", rf"{_SWIN}.encoder.layers.\1.downsample."),
    (r"^backbone\.0\.norm1\.", f"{_SWIN}.hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", f"{_SWIN}.hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", f"{_SWIN}.hidden_states_norms.stage4."),
    # the text's
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    # encoder: attention within the image, within the text, and between both
    (r"^transformer\.encoder\.layers\.(\d+)\.self_attn\.", rf"{_LAYER}.deformable_layer.self_attn."),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm1\.", rf"{_LAYER}.deformable_layer.self_attn_layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm2\.", rf"{_LAYER}.deformable_layer.final_layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.linear(\d)\.", rf"{_LAYER}.deformable_layer.fc\2."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.self_attn\.", rf"{_LAYER}.text_enhancer_layer.self_attn."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.norm1\.", rf"{_LAYER}.text_enhancer_layer.layer_norm_before."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.norm2\.", rf"{_LAYER}.text_enhancer_layer.layer_norm_after."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.linear(\d)\.", rf"{_LAYER}.text_enhancer_layer.fc\2."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", rf"{_LAYER}.fusion_layer."),
    (r"\.fusion_layer\.gamma_v$", ".fusion_layer.vision_param"),
    (r"\.fusion_layer\.gamma_l$", ".fusion_layer.text_param"),
    (r"\.fusion_layer\.layer_norm_v\.", ".fusion_layer.layer_norm_vision."),
    (r"\.fusion_layer\.layer_norm_l\.", ".fusion_layer.layer_norm_text."),
    (r"\.fusion_layer\.attn\.(values_|out_)?v_proj\.", r".fusion_layer.attn.\1vision_proj."),
    (r"\.fusion_layer\.attn\.(values_|out_)?l_proj\.", r".fusion_layer.attn.\1text_proj."),
    # decoder
    (r"^transformer\.decoder\.layers\.(\d+)\.cross_attn\.", r"model.decoder.layers.\1.encoder_attn."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm1\.", r"model.decoder.layers.\1.encoder_attn_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.ca_text\.", r"model.decoder.layers.\1.encoder_attn_text."),
    (r"^transformer\.decoder\.layers\.(\d+)\.catext_norm\.", r"model.decoder.layers.\1.encoder_attn_text_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.self_attn\.", r"model.decoder.layers.\1.self_attn."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm2\.", r"model.decoder.layers.\1.self_attn_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm3\.", r"model.decoder.layers.\1.final_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.linear(\d)\.", r"model.decoder.layers.\1.fc\2."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.(enc_output|enc_output_norm)\.", r"model.\1."),
    (r"^transformer\.level_embed$", "model.level_embed"),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
]
_SWIN_JOINT = r"^backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.qkv\.(?P<kind>weight|bias)$"
_JOINT = (
    r"^(transformer\.(?:encoder\.text_layers|decoder\.layers)\.\d+\.(?:self_attn|ca_text))"
    r"\.in_proj_(?P<kind>weight|bias)$"
)


def load(settings: OfficialGroundingDinoRole, source: Source) -> HFZeroShotDetector:
    """Load a ``.pth`` file and BERT's vocabulary. Raises ``WeightsError`` that names what is missing or unknown."""
    official = without(source.read(read_tensors, "checkpoint"), _NOT_NEEDED)
    config = told_by_shapes(source, "groundingdino", lambda: architecture(official))
    model = network(source, GroundingDinoForObjectDetection, config, converted(official))
    images = GroundingDinoImageProcessor(size={"shortest_edge": _SHORTEST, "longest_edge": _LONGEST})
    words = source.beside(settings.tokenizer, settings.tokenizer_revision)
    tokenizer = words.read(AutoTokenizer.from_pretrained, "tokenizer")
    return HFZeroShotDetector(model, images, tokenizer, settings)


def converted(official: Mapping[str, Tensor]) -> Tensors:
    """The tensors under the names of the checkpoints that transformers publishes."""
    found = {name: tensor for name, tensor in official.items() if not name.endswith("relative_position_index")}
    own = (rf"{_BLOCK}.attention.self.query.", rf"{_BLOCK}.attention.self.key.", rf"{_BLOCK}.attention.self.value.")
    found = in_three(found, _SWIN_JOINT, (rf"{own[0]}\g<kind>", rf"{own[1]}\g<kind>", rf"{own[2]}\g<kind>"))
    found = in_three(found, _JOINT, (r"\1.query.\g<kind>", r"\1.key.\g<kind>", r"\1.value.\g<kind>"))
    return renamed(found, _RULES)


def architecture(official: Mapping[str, Tensor]) -> GroundingDinoConfig:
    """The configuration that the tensors' shapes tell. Raises ``KeyError`` with the first name that is not there."""
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    stages = range(count(shapes, r"backbone\.0\.layers\.(\d+)\."))
    tables = [shapes[f"backbone.0.layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    first = shapes["backbone.0.patch_embed.proj.weight"]
    backbone = SwinConfig(
        patch_size=first[2],
        embed_dim=first[0],
        depths=[count(shapes, rf"backbone\.0\.layers\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        num_heads=[heads for _, heads in tables],
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,
        out_features=["stage2", "stage3", "stage4"],
    )
    words, hidden = shapes["bert.embeddings.word_embeddings.weight"]
    text = BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=shapes["bert.encoder.layer.0.intermediate.dense.weight"][0],
        num_hidden_layers=count(shapes, r"bert\.encoder\.layer\.(\d+)\."),
        num_attention_heads=hidden // _BERT_HEAD,
        max_position_embeddings=shapes["bert.embeddings.position_embeddings.weight"][0],
    )
    return GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=shapes["feat_map.weight"][0],
        num_queries=shapes["transformer.tgt_embed.weight"][0],
        num_feature_levels=shapes["transformer.level_embed"][0],
        encoder_layers=count(shapes, r"transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=count(shapes, r"transformer\.decoder\.layers\.(\d+)\."),
        encoder_ffn_dim=shapes["transformer.encoder.layers.0.linear1.weight"][0],
        decoder_ffn_dim=shapes["transformer.decoder.layers.0.linear1.weight"][0],
        encoder_attention_heads=_HEADS,
        decoder_attention_heads=_HEADS,
        encoder_n_points=_POINTS,
        decoder_n_points=_POINTS,
    )
