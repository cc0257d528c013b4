"""The ablations of INT's paper (table 3) as variants that run on any data set, and the figures printed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from int_model.evaluation.examples import Variant

Printed = tuple[float, float, float, float]
"""M (MAE; lower is better), F, E and S on CHAMELEON."""

FULL = "full"
"""INT as it is: I = 5, all three scales, all modules. The first variant, hence what the others are compared with."""

_FULL_PRINTED: Printed = (0.039, 0.801, 0.906, 0.842)

_TABLES: dict[str, dict[str, tuple[dict[str, Any], Printed]]] = {
    "3a": {  # iterations
        "I = 1": ({"iterations.count": 1}, (0.079, 0.692, 0.861, 0.794)),
        "I = 2": ({"iterations.count": 2}, (0.053, 0.748, 0.897, 0.816)),
        "I = 3": ({"iterations.count": 3}, (0.050, 0.752, 0.902, 0.823)),
        "I = 4": ({"iterations.count": 4}, (0.045, 0.792, 0.903, 0.829)),
        "I = 6": ({"iterations.count": 6}, (0.038, 0.800, 0.906, 0.844)),
    },
    "3b": {  # scales
        "original": ({"patches.scales": [1]}, (0.071, 0.541, 0.758, 0.668)),
        "halves": ({"patches.scales": [2]}, (0.059, 0.582, 0.780, 0.692)),
        "quarters": ({"patches.scales": [4]}, (0.062, 0.482, 0.685, 0.601)),
        "original + halves": ({"patches.scales": [1, 2]}, (0.043, 0.793, 0.891, 0.835)),
    },
    "3c": {  # modules
        "w/o SMG": ({"switches.smg": False}, (0.053, 0.772, 0.895, 0.818)),
        "w/o PNM": ({"switches.pnm": False}, (0.060, 0.732, 0.836, 0.768)),
        "w/o PSNM": ({"switches.psnm": False}, (0.083, 0.703, 0.811, 0.746)),
        "w/o HCG": ({"switches.hcg": False}, (0.071, 0.541, 0.758, 0.668)),
    },
}

ABLATIONS: tuple[str, ...] = (*_TABLES, "all")
"""3a iterations, 3b scales, 3c modules."""

_SETTING: dict[str, dict[str, Any]] = {
    "3a": {"iterations.count": 5},
    "3b": {"patches.scales": [1, 2, 4]},
    "3c": {"switches": {"hcg": True, "psnm": True, "pnm": True, "smg": True}},
}
"""What the full method has in the row that a table highlights, whatever the configuration at hand says."""


def ablation_variants(tables: Sequence[str]) -> list[Variant]:
    """``full`` and the rows of the named tables, each row once; other options are as configured.

    The full row is I = 5 of table 3(a), the last row of 3(b) and of 3(c). Raises ``ValueError`` for an unknown table.
    """
    unknown = next((table for table in tables if table not in ABLATIONS), None)
    if unknown is not None:
        raise ValueError(f"there is no ablation '{unknown}'; choose among: {', '.join(ABLATIONS)}")
    chosen = [name for name in _TABLES if name in tables or "all" in tables]
    if not chosen:
        return []
    setting: dict[str, Any] = {}
    for name in chosen:
        setting.update(_SETTING[name])
    variants = [Variant(FULL, config=setting, note=_note(_FULL_PRINTED))]
    for table in chosen:
        for row, (change, figures) in _TABLES[table].items():
            variants.append(Variant(row, config=_changed(setting, change), note=_note(figures)))
    return variants


def printed(variant: str) -> Printed | None:
    """The paper's figures of a row; None for a name that is no row."""
    rows = {FULL: _FULL_PRINTED, **{row: entry[1] for table in _TABLES.values() for row, entry in table.items()}}
    return rows.get(variant)


def _changed(setting: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    switches = {**setting.get("switches", {})}
    out = {key: value for key, value in setting.items() if key != "switches"}
    for key, value in change.items():
        section, _, option = key.partition(".")
        if section == "switches":
            switches[option] = value
        else:
            out[key] = value
    return {**out, "switches": switches} if switches else out


def _note(figures: Printed) -> str:
    named = zip("MFES", figures, strict=True)
    return "Printed for CHAMELEON: " + ", ".join(f"{name} {value:.3f}" for name, value in named)
