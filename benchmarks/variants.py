"""Named sets of variants for ``benchmarks.worlds``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from int_model.evaluation.examples import Variant


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant, with the preset that it starts from ("" for none)."""

    variant: Variant
    preset: str = ""


UNDOUBTED = "auto, never INT"
"""``grounded_sam`` with the witnesses of ``auto``: from them any threshold can be judged afterwards."""


def _int(name: str, preset: str = "", **options: Any) -> Entry:
    return Entry(Variant(name, "int", {key.replace("__", "."): value for key, value in options.items()}), preset)


def _plain(strategy: str) -> Entry:
    return Entry(Variant(strategy, strategy))


_QUICK: dict[str, Any] = {"early_stop__rule": "unchanged", "update__rule": "none"}
_MAJORITY: dict[str, Any] = {"switches__psnm": False, "candidates__without_contrast": "majority"}
_SINGLY: dict[str, Any] = {"clip__view": "crop", "clip__input": "original"}
CHOICE = (
    _plain("grounded_sam"),
    _int("int"),
    _int("quick", **_QUICK),
    _int("quick, votes", pnm__key="votes", pnm__noise=1.0, **_QUICK),
    _int("quick, surest", detector__query="surest", **_QUICK),
    _int("quick, votes, surest", pnm__key="votes", pnm__noise=1.0, detector__query="surest", **_QUICK),
    _int("quick, gap", clip__rule="gap", **_SINGLY, **_QUICK),
    _int("quick, joint", clip__rule="joint", **_SINGLY, **_QUICK),
    _int("quick, every mask", clip__select_threshold=0.0, **_QUICK),
    _int("quick, instances", instances__contrast="select", **_QUICK),
    _int("quick, no contrast", **_MAJORITY, **_QUICK),
    _int("five views, contrast", patches__scales=[1, 2], iterations__count=1),
    _int("five views, majority", patches__scales=[1, 2], iterations__count=1, **_MAJORITY),
    Entry(Variant(UNDOUBTED, "auto", {"auto.threshold": 0.0})),
)
"""From which the defaults were chosen: each option on top of what costs nothing."""

CONFIRM = (
    _plain("grounded_sam"),
    _int("paper", "paper"),
    _int("int"),
    _int("quick", **_QUICK),
    _int("tuned", clip__rule="joint", **_SINGLY, **_QUICK),
    _int("fast", patches__scales=[1, 2], iterations__count=1, clip__rule="joint", **_SINGLY, **_MAJORITY),
    _plain("vlm_box"),
    Entry(Variant(UNDOUBTED, "auto", {"auto.threshold": 0.0})),
)
"""What was confirmed on worlds that served no choice, under names of its own, whatever the defaults are by now."""

OPTIONS = (
    *CHOICE,
    _int("token", sclip__normalise="token"),
    _int("channel", sclip__normalise="channel"),
    _int("reduce mean", score__reduce="mean"),
    _int("key name, mean", pnm__key="name", pnm__name_reduce="mean"),
    _int("votes, noise .1", pnm__key="votes"),
    _int("share .1", pnm__least_share=0.1),
    _int("candidates", detector__query="candidates"),
    _int("softmax", clip__rule="softmax"),
    _int("original", clip__input="original"),
    _int("update none", update__rule="none"),
    _int("update ema", update__rule="ema"),
    _int("unchanged", early_stop__rule="unchanged"),
    _int("I = 1", iterations__count=1),
    _int("no points", sam__points="none"),
)
"""Every option once."""

PRESETS = (
    _plain("grounded_sam"),
    _int("paper", "paper"),
    _int("int"),
    _int("tuned", "tuned"),
    _int("fast", "fast"),
    _plain("vlm_box"),
)
"""What a user can choose by name."""

SETS = {"choice": CHOICE, "confirm": CONFIRM, "options": OPTIONS, "presets": PRESETS}
