from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from int_model.core.config import IntConfig
from int_model.core.options import ConfigError, leaves
from int_model.strategies.auto import most_calls
from int_model.strategies.model_options import ModelOptions, preset_names, read_preset
from int_model.strategies.promac import PromacConfig
from int_model.strategies.registry import STRATEGIES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ModelOptions(strategy="magic"), "no strategy 'magic'; choose one of: int, auto, grounded_sam"),
        (ModelOptions(preset="slow"), "no preset 'slow'; choose one of: fast, paper, tuned"),
        (ModelOptions(profile="huge"), "no profile 'huge'; use one of"),
        (ModelOptions(changes={"iteration.count": 3}), r"strategy 'int': there is no option 'iteration'; .* has: fuse"),
        (ModelOptions(changes={"iterations.count": 0}), "option 'iterations.count'"),
        (
            ModelOptions(strategy="promac", changes={"fuse.rule": "max"}),
            r"'promac': there is no option 'fuse\.rule'; fuse has: duplicate_iou, duplicate_cover \(it .*int",
        ),
        (ModelOptions(strategy="promac", changes={"clip": {"anchor": "masks"}}), r"no option 'clip\.anchor'"),
        (ModelOptions(strategy="promac", changes={"iterations.count": 2}), "no option 'iterations'"),
        (ModelOptions(strategy="grounded_sam", changes={"switches.smg": True}), "no option 'switches'"),
        (ModelOptions(strategy="vlm_box", changes={"iterations.count": 3}), "no option 'iterations'"),
        (ModelOptions(strategy="vlm_box", changes={"detector.max_boxes": 3}), "no option 'detector'"),
        (ModelOptions(strategy="sam3", changes={"sam.multimask": False}), "no option 'sam'"),
        (
            ModelOptions(changes={"promac.alpha": 2.0}),
            r"no option 'promac'.*\(it belongs to: promac\)",
        ),
        (ModelOptions(strategy="promac", preset="fast"), "preset 'fast' sets options that promac lacks; it fits: int"),
        (
            ModelOptions(overrides={"int.fuse.rul": "max"}),
            r"profile 'nano', table \[int\]: there is no option 'fuse.rul'",
        ),
        (ModelOptions(overrides={"int.detector.max_boxes": 0}), r"profile 'nano', table \[int\]: option 'detector.max"),
    ],
)
def test_what_does_not_suit_the_strategy_is_told(options: ModelOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options.config()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 5),
        ({"preset": "fast"}, 1),
        ({"preset": "fast", "overrides": {"int.iterations.count": 4}}, 4),
        ({"preset": "fast", "overrides": {"int.iterations.count": 4}, "changes": {"iterations.count": 6}}, 6),
        ({"changes": {"iterations": {"count": 7}}}, 7),
    ],
)
def test_later_layers_win(options: dict[str, Any], count: int) -> None:
    config = ModelOptions(**options).config()
    assert isinstance(config, IntConfig)
    assert config.iterations.count == count


def test_the_profile_s_table_applies_where_the_strategy_has_its_options() -> None:
    """It belongs to the models: nano's table sets options of the detector, which ``vlm_box`` does not ask."""
    configs = {name: ModelOptions(strategy=name).config().model_dump() for name in STRATEGIES}
    assert configs["int"]["detector"]["nms_iou"] == configs["grounded_sam"]["detector"]["nms_iou"] == 0.5
    assert configs["int"]["sclip"] == configs["promac"]["sclip"]
    assert configs["promac"]["sclip"]["max_points"] == 3
    assert configs["vlm_box"].keys().isdisjoint({"detector", "sclip"})


def test_another_strategy_over_the_same_models_takes_what_it_has() -> None:
    options = ModelOptions(changes={"iterations.count": 2, "sam.multimask": False}, preset="fast")
    promac = options.config("promac")
    assert isinstance(promac, PromacConfig)
    assert not promac.sam.multimask
    assert promac.clip.view == "crop"
    with pytest.raises(ConfigError, match="no option 'sma'"):
        ModelOptions(changes={"sma.multimask": False}).config("promac")


def test_side_by_side_an_option_is_one_of_some_strategy() -> None:
    options = ModelOptions(changes={"iterations.count": 2, "detector.max_boxes": 3}, preset="fast")
    configs = options.configs(["grounded_sam", "int", "vlm_box", "int"])
    assert list(configs) == ["grounded_sam", "int", "vlm_box"]
    assert configs["grounded_sam"].model_dump()["detector"]["max_boxes"] == 3
    with pytest.raises(ConfigError, match="no option 'iterations'"):
        ModelOptions(changes={"iterations.count": 2}).configs(["vlm_box", "grounded_sam"])
    with pytest.raises(ConfigError, match="grounded_sam and vlm_box lack; it fits: int"):
        ModelOptions(preset="fast").configs(["grounded_sam", "vlm_box"])


def test_an_option_changes_the_fingerprints_of_the_strategies_that_have_it() -> None:
    def changed(**options: Any) -> set[str]:
        return {name for name, own in ModelOptions(**options).fingerprints().items() if own != plain[name]}

    plain = ModelOptions().fingerprints()
    assert len(set(plain.values())) == len(plain)
    assert changed(device="cuda", overrides={"vlm.max_batch": 1}) == set()
    assert changed(preset="paper") == {"auto", "int"}
    assert changed(changes={"iterations.count": 2}) == {"auto", "int"}
    assert changed(strategy="promac", changes={"promac.alpha": 2.0}) == {"promac"}
    assert changed(changes={"detector.max_boxes": 3}) == {"auto", "int", "grounded_sam"}
    assert changed(overrides={"int.detector.max_boxes": 3}) == {"auto", "int", "grounded_sam"}
    assert changed(overrides={"segmenter.id": "facebook/sam-vit-base"}) == set(STRATEGIES)


def test_a_profile_without_the_model_is_told_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"'nano' has no model for the strategy 'sam3'.* set concepts\.id"):
        ModelOptions(strategy="sam3").load()


def test_options_are_shown_as_they_are_written() -> None:
    options = ModelOptions(changes={"patches": {"scales": [1, 2]}, "pnm.key": "name"}, overrides={"vlm.padded": False})
    assert options.changed() == ("patches.scales=[1, 2]", "pnm.key=name")
    assert options.overridden() == ("vlm.padded=false",)


def test_presets() -> None:
    assert preset_names() == ("fast", "paper", "tuned")
    tuned = IntConfig().merged(read_preset("tuned"))
    assert (tuned.clip.rule, tuned.update.rule, tuned.early_stop.rule) == ("joint", "none", "unchanged")
    first_reading = {"inpaint": {"without_box": "others", "max_part": 1.0}, "score": {"eps": 1e-6}}
    assert IntConfig().merged(read_preset("paper")) == IntConfig().merged(first_reading)
    fast = IntConfig().merged(read_preset("fast"))
    assert most_calls(fast) * 3 <= most_calls(IntConfig())


def test_a_profile_file(tmp_path: Path) -> None:
    text = '[vlm]\nid = "a/b"\n[inpainter]\nkind = "opencv"\n[detector]\nid = "a/b"\n[segmenter]\nid = "a/b"\n'
    (tmp_path / "mine.toml").write_text(f'{text}[text_image]\nid = "a/b"\n[int.fuse]\nrule = "wsum"\n')
    config = ModelOptions(profile=str(tmp_path / "mine.toml"), strategy="vlm_box").config()
    assert config.model_dump()["fuse"]["rule"] == "wsum"


def test_the_preset_paper_leaves_no_option_of_the_method_to_a_default() -> None:
    """It is frozen: a default that changes, or a new option, must not change what it gives."""
    outside = ("abstain.", "tiling.", "limits.")
    every = {name for name in STRATEGIES["int"].option_names if not name.startswith(outside)}
    assert {name for name, _ in leaves(read_preset("paper"))} == every
