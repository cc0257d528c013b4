"""Every option of the method, with its source.

Each description starts with where the default comes from: *Paper* (INT, arXiv 2501.18753), *Ancestor* (the released
code or paper of ProMaC, arXiv 2408.15205, or GenSAM, arXiv 2312.07374) or *Stand-in* (not published; our choice).
What belongs to a model rather than to the method is in the model profiles (``models/profiles``): checkpoints, and the
inpainter's seed (ancestor code: 32), steps, guidance and size. Vision-language models decode greedily (stand-in, so
that a run can be repeated; the ancestor code samples).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator


class ConfigError(ValueError):
    """A configuration value is unknown or out of range; the message names the option and the cure."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PatchesConfig(_Section):
    """Multi-scale division of the image (HCG)."""

    scales: tuple[Literal[1, 2, 4], ...] = Field(
        (1, 2, 4), description="Paper, table 3(b): the whole, its halves and its quarters; K = 1 + 4 + 4 = 9 patches."
    )
    quarters: Literal["grid", "strips"] = Field(
        "grid",
        description="Stand-in: a 2 x 2 grid. `strips` is the ancestor code: cut twice along the side that is then the "
        "longer one, which gives four strips from aspect ratio 2 on.",
    )

    @field_validator("scales")
    @classmethod
    def _some_scales(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("give each of the scales 1, 2, 4 at most once, and at least one of them")
        return value


class VlmConfig(_Section):
    """How the vision-language model is asked."""

    input: Literal["original", "reweighted"] = Field(
        "original", description="Ancestor paper (A.6): the VLM always sees the original image; `reweighted` feeds X_i."
    )
    caption_tokens: int = Field(48, ge=1, description="Stand-in: most new tokens of the caption (ancestor code: 1024).")
    name_tokens: int = Field(8, ge=1, description="Stand-in: most new tokens of a name (ancestor code: 1024).")
    box_tokens: int = Field(32, ge=1, description="Stand-in: most new tokens of a box (ancestor code: 1024).")


class CandidatesConfig(_Section):
    """From answers to candidate names."""

    refresh: Literal["once", "every"] = Field(
        "once",
        description="Stand-in: one dialogue per patch, kept. `every` repeats it in each iteration (ancestor paper, "
        "algorithm 1), which differs only when the VLM samples or sees the reweighted image.",
    )
    negative_answer: Literal["task", "abstain"] = Field(
        "task",
        description="Stand-in: if every patch answers 'none', go on with the task prompt as the name, or abstain.",
    )


class InpaintConfig(_Section):
    """Removal of the candidate region (paper eq. 3)."""

    first: Literal["per_patch_box", "union_box_crop"] = Field(
        "per_patch_box",
        description="Stand-in: in iteration 1 each patch loses its own box. `union_box_crop` is the ancestor code: one "
        "inpainting of the whole image without the union of all boxes, then crops.",
    )
    later: Literal["mask_crop", "per_patch_box", "union_box_crop"] = Field(
        "mask_crop", description="Ancestor paper eq. 4: from iteration 2 on the last mask is removed, then crops."
    )
    dilation: float = Field(
        0.05, ge=0, le=0.5, description="Stand-in: the region grows by this part of the diagonal of what is inpainted."
    )
    reuse_iou: float = Field(
        0.98, ge=0, le=1, description="Stand-in: X' is kept if the mask's IoU with the last one is greater; 1 = never."
    )


class ScoreConfig(_Section):
    """The change of the VLM's output (paper eq. 4)."""

    domain: Literal["candidates", "vocab"] = Field(
        "candidates",
        description="Stand-in: the maximum of eq. 4 runs over the candidate names. `vocab` is the literal reading: "
        "over the vocabulary, along the patch's own answer.",
    )
    reduce: Literal["mean", "prod", "first", "max"] = Field(
        "mean",
        description="Stand-in: how the token probabilities of a name become one number; `mean` is the geometric mean, "
        "which does not punish long names.",
    )
    with_caption: bool = Field(
        False, description="Stand-in: without the caption, since one that names the object makes the model copy it."
    )
    eps: float = Field(1e-6, gt=0, lt=1, description="Stand-in: floor of D, so that one zero does not end a patch.")

    @model_validator(mode="after")
    def _differences_have_no_product(self) -> Self:
        if self.domain == "vocab" and self.reduce == "prod":
            raise ValueError("the vocabulary domain takes differences per token: choose reduce = mean, first or max")
        return self


class PnmConfig(_Section):
    """Progressive negative mining (paper eqs. 7, 8)."""

    enabled: bool = Field(True, description="Paper. Off, or `switches.pnm` off: scores are reset in every iteration.")
    key: Literal["patch", "name"] = Field(
        "patch", description="Paper: scores are multiplied per patch. `name` multiplies per candidate name."
    )
    name_reduce: Literal["max", "mean"] = Field(
        "max", description="Stand-in: with `key` = `name`, a name's score is the maximum or the mean over the patches."
    )


class DetectorConfig(_Section):
    """Boxes of all instances (paper eq. 9)."""

    box_threshold: float = Field(
        0.35, ge=0, le=1, description="Stand-in: the detector's published demonstration value."
    )
    text_threshold: float = Field(
        0.25, ge=0, le=1, description="Stand-in: the detector's published demonstration value."
    )
    low_box_threshold: float = Field(0.25, ge=0, le=1, description="Stand-in: second try when nothing was found.")
    low_text_threshold: float = Field(0.2, ge=0, le=1, description="Stand-in: second try when nothing was found.")
    nms_iou: float = Field(0.7, gt=0, le=1, description="Stand-in: of two boxes with a greater IoU the better stays.")
    max_boxes: int = Field(10, ge=1, description="Stand-in: at most so many boxes, by score.")
    max_area: float = Field(
        0.95, gt=0, le=1, description="Stand-in: boxes over this part of the image are dropped if others exist."
    )


class SpatialClipConfig(_Section):
    """Points from CLIP Surgery similarity (paper eq. 10, after GenSAM)."""

    templates: Literal["ensemble", "photo", "plain"] = Field(
        "ensemble",
        description="Ancestor code: mean over 85 templates; `photo` = one sentence, `plain` = the bare text.",
    )
    normalise: Literal["channel", "token"] = Field(
        "channel",
        description="Ancestor code: features are scaled to unit norm per channel over the patches; `token`: per patch.",
    )
    down_sample: float = Field(
        0.5, gt=0, le=1, description="Ancestor code: the map is resized by 1 / down_sample before points are taken."
    )
    attn_thr: float = Field(0.9, gt=0, le=1, description="Ancestor code: cells at or above it are positive points.")
    use_background: bool = Field(True, description="Ancestor code: the environment's map is subtracted.")
    strategy: Literal["FgBgHm", "FgBgHmClamp"] = Field(
        "FgBgHm", description="Ancestor code: plain difference of the maps, or clamped to [0, 1]."
    )
    max_points: int = Field(
        32, ge=1, description="Stand-in: at most so many points of a sign; a large plateau needs no more."
    )


class SamConfig(_Section):
    """Masks from boxes and points (paper eq. 10)."""

    input: Literal["original", "reweighted"] = Field(
        "original",
        description="Stand-in: the original image, encoded once. `reweighted` feeds X_i, as eq. 10 is written, and "
        "encodes once per iteration.",
    )
    multimask: bool = Field(True, description="Ancestor code: three alternatives, the best by predicted IoU is taken.")
    points: Literal["in_box", "all", "none"] = Field(
        "in_box", description="Stand-in: a box gets only its own points, as several boxes share one similarity map."
    )
    negative_margin: float = Field(
        0.15, ge=0, le=1, description="Stand-in: negative points may lie outside the box by this part of its sides."
    )


class ClipConfig(_Section):
    """Semantic score of a masked region (paper eq. 11) and selection."""

    select_threshold: float = Field(
        0.7, ge=0, le=1, description="Ancestor code: masks whose normalised score reaches it are kept."
    )
    anchor: Literal["background", "masks"] = Field(
        "background",
        description="Stand-in: the zero of the min-max scale is the image without all masks. `masks` is the ancestor's "
        "scale, on which the worst of several masks always scores 0, so that two instances never survive.",
    )
    view: Literal["image", "crop"] = Field(
        "image",
        description="Paper eq. 11: CLIP sees the whole image, black outside the mask; of several instances the larger "
        "ones then score higher. `crop` (our addition) shows it each mask's surroundings only, at one size.",
    )


class FuseConfig(_Section):
    """Soft fusion of the selected masks (paper eq. 12)."""

    rule: Literal["max", "wsum"] = Field(
        "max",
        description="Stand-in: maximum of weighted soft masks. `wsum` is eq. 12, rescaled to a maximum of 1; the "
        "binary mask is the union of the selected masks under both.",
    )
    duplicate_iou: float = Field(0.7, gt=0, le=1, description="Stand-in: of two masks with a greater IoU one stays.")
    duplicate_cover: float = Field(
        0.9, gt=0, le=1, description="Stand-in: a mask that others cover to this part is no instance of its own."
    )


class UpdateConfig(_Section):
    """The image of the next iteration (paper eq. 13)."""

    w: float = Field(0.3, ge=0, le=1, description="Paper: weight of the masked image.")
    rule: Literal["paper", "ema"] = Field(
        "paper", description="Paper eq. 13, from X_i. `ema` is the ancestor code: always from the original image."
    )


class IterationsConfig(_Section):
    """How many iterations."""

    count: int = Field(5, ge=1, le=50, description="Paper, table 3(a): I = 5 (camouflage); unknown for other tasks.")


class EarlyStopConfig(_Section):
    """Stop when the soft mask has settled."""

    rule: Literal["off", "gensam"] = Field(
        "off", description="Paper: none. `gensam`: stop after `patience` small mean absolute changes of the soft mask."
    )
    tolerance: float = Field(0.003, gt=0, description="Ancestor code (GenSAM): what a small change is.")
    patience: int = Field(2, ge=1, description="Ancestor code (GenSAM): two, which must also differ by less than that.")


class FinalConfig(_Section):
    """Choice among the iterations (paper eq. 14)."""

    rule: Literal["closest_to_mean", "last"] = Field(
        "closest_to_mean", description="Paper eq. 14, as squared L2 on soft maps; ties go to the later iteration."
    )


class SwitchesConfig(_Section):
    """Modules of the ablation, table 3(c). What 'off' means is published for HCG only."""

    hcg: bool = Field(True, description="Paper. Off: the whole image is the only patch (table 3(b), 'Original').")
    psnm: bool = Field(True, description="Paper. Off (stand-in): no inpainting; the name is the whole image's answer.")
    pnm: bool = Field(True, description="Paper. Off (stand-in): the same as `pnm.enabled` off.")
    smg: bool = Field(True, description="Paper. Off (stand-in): boxes -> segmenter; no points, no semantic score.")


class AbstainConfig(_Section):
    """When to give no mask at all."""

    min_score: float = Field(
        0.0, ge=0, le=1, description="Stand-in: instances below this score are dropped; if none is left, abstain."
    )


class LimitsConfig(_Section):
    """Bounds on memory."""

    max_side: int = Field(
        2048, ge=64, description="Stand-in: larger images are worked on at this side; masks come back at full size."
    )


class TilingConfig(_Section):
    """Large images in tiles (our addition); see ``int_model.strategies.tiling``."""

    over_pixels: int = Field(
        0, ge=0, description="Stand-in (our addition): images with more pixels are worked on in tiles; 0: never."
    )
    side: int = Field(1024, ge=32, description="Stand-in: longest side of a tile's core, in pixels.")
    halo: int = Field(128, ge=1, description="Stand-in: pixels around the core that a tile sees too.")
    agreement: float = Field(
        0.5, gt=0, le=1, description="Stand-in: IoU, where two tiles overlap, from which their pieces are one object."
    )


class PromacConfig(_Section):
    """The strategy ``promac``: the ancestor's loop, for comparison. What it shares with INT has INT's options."""

    scales: tuple[Literal[1, 2, 4], ...] = Field(
        (1, 2), description="Ancestor paper, table 6: the whole and its halves; K = 1 + 4 = 5 patches."
    )
    iterations: int = Field(4, ge=1, le=50, description="Ancestor paper: I = 4 (6 for polyps).")
    alpha: float = Field(
        1.0, ge=0, description="Ancestor paper, eq. 3: weight of the contrast with the inpainted image."
    )
    plausible: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Ancestor code: tokens below this part of the likeliest token's probability are out (computed "
        "there but never applied; eq. 3 names no cut-off). 0: every token may be chosen.",
    )

    @field_validator("scales")
    @classmethod
    def _with_the_whole(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if 1 not in value or len(set(value)) != len(value):
            raise ValueError("give the scale 1, which the last questions are about, and each scale at most once")
        return value


class Sam3Config(_Section):
    """The strategy ``sam3``: SAM 3 asked for the task prompt."""

    threshold: float = Field(
        0.3, ge=0, le=1, description="Stand-in: the library's default; instances below this score are left out."
    )
    max_instances: int = Field(50, ge=1, description="Stand-in: at most so many instances, by score.")


class IntConfig(_Section):
    """The whole configuration of the method; the defaults are the paper's setting as far as it is known."""

    patches: PatchesConfig = PatchesConfig()
    vlm: VlmConfig = VlmConfig()
    candidates: CandidatesConfig = CandidatesConfig()
    inpaint: InpaintConfig = InpaintConfig()
    score: ScoreConfig = ScoreConfig()
    pnm: PnmConfig = PnmConfig()
    detector: DetectorConfig = DetectorConfig()
    sclip: SpatialClipConfig = SpatialClipConfig()
    sam: SamConfig = SamConfig()
    clip: ClipConfig = ClipConfig()
    fuse: FuseConfig = FuseConfig()
    update: UpdateConfig = UpdateConfig()
    iterations: IterationsConfig = IterationsConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    final: FinalConfig = FinalConfig()
    switches: SwitchesConfig = SwitchesConfig()
    abstain: AbstainConfig = AbstainConfig()
    limits: LimitsConfig = LimitsConfig()
    tiling: TilingConfig = TilingConfig()
    promac: PromacConfig = PromacConfig()
    sam3: Sam3Config = Sam3Config()

    def merged(self, overrides: Mapping[str, Any]) -> IntConfig:
        """This configuration with nested ``overrides``, e.g. ``{"pnm": {"key": "name"}}``; raises ``ConfigError``."""
        return _validated(_deep_merge(self.model_dump(), overrides))

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change exactly when a value changes."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def preset_names() -> tuple[str, ...]:
    """Names of the bundled presets, sorted."""
    folder = resources.files("int_model.core") / "presets"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_preset(name: str) -> IntConfig:
    """A bundled preset: the defaults with the preset's overrides. Raises ``ConfigError`` for an unknown name."""
    if name not in preset_names():
        raise ConfigError(f"there is no preset '{name}'; choose one of: {', '.join(preset_names())}")
    text = (resources.files("int_model.core") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return IntConfig().merged(tomllib.loads(text))


def _deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in overrides.items():
        below = out.get(key)
        out[key] = _deep_merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out


def _validated(values: Mapping[str, Any]) -> IntConfig:
    try:
        return IntConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"there is no option '{option}'; {_choices(first['loc'][:-1])}") from error
        raise ConfigError(f"option '{option}': {first['msg']} (given: {first['input']!r})") from error


def _choices(path: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = IntConfig
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    where = ".".join(str(part) for part in path) or "the configuration"
    return f"{where} has: {', '.join(model.model_fields)}"
