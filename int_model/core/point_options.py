"""The options of a trained point generator; sources of the defaults as in ``config``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from int_model.core.options import Section


class PointGeneratorConfig(Section):
    """Points from a trained point generator (PPT, arXiv 2404.11998)."""

    generator: str = Field(
        "",
        description="Stand-in: file that the training of a point generator wrote, or `bundled:ppt` for the one of the "
        "miniature models.",
    )
    positive: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Stand-in: points from this confidence on are positive; without one, nothing is present.",
    )
    negative: float = Field(
        0.3, ge=0, le=1, description="Stand-in: points up to this confidence are negative, others are left out."
    )
    max_points: int = Field(
        8, ge=1, description="Stand-in: at most so many points of a sign, and never more than it was trained with."
    )
    negatives: bool = Field(True, description="Paper: negative points are given too; false leaves them out.")

    @model_validator(mode="after")
    def _signs_apart(self) -> Self:
        if self.negative > self.positive:
            raise ValueError("ppt.negative is at most ppt.positive: a point has one sign")
        return self


class HypothesesConfig(PointGeneratorConfig):
    """Points from a trained point generator, and how many readings of the expression are answered."""

    hypotheses: int = Field(
        1, ge=1, le=10, description="Stand-in: at most so many things that may be meant, each a mask with its score."
    )
