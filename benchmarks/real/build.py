"""A profile's five models from their real configurations: random weights, made directly on the device, no download.

The configurations are those published with the checkpoints that the profiles name (``configurations.json``). Tokenizers
are trained here on the method's own sentences, so that a word is one or two tokens as in the real ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from benchmarks.real.script import SENTENCES
from int_model.models.adapters.detector import HFZeroShotDetector
from int_model.models.adapters.inpainting import DiffusersInpainter, MeanColourInpainter, OpenCVInpainter
from int_model.models.adapters.originals.open_clip import ClipWithBert
from int_model.models.adapters.sam2 import HFSam2Segmenter
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.adapters.text_image import HFClip
from int_model.models.adapters.vision_language import HFVisionLanguage
from int_model.models.device import choose_dtype
from int_model.models.profile import DiffusersRole, OpenCVRole, Profile, Weights
from int_model.models.suite import ModelSuite

CONFIGURATIONS: dict[str, Any] = json.loads((Path(__file__).parent / "configurations.json").read_text("utf-8"))
_CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }}: "
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Built:
    """The networks of a profile, before adapters are put around them.

    Args:
        profile: names the checkpoints and the precision of each role.
        device: where the weights are made.
        depth: most layers of each transformer; None for the real number. The widths stay real.
    """

    def __init__(self, profile: Profile, device: torch.device, depth: int | None = None) -> None:
        self.profile, self.device, self.depth = profile, device, depth
        self.parts: dict[str, dict[str, Any]] = {}
        for role in ("vlm", "inpainter", "detector", "segmenter", "text_image"):
            settings = getattr(profile, role)
            self.parts[role] = getattr(self, f"_{role}")(settings) if isinstance(settings, Weights) else {}

    def suite(self, profile: Profile | None = None) -> ModelSuite:
        """Adapters around the networks, with the settings of ``profile`` (other batch sizes, say) if given."""
        profile = profile or self.profile
        parts = self.parts
        return ModelSuite(
            vlm=HFVisionLanguage(**parts["vlm"], settings=profile.vlm),  # type: ignore[arg-type]
            inpainter=_inpainter(parts["inpainter"], profile.inpainter),
            detector=HFZeroShotDetector(**parts["detector"], settings=profile.detector),  # type: ignore[arg-type]
            segmenter=_segmenter(parts["segmenter"], profile.segmenter),
            text_image=HFClip(**parts["text_image"], settings=profile.text_image),  # type: ignore[arg-type]
            profile=profile.name,
            device=str(self.device),
            fingerprint="random weights",
            int_overrides=profile.int_overrides,
        )

    def _capped(self, table: dict[str, Any]) -> dict[str, Any]:
        """The configuration with fewer layers, if that is wanted."""
        if self.depth is None:
            return table
        table = dict(table)
        for key in ("num_hidden_layers", "depth"):
            if key in table:
                table[key] = min(self.depth, table[key])
        if "depths" in table:
            table["depths"] = [min(self.depth, blocks) for blocks in table["depths"]]
        last = table.get("num_hidden_layers", table.get("depth", 0)) - 1
        for key in ("global_attn_indexes", "deepstack_visual_indexes"):
            if key in table:
                table[key] = [last]
        return table

    def _made(self, build: Any, settings: Weights) -> Any:
        with _defaults(self.device, choose_dtype(settings.dtype, self.device)):
            model = build()
        return model.eval().requires_grad_(requires_grad=False)

    def _vlm(self, settings: Weights) -> dict[str, Any]:
        numbers = CONFIGURATIONS[settings.id]
        make = _qwen if settings.id.startswith("Qwen") else _llava
        config, processor, model_class = make(self._capped(numbers["text"]), self._capped(numbers["vision"]))
        config.tie_word_embeddings = numbers.get("tied", False)
        model = self._made(lambda: model_class(config), settings)
        return {"model": model, "processor": processor}

    def _inpainter(self, settings: Weights) -> dict[str, Any]:
        import diffusers

        numbers = CONFIGURATIONS[settings.id]
        tokenizer = clip_tokenizer()
        text = hf.CLIPTextConfig(**{**self._capped(numbers["text"]), **_ids(tokenizer)})
        kinds = {"unipc": "UniPCMultistep", "dpm++": "DPMSolverMultistep", "ddim": "DDIM"}
        scheduler = getattr(diffusers, f"{kinds[getattr(settings, 'scheduler', 'unipc')]}Scheduler")
        pipeline = diffusers.StableDiffusionInpaintPipeline(
            vae=self._made(lambda: diffusers.AutoencoderKL(**numbers["vae"]), settings),
            text_encoder=self._made(lambda: hf.CLIPTextModel(text), settings),
            tokenizer=tokenizer,
            unet=self._made(lambda: diffusers.UNet2DConditionModel(**numbers["unet"]), settings),
            scheduler=scheduler.from_config(numbers["scheduler"]),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return {"pipeline": pipeline}

    def _detector(self, settings: Weights) -> dict[str, Any]:
        numbers = CONFIGURATIONS[settings.id]
        # The last layers share their box heads, which one layer alone cannot.
        layers = numbers["layers"] if self.depth is None else max(2, min(self.depth, numbers["layers"]))
        text = self._capped({"num_hidden_layers": 12})
        config = hf.GroundingDinoConfig(
            backbone_config=hf.SwinConfig(**self._capped(numbers["backbone"])),
            text_config=hf.BertConfig(**text),
            encoder_layers=layers,
            decoder_layers=layers,
        )
        model = self._made(lambda: hf.GroundingDinoForObjectDetection(config), settings)
        images = hf.GroundingDinoImageProcessor(size={"shortest_edge": 800, "longest_edge": 1333})
        return {"model": model, "image_processor": images, "tokenizer": bert_tokenizer()}

    def _segmenter(self, settings: Weights) -> dict[str, Any]:
        if "blocks_per_stage" in CONFIGURATIONS[settings.id]:
            numbers = dict(CONFIGURATIONS[settings.id])
            if self.depth is not None:  # a stage's last block is never the one of a later stage
                numbers["blocks_per_stage"] = [min(self.depth, blocks) for blocks in numbers["blocks_per_stage"]]
                numbers["global_attention_blocks"] = []
            config = hf.Sam2Config(vision_config=hf.Sam2VisionConfig(backbone_config=hf.Sam2HieraDetConfig(**numbers)))
            return {"model": self._made(lambda: hf.Sam2Model(config), settings), "image_options": {}}
        vision = hf.SamVisionConfig(**self._capped(CONFIGURATIONS[settings.id]), num_pos_feats=128)
        model = self._made(lambda: hf.SamModel(hf.SamConfig(vision_config=vision)), settings)
        return {"model": model, "image_processor": hf.SamImageProcessor()}

    def _text_image(self, settings: Weights) -> dict[str, Any]:
        numbers = CONFIGURATIONS[settings.id]
        if "bert" in numbers:
            return self._clip_with_bert(numbers, settings)
        tokenizer = clip_tokenizer()
        config = hf.CLIPConfig(
            text_config={**self._capped(numbers["text"]), **_ids(tokenizer)},
            vision_config=self._capped(numbers["vision"]),
            projection_dim=numbers["vision"]["projection_dim"],
        )
        model = self._made(lambda: hf.CLIPModel(config), settings)
        images = hf.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
        return {"model": model, "image_processor": images, "tokenizer": tokenizer}

    def _clip_with_bert(self, numbers: dict[str, Any], settings: Weights) -> dict[str, Any]:
        vision, bert = self._capped(numbers["vision"]), self._capped(numbers["bert"])
        middle = (bert["hidden_size"] + vision["projection_dim"]) // 2

        def build() -> Any:
            tower = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**vision))
            tower.vision_model.pre_layrnorm = torch.nn.Identity()
            words = hf.BertModel(hf.BertConfig(**bert), add_pooling_layer=False)
            projection = torch.nn.Sequential(
                torch.nn.Linear(bert["hidden_size"], middle, bias=False),
                torch.nn.GELU(),
                torch.nn.Linear(middle, vision["projection_dim"], bias=False),
            )
            return ClipWithBert(tower, words, projection, torch.tensor(4.6), numbers["length"])

        images = hf.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
        return {"model": self._made(build, settings), "image_processor": images, "tokenizer": bert_tokenizer()}


def _segmenter(parts: dict[str, Any], settings: Any) -> Any:
    return (HFSam2Segmenter if "image_options" in parts else HFSamSegmenter)(**parts, settings=settings)


def _inpainter(parts: dict[str, Any], settings: Any) -> Any:
    if isinstance(settings, DiffusersRole):
        return DiffusersInpainter(**parts, settings=settings)
    return OpenCVInpainter(settings) if isinstance(settings, OpenCVRole) else MeanColourInpainter(settings)


def _llava(text: dict[str, Any], vision: dict[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = chat_tokenizer(("<image>",))
    side = vision["image_size"]
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision),
        text_config=hf.LlamaConfig(**text, **_ids(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2 if vision["num_hidden_layers"] > 1 else -1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",  # noqa: S106 - not a password
        chat_template=_CHAT,
    )
    return config, processor, hf.LlavaForConditionalGeneration


def _qwen(text: dict[str, Any], vision: dict[str, Any]) -> tuple[Any, Any, Any]:
    special = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = chat_tokenizer(special)
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    config = hf.Qwen3VLConfig(
        text_config={**text, **_ids(tokenizer)},
        vision_config=vision,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in tokens.items()},
    )
    images = hf.Qwen2VLImageProcessor(patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"])
    processor = hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor(), chat_template=_CHATML)
    return config, processor, hf.Qwen3VLForConditionalGeneration


# ------------------------------------------------------------------ tokenizers


def _ids(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def _bpe(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _fast(tokenizer: Tokenizer, **options: Any) -> Any:
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    inputs = ["input_ids", "attention_mask"]
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names, **options)


def chat_tokenizer(extra: tuple[str, ...]) -> Any:
    """Byte-level BPE with a start token and the placeholders ``extra``."""
    bpe = _bpe(["<unk>", "<s>", "</s>", "<pad>"])
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = _fast(bpe)
    made.add_special_tokens({"additional_special_tokens": list(extra)})
    return made


def clip_tokenizer() -> Any:
    """Ends every text with the token of the highest id, where CLIP reads the text off."""
    bpe = _bpe(["<pad>", "<unk>"])
    bpe.add_special_tokens(["<s>", "</s>"])
    ends = [(name, bpe.token_to_id(name)) for name in ("<s>", "</s>")]
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return _fast(bpe, model_max_length=77)


def bert_tokenizer() -> Any:
    """BERT's, with the ids that GroundingDINO has built in and the words of the script."""
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    words = sorted({word for sentence in SENTENCES for word in sentence.lower().replace(".", " ").split()})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    rest = iter(dict.fromkeys([*words, *letters, *(f"##{letter}" for letter in letters)]))
    vocabulary = [fixed.get(index) or next(rest, f"[unused{index}]") for index in range(2000)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary))
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        return hf.BertTokenizerFast.from_pretrained(folder)  # nosec B615 - a folder, nothing is fetched


@contextmanager
def _defaults(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors are made on ``device`` in ``dtype``: a model is then never in the host's memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
