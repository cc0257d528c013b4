"""What exists in the miniature world: names, where they live, and the three task prompts."""

from __future__ import annotations

from dataclasses import dataclass

ANIMALS: dict[str, tuple[str, str]] = {  # name: (glyph, home environment)
    "elephant": ("\U0001f418", "grass"),
    "camel": ("\U0001f42a", "sand"),
    "kangaroo": ("\U0001f998", "grass"),
    "turtle": ("\U0001f422", "sand"),
    "snake": ("\U0001f40d", "sand"),
    "lizard": ("\U0001f98e", "bark"),
    "crocodile": ("\U0001f40a", "stone"),
    "octopus": ("\U0001f419", "coral"),
    "crab": ("\U0001f980", "coral"),
    "scorpion": ("\U0001f982", "stone"),
    "butterfly": ("\U0001f98b", "leaves"),
    "snail": ("\U0001f40c", "leaves"),
    "bee": ("\U0001f41d", "leaves"),
    "fish": ("\U0001f41f", "water"),
    "dolphin": ("\U0001f42c", "water"),
    "duck": ("\U0001f986", "water"),
    "owl": ("\U0001f989", "bark"),
    "parrot": ("\U0001f99c", "leaves"),
    "penguin": ("\U0001f427", "snow"),
    "bat": ("\U0001f987", "bark"),
    "hedgehog": ("\U0001f994", "stone"),
    "rabbit": ("\U0001f407", "snow"),
    "squirrel": ("\U0001f43f", "bark"),
    "seal": ("\U0001f9ad", "snow"),
}
OBJECTS: dict[str, str] = {
    "cactus": "\U0001f335",
    "mushroom": "\U0001f344",
    "umbrella": "☂",
    "guitar": "\U0001f3b8",
    "apple": "\U0001f34e",
    "boot": "\U0001f462",
    "bell": "\U0001f514",
    "leaf": "\U0001f341",
    "anchor": "⚓",
    "ball": "⚽",
}
ENVIRONMENTS = ("sand", "leaves", "bark", "grass", "water", "stone", "snow", "coral")
POLYPS = ("adenoma", "lipoma")
LESIONS = ("mole", "melanoma", "rash")
MEDICAL_DISTRACTOR = "bubble"

# Animals that the segmenter's training never shows: its masks must come from the prompt, not from memory.
UNSEEN_BY_SEGMENTER = ("hedgehog", "seal", "dolphin", "owl", "crab")


@dataclass(frozen=True, slots=True)
class Task:
    """A task prompt with the instance names that it covers and the environments in which it is set."""

    prompt: str
    names: tuple[str, ...]
    environments: tuple[str, ...]
    distractors: tuple[str, ...]


TASKS: dict[str, Task] = {
    "camouflaged animal": Task("camouflaged animal", tuple(ANIMALS), ENVIRONMENTS, tuple(OBJECTS)),
    "polyp": Task("polyp", POLYPS, ("mucosa",), (MEDICAL_DISTRACTOR,)),
    "skin lesion": Task("skin lesion", LESIONS, ("skin",), (MEDICAL_DISTRACTOR,)),
}
NAMES: tuple[str, ...] = (*ANIMALS, *OBJECTS, *POLYPS, *LESIONS, MEDICAL_DISTRACTOR)
ALL_ENVIRONMENTS: tuple[str, ...] = (*ENVIRONMENTS, "mucosa", "skin")


def task_of(name: str) -> str | None:
    """The task prompt under which ``name`` is the object sought, or None for a distractor."""
    for task in TASKS.values():
        if name in task.names:
            return task.prompt
    return None
