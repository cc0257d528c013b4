"""The package sam2 (facebookresearch/sam2): SAM 2 on single images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.originals.pictures import PROMPTS, enlivened, largest, picture
from int_model.models.adapters.originals import sam2 as ours
from int_model.models.profile import OfficialSam2Role
from int_model.models.weights import Source

SIDE, WIDTH, STAGES = 128, 8, (1, 1, 2, 1)
SMALL = {(WIDTH, 5): ours.Hiera(1, (8, 4, 4, 4), (3,), SIDE)}
"""The entry of ``VARIANTS`` that the small encoder would have if it were published."""


def original(seed: int = 5) -> Any:
    """A small model of the package, random. Raises ``ImportError`` where the package is not installed."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention
    from sam2.modeling.memory_encoder import MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam2_base import SAM2Base

    trunk = Hiera(
        embed_dim=WIDTH,
        num_heads=1,
        stages=STAGES,
        global_att_blocks=(3,),
        window_pos_embed_bkg_spatial_size=(7, 7),
        window_spec=(8, 4, 4, 4),
    )
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=256),
        d_model=256,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    memory = MemoryAttention(d_model=256, pos_enc_at_input=True, layer=torch.nn.Identity(), num_layers=1)
    encoder = MemoryEncoder.__new__(MemoryEncoder)
    torch.nn.Module.__init__(encoder)  # what only videos need is not built
    model = SAM2Base(
        image_encoder=ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=memory,
        memory_encoder=encoder,
        image_size=SIDE,
        use_high_res_features_in_sam=True,
        iou_prediction_use_sigmoid=True,
        multimask_output_in_sam=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        directly_add_no_mem_embed=True,
        sam_mask_decoder_extra_args={
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    )
    return enlivened(model, seed, 0.08)


def load(path: Path, **options: Any) -> Any:
    """Our adapter with the file's weights."""
    settings = OfficialSam2Role(id=str(path), **options)
    return ours.load(settings, Source.of("segmenter", settings, device=torch.device("cpu"), offline=True))


def differences(folder: Path) -> dict[str, float]:
    """The largest differences of logits, of low-resolution logits and of predicted IoUs."""
    model = original()
    torch.save({"model": model.state_dict()}, folder / "sam2.pt")
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    theirs = SAM2ImagePredictor(model)
    segmenter, image = load(folder / "sam2.pt"), picture(48, 90, 1)
    theirs._bb_feat_sizes = [(SIDE // stride,) * 2 for stride in (4, 8, 16)]  # there for 1024 pixels only
    theirs.set_image(image)
    [embedding] = segmenter.encode([image])
    found: dict[str, float] = {}
    for multimask in (True, False):
        for prompt, proposal in zip(PROMPTS, segmenter.decode(embedding, PROMPTS, multimask=multimask), strict=True):
            box = None if prompt.box is None else np.array(prompt.box.as_tuple())
            points = {"point_coords": prompt.points, "point_labels": prompt.labels} if len(prompt.labels) else {}
            logits, iou, low = theirs.predict(box=box, **points, multimask_output=multimask, return_logits=True)
            pairs = {"logits": (proposal.logits, logits), "low": (proposal.low_res, low), "iou": (proposal.iou, iou)}
            found = {name: max(found.get(name, 0.0), largest(pair)) for name, pair in pairs.items()}
    return {**found, "spread of logits": float(np.std(logits))}
