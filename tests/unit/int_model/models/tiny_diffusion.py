"""A tiny, randomly initialised Stable Diffusion inpainting pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
import transformers as hf
from tokenizers import pre_tokenizers


def save_stable_diffusion(folder: Path) -> None:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=16,
        in_channels=9,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 16],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    tokenizer_folder = folder / "tokenizer_source"
    tokenizer_folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *(f"{c}</w>" for c in alphabet)])}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    (tokenizer_folder / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer_folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = hf.CLIPTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.model_max_length = 77
    text = hf.CLIPTextModel(
        hf.CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=len(vocabulary) - 2,
            eos_token_id=len(vocabulary) - 1,
            pad_token_id=len(vocabulary) - 1,
        )
    )
    torch.manual_seed(7)
    diffusers.StableDiffusionInpaintPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
