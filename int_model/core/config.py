"""The options of INT and those that strategies share, with their sources; further ones are in a strategy's own file.

Each description starts with where the default comes from: *Paper* (INT, arXiv 2501.18753), *Ancestor* (the released
code or paper of ProMaC, arXiv 2408.15205, or GenSAM, arXiv 2312.07374) or *Stand-in* (not published; our choice).
What belongs to a model rather than to the method is in the model profiles (``models/profiles``): checkpoints, and the
inpainter's seed (ancestor code: 32), steps, guidance and size. Vision-language models decode greedily (stand-in, so
that a run can be repeated; the ancestor code samples).

Where a strategy uses only some options of a section, the section is two classes: the smaller one for that strategy,
and the whole one that builds on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from int_model.core.options import Options, Section, fitting
from int_model.core.point_options import PointGeneratorConfig
from int_model.core.prompt_options import (
    CandidatesConfig,
    InpaintConfig,
    PatchesConfig,
    PnmConfig,
    ScoreConfig,
    VlmConfig,
)


class DetectorConfig(Section):
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


class QueryConfig(DetectorConfig):
    """What the detector is asked (paper eq. 9)."""

    query: Literal["name", "surest", "candidates"] = Field(
        "name",
        description="Paper eq. 9: the mined name. `surest` (ours): the name or the task prompt, whichever the detector "
        "is surer of; `candidates` (ours): any candidate name or the task prompt, and the name follows.",
    )


class SpatialClipConfig(Section):
    """Points from CLIP Surgery similarity (paper eq. 10, after GenSAM)."""

    templates: Literal["ensemble", "photo", "plain"] = Field(
        "ensemble",
        description="Ancestor code: mean over 85 templates; `photo` = one sentence, `plain` = the bare text.",
    )
    normalise: Literal["channel", "token"] = Field(
        "channel",
        description="Ancestor code: raw features are scaled to unit norm per channel, over the patches and the class "
        "token. `token` is CLIP Surgery's own: per patch over the channels. Never both.",
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


class MultimaskConfig(Section):
    """Masks from boxes."""

    multimask: bool = Field(True, description="Ancestor code: three alternatives, the best by predicted IoU is taken.")


class PointPromptsConfig(MultimaskConfig):
    """Masks from boxes and points."""

    points: Literal["in_box", "all", "none"] = Field(
        "in_box", description="Stand-in: a box gets only its own points, as several boxes share one similarity map."
    )
    point_source: str = Field(
        "spatial_clip",
        description="Paper eq. 10, `spatial_clip`: CLIP's similarity. `ppt`: a trained point generator. A module of "
        "`point_prompting`.",
    )
    negative_margin: float = Field(
        0.15, ge=0, le=1, description="Stand-in: negative points may lie outside the box by this part of its sides."
    )


class SamConfig(PointPromptsConfig):
    """Masks from boxes and points (paper eq. 10)."""

    input: Literal["original", "reweighted"] = Field(
        "original",
        description="Stand-in: the original image, encoded once. `reweighted` feeds X_i, as eq. 10 is written, and "
        "encodes once per iteration.",
    )


class MaskScoreConfig(Section):
    """Semantic score of a masked region (paper eq. 11) and selection, on a given scale."""

    rule: Literal["threshold", "gap", "joint", "softmax"] = Field(
        "threshold",
        description="Ancestor code: `threshold`. Ours: `gap` keeps the masks above the widest gap between the scores "
        "(and 0); `joint` does so with score times the detector's, relative to the best. `softmax` is the ancestor's "
        "own scale, softmax over the masks before the threshold.",
    )
    select_threshold: float = Field(
        0.7, ge=0, le=1, description="Ancestor code: masks whose normalised score reaches it are kept."
    )
    input: Literal["reweighted", "original"] = Field(
        "reweighted",
        description="Paper eq. 11: masks are cut out of X_i, which darkens what was not selected before. `original` "
        "(ours) cuts them out of the image.",
    )
    view: Literal["image", "crop"] = Field(
        "image",
        description="Paper eq. 11: CLIP sees the whole image, black outside the mask; of several instances the larger "
        "ones then score higher. `crop` (our addition) shows it each mask's surroundings only, at one size.",
    )


class ClipConfig(MaskScoreConfig):
    """Semantic score of a masked region (paper eq. 11) and selection."""

    anchor: Literal["background", "masks"] = Field(
        "background",
        description="Stand-in: the zero of the min-max scale is the image without all masks. `masks` is the ancestor's "
        "scale, on which the worst of several masks always scores 0, so that two instances never survive.",
    )


class DuplicatesConfig(Section):
    """Which masks are objects of their own."""

    duplicate_iou: float = Field(0.7, gt=0, le=1, description="Stand-in: of two masks with a greater IoU one stays.")
    duplicate_cover: float = Field(
        0.9, gt=0, le=1, description="Stand-in: a mask that others cover to this part is no instance of its own."
    )


class FuseConfig(DuplicatesConfig):
    """Soft fusion of the selected masks (paper eq. 12)."""

    rule: Literal["max", "wsum"] = Field(
        "max",
        description="Stand-in: maximum of weighted soft masks. `wsum` is eq. 12, rescaled to a maximum of 1; the "
        "binary mask is the union of the selected masks under both.",
    )


class UpdateConfig(Section):
    """The image of the next iteration (paper eq. 13)."""

    w: float = Field(0.3, ge=0, le=1, description="Paper: weight of the masked image.")
    rule: Literal["paper", "ema", "none"] = Field(
        "paper",
        description="Paper eq. 13, from X_i. `ema` is the ancestor code: always from the original image. `none` "
        "(ours): the image stays as it is.",
    )


class IterationsConfig(Section):
    """How many iterations."""

    count: int = Field(5, ge=1, le=50, description="Paper, table 3(a): I = 5 (camouflage); unknown for other tasks.")


class EarlyStopConfig(Section):
    """Stop when the soft mask has settled."""

    rule: Literal["off", "gensam", "unchanged"] = Field(
        "off",
        description="Paper: none. `gensam`: stop after `patience` small mean absolute changes of the soft mask. "
        "`unchanged` (ours): stop when the name is that of the iteration before and the mask so near to its mask that "
        "X' would be kept (`inpaint.reuse_iou`).",
    )
    tolerance: float = Field(0.003, gt=0, description="Ancestor code (GenSAM): what a small change is.")
    patience: int = Field(2, ge=1, description="Ancestor code (GenSAM): two; how many changes must be small.")


class FinalConfig(Section):
    """Choice among the iterations (paper eq. 14)."""

    rule: Literal["closest_to_mean", "last"] = Field(
        "closest_to_mean", description="Paper eq. 14, as squared L2 on soft maps; ties go to the later iteration."
    )


class InstancesConfig(Section):
    """A contrast per instance (our addition): is the name less likely once this instance alone is gone?"""

    contrast: Literal["off", "select", "score", "both"] = Field(
        "off",
        description="Stand-in (ours): after the loop each mask of the final iteration is removed from a view around it "
        "and the VLM is asked again. `select` keeps the masks above the widest gap between the drops, `score` makes "
        "the drop a witness of the instance's score.",
    )
    margin: float = Field(
        0.5, ge=0, le=4, description="Stand-in (ours): the view is the instance's box grown by this part of its sides."
    )


class SwitchesConfig(Section):
    """Modules of the ablation, table 3(c). What 'off' means is published for HCG only."""

    hcg: bool = Field(True, description="Paper. Off: the whole image is the only patch (table 3(b), 'Original').")
    psnm: bool = Field(True, description="Paper. Off (stand-in): no inpainting; the name is the whole image's answer.")
    pnm: bool = Field(True, description="Paper. Off (stand-in): scores are reset in every iteration.")
    smg: bool = Field(True, description="Paper. Off (stand-in): boxes -> segmenter; no points, no semantic score.")


class AbstainConfig(Section):
    """When to give no mask at all."""

    min_score: float = Field(
        0.0, ge=0, le=1, description="Stand-in: instances below this score are dropped; if none is left, abstain."
    )


class LimitsConfig(Section):
    """Bounds on memory."""

    max_side: int = Field(
        2048, ge=64, description="Stand-in: larger images are worked on at this side; masks come back at full size."
    )


class TilingConfig(Section):
    """Large images in tiles (our addition); see ``int_model.strategies.tiling``."""

    over_pixels: int = Field(
        0, ge=0, description="Stand-in (our addition): images with more pixels are worked on in tiles; 0: never."
    )
    side: int = Field(1024, ge=32, description="Stand-in: longest side of a tile's core, in pixels.")
    halo: int = Field(128, ge=1, description="Stand-in: pixels around the core that a tile sees too.")
    agreement: float = Field(
        0.5, gt=0, le=1, description="Stand-in: IoU, where two tiles overlap, from which their pieces are one object."
    )


class StrategyConfig(Options):
    """The options that every strategy has. A strategy's own class adds its sections to them.

    A strategy applies ``abstain`` and ``fuse`` to its instances. ``tiling`` is applied around every strategy.
    """

    fuse: DuplicatesConfig = DuplicatesConfig()
    abstain: AbstainConfig = AbstainConfig()
    tiling: TilingConfig = TilingConfig()


class IntConfig(StrategyConfig):
    """The options of the strategy ``int``; the defaults are the paper's setting as far as it is known."""

    patches: PatchesConfig = PatchesConfig()
    vlm: VlmConfig = VlmConfig()
    candidates: CandidatesConfig = CandidatesConfig()
    inpaint: InpaintConfig = InpaintConfig()
    score: ScoreConfig = ScoreConfig()
    pnm: PnmConfig = PnmConfig()
    detector: QueryConfig = QueryConfig()
    sclip: SpatialClipConfig = SpatialClipConfig()
    ppt: PointGeneratorConfig = PointGeneratorConfig()
    sam: SamConfig = SamConfig()
    clip: ClipConfig = ClipConfig()
    fuse: FuseConfig = FuseConfig()
    update: UpdateConfig = UpdateConfig()
    iterations: IterationsConfig = IterationsConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    final: FinalConfig = FinalConfig()
    instances: InstancesConfig = InstancesConfig()
    switches: SwitchesConfig = SwitchesConfig()
    limits: LimitsConfig = LimitsConfig()

    @classmethod
    def for_stages(cls, options: StrategyConfig, fixed: Mapping[str, Any]) -> IntConfig:
        """What the stages of the loop read when another strategy runs on them.

        Args:
            options: of that strategy; what it has of INT's options holds.
            fixed: nested, what the strategy decides itself.
        """
        return cls().merged(fitting(cls, options.model_dump())).merged(fixed)
