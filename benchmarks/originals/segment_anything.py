"""The package segment_anything (facebookresearch/segment-anything)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.originals.pictures import PROMPTS, enlivened, largest, picture
from int_model.models.adapters.originals import sam as ours
from int_model.models.profile import OfficialSamRole
from int_model.models.weights import Source


def original(seed: int = 11) -> Any:
    """A small model of the package, random. Raises ``ImportError`` where the package is not installed."""
    from segment_anything import modeling as package

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
    decoder = package.MaskDecoder(
        num_multimask_outputs=3,
        transformer=package.TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=32, num_heads=8),
        transformer_dim=16,
        iou_head_depth=3,
        iou_head_hidden_dim=16,
    )
    return enlivened(package.Sam(encoder, prompts, decoder), seed, 0.25)


def differences(folder: Path) -> dict[str, float]:
    """The largest differences of logits, of low-resolution logits and of predicted IoUs."""
    model = original()
    torch.save(model.state_dict(), folder / "sam.pth")
    settings = OfficialSamRole(id=str(folder / "sam.pth"))
    segmenter = ours.load(settings, Source.of("segmenter", settings, device=torch.device("cpu"), offline=True))
    from segment_anything import SamPredictor

    theirs, image = SamPredictor(model), picture(48, 90, 1)
    theirs.set_image(image)
    [embedding] = segmenter.encode([image])
    found: dict[str, float] = {}
    for prompt, proposal in zip(PROMPTS, segmenter.decode(embedding, PROMPTS), strict=True):
        box = None if prompt.box is None else np.array(prompt.box.as_tuple())
        points = {"point_coords": prompt.points, "point_labels": prompt.labels} if len(prompt.labels) else {}
        logits, iou, low = theirs.predict(box=box, **points, multimask_output=True, return_logits=True)
        pairs = {"logits": (proposal.logits, logits), "low": (proposal.low_res, low), "iou": (proposal.iou, iou)}
        found = {name: max(found.get(name, 0.0), largest(pair)) for name, pair in pairs.items()}
    return {**found, "spread of logits": float(np.std(logits))}
