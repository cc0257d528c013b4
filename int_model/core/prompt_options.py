"""The options of the prompt: patches, questions, candidates, removal, contrast, mining; sources as in ``config``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from int_model.core.options import Section


class QuartersConfig(Section):
    """How the image is cut into quarters (HCG)."""

    quarters: Literal["grid", "strips"] = Field(
        "grid",
        description="Stand-in: a 2 x 2 grid. `strips` is the ancestor code: cut twice along the side that is then the "
        "longer one, which gives four strips from aspect ratio 2 on.",
    )


class PatchesConfig(QuartersConfig):
    """Multi-scale division of the image (HCG)."""

    scales: tuple[Literal[1, 2, 4], ...] = Field(
        (1, 2, 4), description="Paper, table 3(b): the whole, its halves and its quarters; K = 1 + 4 + 4 = 9 patches."
    )

    @field_validator("scales")
    @classmethod
    def _some_scales(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("give each of the scales 1, 2, 4 at most once, and at least one of them")
        return value


class BoxQuestionConfig(Section):
    """How the vision-language model is asked for a box."""

    box_tokens: int = Field(
        96,
        ge=1,
        description="Stand-in: most new tokens of a box (ancestor code: 1024); a bare box takes 24 of LLaVA's tokens, "
        "one in a sentence 39; what is cut is lost.",
    )


class VlmConfig(BoxQuestionConfig):
    """How the vision-language model is asked."""

    input: Literal["original", "reweighted"] = Field(
        "original", description="Ancestor paper (A.6): the VLM always sees the original image; `reweighted` feeds X_i."
    )
    caption_tokens: int = Field(48, ge=1, description="Stand-in: most new tokens of the caption (ancestor code: 1024).")
    name_tokens: int = Field(
        16, ge=1, description="Stand-in: most new tokens of a name, for a short sentence (ancestor code: 1024)."
    )


class NegativeAnswerConfig(Section):
    """What follows when the vision-language model names nothing."""

    negative_answer: Literal["task", "abstain"] = Field(
        "task",
        description="Stand-in: if every patch answers 'none', go on with the task prompt as the name, or abstain.",
    )


class CandidatesConfig(NegativeAnswerConfig):
    """From answers to candidate names."""

    refresh: Literal["once", "every"] = Field(
        "once",
        description="Stand-in: one dialogue per patch, kept. `every` repeats it in each iteration (ancestor paper, "
        "algorithm 1), which differs only when the VLM samples or sees the reweighted image.",
    )
    without_contrast: Literal["whole", "majority"] = Field(
        "whole",
        description="Stand-in: with `switches.psnm` off, the name is the answer for the whole image, or (ours) the one "
        "that most patches gave.",
    )


class RegionConfig(Section):
    """The region that is removed, and when it counts as the same."""

    dilation: float = Field(
        0.05, ge=0, le=0.5, description="Stand-in: the region grows by this part of the diagonal of what is inpainted."
    )
    reuse_iou: float = Field(
        0.98, ge=0, le=1, description="Stand-in: X' is kept if the mask's IoU with the last one is greater; 1 = never."
    )


class InpaintConfig(RegionConfig):
    """Removal of the candidate region (paper eq. 3)."""

    first: Literal["per_patch_box", "union_box_crop"] = Field(
        "per_patch_box",
        description="Stand-in: in iteration 1 each patch loses its own box. `union_box_crop` is the ancestor code: one "
        "inpainting of the whole image without the union of all boxes, then crops.",
    )
    later: Literal["mask_crop", "per_patch_box", "union_box_crop"] = Field(
        "mask_crop", description="Ancestor paper eq. 4: from iteration 2 on the last mask is removed, then crops."
    )
    without_box: Literal["untouched", "others"] = Field(
        "untouched",
        description="Stand-in: with `per_patch_box`, a patch whose answer held no box stays as it is. `others`: it "
        "loses what the boxes of the other patches cover of it, often most of it.",
    )
    max_part: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Stand-in: with `per_patch_box`, no patch loses more than this part of its pixels; of a larger "
        "region the inner part is removed. 1: no bound.",
    )


class ScoreConfig(Section):
    """The change of the VLM's output (paper eq. 4)."""

    domain: Literal["candidates", "vocab"] = Field(
        "candidates",
        description="Stand-in: the maximum of eq. 4 runs over the candidate names. `vocab` is the literal reading: "
        "over the vocabulary, along the patch's own answer.",
    )
    reduce: Literal["mean", "prod", "first", "max"] = Field(
        "prod",
        description="Paper eq. 4 is about probabilities: `prod` is that of a name as a whole answer, in any form. "
        "`mean` is the geometric mean over a name's tokens, which favours rare names of many pieces; `first` and "
        "`max` take one token's. Names only, see `domain`.",
    )
    step: Literal["mean", "first", "max"] = Field(
        "mean",
        description="Stand-in: which token of the answer gives D where `domain` is `vocab`: their mean, the first, or "
        "the one that loses most.",
    )
    with_caption: bool = Field(
        False, description="Stand-in: without the caption, since one that names the object makes the model copy it."
    )
    eps: float = Field(
        1e-3,
        gt=0,
        lt=1,
        description="Stand-in: floor of D, so that one zero does not end a patch; about the noise of half precision.",
    )

    @model_validator(mode="after")
    def _names_and_tokens(self) -> Self:
        if self.domain == "vocab" and self.reduce in ("first", "max"):
            raise ValueError(
                f"with domain = vocab there are no names to reduce; write step = {self.reduce} in place of reduce"
            )
        return self


class PnmConfig(Section):
    """Progressive negative mining (paper eqs. 7, 8)."""

    key: Literal["patch", "name", "votes"] = Field(
        "patch",
        description="Paper: scores are multiplied per patch. `name` (ours) multiplies per candidate name; `votes` "
        "(ours) does, and weighs a name by the part of the patches that gave it.",
    )
    name_reduce: Literal["max", "mean"] = Field(
        "max", description="Stand-in: keyed by name or votes, a name's score is the maximum or mean over the patches."
    )
    noise: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Stand-in (ours): with `key` = `votes`, a D below this counts as this: votes decide where D is "
        "noise; 1: the majority alone decides.",
    )
    least_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stand-in (ours): from iteration 2 on a patch that holds less than this part of the last mask "
        "neither scores nor votes. 0: every patch does.",
    )
