"""Tiny, randomly initialised checkpoints of the real classes, saved as anyone would save them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "This image is from the camouflaged animal detection task, describe the camouflaged animal in one sentence.",
    "Name of the camouflaged animal in one word. Name of the environment of the camouflaged animal in one word.",
    "USER: ASSISTANT: a moth hidden on the bark of a tree",
]
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }}: "
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A blocky random image: structure that survives resizing to a few pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))[:height, :width])


def enliven(model: torch.nn.Module, seed: int, scale: float = 0.25) -> torch.nn.Module:
    """Larger random matrices than the usual initialisation, so that outputs depend visibly on inputs."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    return model.eval()


def byte_bpe(special: tuple[str, ...] = SPECIAL, size: int = 360) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def fast(tokenizer: Tokenizer, extra: tuple[str, ...] = (), **options: object) -> hf.PreTrainedTokenizerFast:
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )
    if extra:
        made.add_special_tokens({"additional_special_tokens": list(extra)})
    return made


def chat_tokenizer(extra: tuple[str, ...] = ("<image>",)) -> hf.PreTrainedTokenizerFast:
    bpe = byte_bpe()
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return fast(bpe, extra)


def llama(vocab: int) -> hf.LlamaConfig:
    return hf.LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=3,
        bos_token_id=1,
        eos_token_id=2,
    )


def clip_vision(**options: object) -> dict[str, object]:
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {**common, "image_size": 32, "patch_size": 8, "projection_dim": 24, **options}


def save_llava(folder: Path) -> None:
    tokenizer = chat_tokenizer()
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**clip_vision()),
        text_config=llama(len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    enliven(hf.LlavaForConditionalGeneration(config), 1).save_pretrained(folder)
    hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT,
    ).save_pretrained(folder)


def save_idefics(folder: Path) -> None:
    """Another family: several image tiles, its own processor, ChatML-like turns without a leading space."""
    extra = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
    tokenizer = chat_tokenizer(extra)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.Idefics3Config(
        text_config=llama(len(tokenizer)),
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=3,
    )
    enliven(hf.Idefics3ForConditionalGeneration(config), 2).save_pretrained(folder)
    template = (
        "{% for m in messages %}<s>{{ m['role'] }}\n"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template).save_pretrained(folder)


def save_qwen(folder: Path, version: str) -> None:
    """Qwen2-VL or Qwen3-VL: images of any size, rotary positions in three dimensions. Needs torchvision."""
    special = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = chat_tokenizer(special)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = {k: v for k, v in llama(len(tokenizer)).to_dict().items() if k in _TEXT_KEYS}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if version == "2":
        config = hf.Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={**vision, "embed_dim": 32, "mlp_ratio": 2, "patch_size": 14},
            **ids,
        )
        model, processor, videos = hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLProcessor, hf.Qwen2VLVideoProcessor
        images = hf.Qwen2VLImageProcessor()
    else:
        config = hf.Qwen3VLConfig(
            text_config={**text, "head_dim": 8, "rope_parameters": {**rope, "mrope_interleaved": True}},
            vision_config={
                **vision,
                "intermediate_size": 64,
                "out_hidden_size": 32,
                "patch_size": 16,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0],
            },
            **ids,
        )
        model, processor, videos = hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor
        images = hf.Qwen2VLImageProcessor(patch_size=16, merge_size=2)
    enliven(model(config), 8, 0.15).save_pretrained(folder)
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    processor(images, tokenizer, videos(), chat_template=template).save_pretrained(folder)


_TEXT_KEYS = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
}


def save_sam(folder: Path) -> None:
    config = hf.SamConfig(
        vision_config=hf.SamVisionConfig(
            hidden_size=32,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            mlp_dim=64,
            window_size=4,
            global_attn_indexes=[1],
            num_pos_feats=8,
        ),
        prompt_encoder_config=hf.SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
        ),
        mask_decoder_config=hf.SamMaskDecoderConfig(
            hidden_size=16,
            mlp_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_downsample_rate=2,
            iou_head_hidden_dim=16,
        ),
    )
    enliven(hf.SamModel(config), 3).save_pretrained(folder)
    images = hf.SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
    hf.SamProcessor(images).save_pretrained(folder)


def clip_tokenizer(length: int) -> hf.PreTrainedTokenizerFast:
    """Ends every text with the token of the highest id, where CLIP and OWL-ViT read the text off."""
    bpe = byte_bpe(("<pad>", "<unk>"))
    bpe.add_special_tokens(["<s>", "</s>"])
    start, end = bpe.token_to_id("<s>"), bpe.token_to_id("</s>")
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return fast(bpe, model_max_length=length)


def text_tower(tokenizer: hf.PreTrainedTokenizerFast, length: int) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": length,
        "projection_dim": 24,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save_clip(folder: Path) -> None:
    tokenizer = clip_tokenizer(24)
    config = hf.CLIPConfig(
        text_config=text_tower(tokenizer, 24), vision_config=clip_vision(num_hidden_layers=4), projection_dim=24
    )
    enliven(hf.CLIPModel(config), 4).save_pretrained(folder)
    hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_owl(folder: Path, version: int = 1) -> None:
    tokenizer = clip_tokenizer(16)
    config_class, model_class, images = (
        (hf.OwlViTConfig, hf.OwlViTForObjectDetection, hf.OwlViTImageProcessor)
        if version == 1
        else (hf.Owlv2Config, hf.Owlv2ForObjectDetection, hf.Owlv2ImageProcessor)
    )
    text, vision = text_tower(tokenizer, 16), clip_vision(image_size=64, patch_size=16)
    config = config_class(text_config=text, vision_config=vision, projection_dim=32)
    enliven(model_class(config), 5).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    images(size=size, **({"crop_size": size, "do_center_crop": False} if version == 1 else {})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_grounding_dino(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = bert_tokenizer(folder)
    config = hf.GroundingDinoConfig(
        backbone_config=hf.SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=hf.BertConfig(
            vocab_size=1100,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=300,
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,  # the box heads of one layer alone cannot be tied
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        num_feature_levels=4,
        max_text_len=256,
    )
    torch.manual_seed(6)
    hf.GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    images = hf.GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    hf.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


def bert_tokenizer(folder: Path) -> hf.BertTokenizerFast:
    """GroundingDINO has BERT's ids of [CLS], [SEP], '.' and '?' built in, so they stand where BERT has them."""
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = iter(["moth", "gecko", "hidden", *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = [fixed.get(index) or next(words, f"[unused{index}]") for index in range(1100)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    return hf.BertTokenizerFast.from_pretrained(folder)


PROFILE = """
[meta]
description = "tiny random models"

[vlm]
id = "./vlm"

[inpainter]
kind = "opencv"

[detector]
id = "./owl"

[segmenter]
id = "./sam"

[text_image]
id = "./clip"
surgery_layers = 2

[int]
iterations = 2
"""


def save_sam3(folder: Path) -> None:
    """As SAM 3 is published: the image options are nested in the processor's configuration."""
    from transformers.models.sam3.configuration_sam3 import Sam3Config
    from transformers.models.sam3.modeling_sam3 import Sam3Model

    tokenizer = clip_tokenizer(16)
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layered = {**small, "num_layers": 2, "intermediate_size": 64}
    vit = {**small, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 112, "patch_size": 14}
    vision = {
        "backbone_config": {"model_type": "sam3_vit_model", **vit, "window_size": 4, "global_attn_indexes": [1]},
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    vision["backbone_config"]["pretrain_image_size"] = 56
    config = Sam3Config(
        vision_config=vision,
        text_config={"model_type": "clip_text_model", **text_tower(tokenizer, 16)},
        geometry_encoder_config={**layered, "num_layers": 1},
        detr_encoder_config=layered,
        detr_decoder_config={**layered, "num_queries": 6},
        mask_decoder_config=small,
    )
    enliven(Sam3Model(config), 7, scale=0.1).save_pretrained(folder)
    options = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": options}))
    tokenizer.save_pretrained(folder)


def save_all(root: Path) -> Path:
    """Every checkpoint in a folder of its own under ``root``, and a profile; returns the profile's path."""
    save_llava(root / "vlm")
    save_owl(root / "owl")
    save_sam(root / "sam")
    save_clip(root / "clip")
    profile = root / "tiny.toml"
    profile.write_text(PROFILE)
    return profile
