from __future__ import annotations

import pytest

from int_model.core.config import IntConfig
from int_model.evaluation.ablations import ABLATIONS, FULL, ablation_variants, printed


def configured(table: str, base: IntConfig | None = None) -> dict[str, IntConfig]:
    return {v.name: v.configured(base or IntConfig()) for v in ablation_variants([table])}


def test_iterations() -> None:
    found = configured("3a")
    assert {name: c.iterations.count for name, c in found.items()} == {
        FULL: 5,
        "I = 1": 1,
        "I = 2": 2,
        "I = 3": 3,
        "I = 4": 4,
        "I = 6": 6,
    }


def test_scales() -> None:
    assert {name: c.patches.scales for name, c in configured("3b").items()} == {
        FULL: (1, 2, 4),
        "original": (1,),
        "halves": (2,),
        "quarters": (4,),
        "original + halves": (1, 2),
    }


def test_modules_are_taken_out_one_at_a_time() -> None:
    off = {name: [key for key, on in c.switches.model_dump().items() if not on] for name, c in configured("3c").items()}
    assert off == {FULL: [], "w/o SMG": ["smg"], "w/o PNM": ["pnm"], "w/o PSNM": ["psnm"], "w/o HCG": ["hcg"]}


def test_the_full_rows_of_all_tables_are_one_and_come_first() -> None:
    variants = ablation_variants(["all"])
    assert variants[0].name == FULL
    assert len(variants) == len({v.name for v in variants}) == 1 + 5 + 4 + 4
    assert variants[0].configured(IntConfig()) == IntConfig()
    assert [v.name for v in ablation_variants(["3c", "3a", "3b"])] == [v.name for v in variants]


@pytest.mark.parametrize("table", ABLATIONS)
def test_the_highlighted_setting_holds_whatever_is_configured_and_other_options_stay(table: str) -> None:
    odd = {
        "iterations": {"count": 2},
        "patches": {"scales": [4]},
        "switches": {"pnm": False},
        "sam": {"points": "none"},
    }
    full = configured(table, IntConfig().merged(odd))[FULL]
    assert full.sam.points == "none"
    if table in ("3a", "all"):
        assert full.iterations.count == 5
    if table in ("3b", "all"):
        assert full.patches.scales == (1, 2, 4)
    if table in ("3c", "all"):
        assert full.switches == IntConfig().switches


def test_each_variant_differs_from_the_full_method_in_one_option() -> None:
    full = IntConfig().model_dump()
    for variant in ablation_variants(["all"])[1:]:
        own = variant.configured(IntConfig()).model_dump()
        changed = [
            (section, key) for section in full for key in full[section] if own[section][key] != full[section][key]
        ]
        assert len(changed) == 1, variant.name


def test_printed_figures_stand_in_the_notes() -> None:
    assert printed("w/o SMG") == (0.053, 0.772, 0.895, 0.818)
    assert printed("original") == printed("w/o HCG")  # the same row in both tables of the paper
    assert printed("grounded_sam") is None
    assert "M 0.039, F 0.801, E 0.906, S 0.842" in ablation_variants(["3a"])[0].note


def test_unknown_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="choose among: 3a, 3b, 3c, all"):
        ablation_variants(["3d"])
    assert ablation_variants([]) == []
