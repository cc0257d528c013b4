"""The wording of every question to the VLM and every prompt to the inpainter, in one place.

Wording follows ProMaC's released questions for names and its paper for boxes (the released box question carries a
seed box ``[0,0,0,0]`` that models copy; see docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskPrompt:
    """The one prompt of a project, e.g. ``camouflaged animal``. Raises ``ValueError`` if blank or too long (200)."""

    text: str

    def __post_init__(self) -> None:
        text = " ".join(self.text.split()).rstrip(".")
        if not text:
            raise ValueError("the task prompt is empty; say what to look for, e.g. 'camouflaged animal'")
        if len(text) > 200:
            raise ValueError(f"the task prompt has {len(text)} characters; at most 200 are allowed")
        object.__setattr__(self, "text", text)

    @property
    def caption_question(self) -> str:
        return f"This image is from the {self.text} detection task, describe the {self.text} in one sentence."

    @property
    def name_question(self) -> str:
        return f"Name of the {self.text} in one word."

    @property
    def environment_question(self) -> str:
        return f"Name of the environment of the {self.text} in one word."

    @property
    def box_question(self) -> str:
        return f"This image is from the {self.text} detection task, output the bounding box of the {self.text}."

    @property
    def dialogue(self) -> tuple[str, str, str, str]:
        """The four turns asked of every patch: caption, name, environment, box."""
        return (self.caption_question, self.name_question, self.environment_question, self.box_question)

    def score_question(self, names: Sequence[str], caption: str | None = None) -> str:
        """The question whose answers are scored; the same text for the original and the inpainted patch.

        ``caption``, if given, must come from the original patch for both.
        """
        listed = f"The potential {self.text} names are: {', '.join(names)}. {self.name_question}"
        return f"{caption} {listed}" if caption else listed


def inpaint_positive(environment: str) -> str:
    """P_p of ProMaC eq. 4."""
    return f"{environment}, high quality, detailed, blended to the original image."


def inpaint_negative(name: str, task: TaskPrompt) -> str:
    """P_n of ProMaC eq. 4."""
    return f"{name}, is a {task.text}"
