"""The package groundingdino (IDEA-Research/GroundingDINO), built without the BERT wrapper that transformers 5 broke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.originals.pictures import enlivened, largest, picture
from benchmarks.real.build import bert_tokenizer
from int_model.models.adapters.originals import grounding_dino as ours
from int_model.models.profile import OfficialGroundingDinoRole
from int_model.models.weights import Source

OPTIONS = {
    "position_embedding": "sine",
    "pe_temperatureH": 20,
    "pe_temperatureW": 20,
    "return_interm_indices": [1, 2, 3],
    "backbone_freeze_keywords": None,
    "enc_layers": 2,
    "dec_layers": 2,
    "pre_norm": False,
    "dim_feedforward": 64,
    "hidden_dim": 256,
    "dropout": 0.0,
    "nheads": 8,
    "num_queries": 12,
    "query_dim": 4,
    "num_patterns": 0,
    "num_feature_levels": 4,
    "enc_n_points": 4,
    "dec_n_points": 4,
    "two_stage_type": "standard",
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "transformer_activation": "relu",
    "dec_pred_bbox_embed_share": True,
    "embed_init_tgt": True,
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_checkpoint": False,
    "use_transformer_ckpt": False,
    "use_text_cross_attention": True,
    "text_dropout": 0.0,
    "fusion_dropout": 0.0,
    "fusion_droppath": 0.0,
    "sub_sentence_present": True,
    "max_text_len": 256,
}


class _Bert(torch.nn.Module):
    """BERT with the package's mask of sentences, which this version of transformers takes with an axis more."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.config, self.embeddings, self.encoder, self.pooler = (
            bert.config,
            bert.embeddings,
            bert.encoder,
            bert.pooler,
        )
        self._bert = [bert]  # in a list: its tensors are those of the parts

    def forward(self, attention_mask: Any = None, **inputs: Any) -> Any:
        mask = attention_mask[:, None] if attention_mask.ndim == 3 else attention_mask
        return self._bert[0](attention_mask=mask, **inputs)


def original(vocabulary: Path, seed: int = 7) -> Any:
    """A small model of the package, random; the vocabulary is saved. Raises ``ImportError`` where it is missing."""
    from types import SimpleNamespace

    from groundingdino.models.GroundingDINO import groundingdino as package
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner, build_position_encoding
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.models.GroundingDINO.transformer import build_transformer
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    tokenizer.save_pretrained(vocabulary)
    bert = BertModel(
        BertConfig(vocab_size=2000, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1)
    )
    options = SimpleNamespace(**OPTIONS)
    swin = SwinTransformer(
        pretrain_img_size=224,
        embed_dim=16,
        depths=[2, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
    )
    backbone = Joiner(swin, build_position_encoding(options))
    backbone.num_channels = swin.num_features[1:]
    before = package.BertModelWarper, package.get_tokenlizer.get_tokenlizer
    models = package.get_tokenlizer.get_pretrained_language_model
    try:
        package.BertModelWarper = lambda bert_model: _Bert(bert_model)
        package.get_tokenlizer.get_tokenlizer = lambda _: tokenizer
        package.get_tokenlizer.get_pretrained_language_model = lambda _: bert
        model = package.GroundingDINO(
            backbone,
            build_transformer(options),
            num_queries=options.num_queries,
            iter_update=True,
            query_dim=4,
            num_feature_levels=4,
            nheads=8,
            two_stage_type="standard",
            two_stage_bbox_embed_share=False,
            two_stage_class_embed_share=False,
        )
    finally:
        package.BertModelWarper, package.get_tokenlizer.get_tokenlizer = before
        package.get_tokenlizer.get_pretrained_language_model = models
    return enlivened(model, seed, 0.06)


def load(path: Path, vocabulary: Path) -> Any:
    """Our adapter with the file's weights."""
    settings = OfficialGroundingDinoRole(id=str(path), tokenizer=str(vocabulary))
    return ours.load(settings, Source.of("detector", settings, device=torch.device("cpu"), offline=True))


def differences(folder: Path) -> dict[str, float]:
    """The largest differences of boxes (parts of the image) and of the tokens' probabilities."""
    model = original(folder / "vocabulary")
    torch.save({"model": {f"module.{name}": t for name, t in model.state_dict().items()}}, folder / "dino.pth")
    detector = load(folder / "dino.pth", folder / "vocabulary")
    pixels = detector._image_processor(images=[picture(96, 128, 2)], size={"shortest_edge": 96, "longest_edge": 160})
    pixels = torch.from_numpy(np.asarray(pixels["pixel_values"]))
    tokens = detector._tokenizer(["gecko."], return_token_type_ids=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model(pixels, captions=["gecko."])
        mine = detector.model(pixel_values=pixels, **tokens)
    length = tokens["input_ids"].shape[1]
    logits = [out[0, :, :length].sigmoid().numpy() for out in (mine.logits, theirs["pred_logits"])]
    boxes = mine.pred_boxes[0].numpy(), theirs["pred_boxes"][0].numpy()
    return {
        "boxes": largest(boxes),
        "probabilities": largest((logits[0], logits[1])),
        "spread of boxes": float(np.std(boxes[1])),
        "spread of probabilities": float(np.std(logits[1])),
    }
