"""Models on other machines: a question with a known answer, asked as a run would ask it. No torch here."""

from __future__ import annotations

import numpy as np

from int_model.core.types import Floats, Image
from int_model.models.adapters.openai_client import ServerRefusalError
from int_model.models.adapters.remote_vlm import RemoteVisionLanguage
from int_model.models.errors import TransientModelError
from int_model.models.profile import OpenAIRole, Profile
from ml_backend.doctor.diagnosis import Diagnosis, ok, problem, warning

REMOTE = "model server"
_QUESTION = "What colour is this image? Answer in one word."
_COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
_VLLM = "serve the model with vLLM, or choose a profile whose model runs on this machine"


def examine_remote(profile: Profile) -> list[Diagnosis]:
    """Ask the profile's vision-language server about a red and a blue square; nothing where there is no server."""
    settings = profile.vlm
    if not isinstance(settings, OpenAIRole):
        return []
    patience = {"attempts": 2, "timeout_s": min(settings.timeout_s, 60.0)}
    vlm = RemoteVisionLanguage(settings.model_copy(update=patience))
    squares = [_square(colour) for colour in _COLOURS.values()]
    names = tuple(_COLOURS)
    try:
        vlm.dialogue(squares, [(_QUESTION,)] * 2, (8,))
        scores = np.stack(vlm.score(squares, [_QUESTION] * 2, [names] * 2))
    except TransientModelError as error:
        return [problem(REMOTE, f"{_sentence(error)}.", f"start it, or correct vlm.url ({settings.url})")]
    except ServerRefusalError as error:
        return [problem(REMOTE, f"{_sentence(error)}.", f"correct vlm.url, vlm.model or the key; or {_VLLM}")]
    return [_judged(scores, settings)]


def _judged(scores: Floats, settings: OpenAIRole) -> Diagnosis:
    """``scores[i, j]``: how likely the colour j is under the square of colour i."""
    where = f"The model server at {settings.url}"
    if not np.isfinite(scores).all() or (scores >= 1).all():
        return problem(REMOTE, f"{where} finds every answer certain: it gives no probabilities.", _VLLM)
    if np.array_equal(scores[0], scores[1]):
        text = f"{where} finds the same in a red and in a blue square: its model does not see images."
        return problem(REMOTE, text, "serve a vision-language model, and allow it one image per prompt")
    if not (scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]):
        text = f"{where} answers, but takes a red square for blue or a blue one for red."
        return warning(REMOTE, text, f"check that '{settings.model}' is the model you want")
    return ok(REMOTE, f"{where} answers, sees images and gives probabilities ({settings.model}).")


def _square(colour: tuple[int, int, int]) -> Image:
    return np.full((64, 64, 3), colour, dtype=np.uint8)


def _sentence(error: Exception) -> str:
    text = str(error).rstrip(".")
    return text[:1].upper() + text[1:]
