"""What measures a profile on an accelerator: the same script, counts and literal schedule on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.real.build import CONFIGURATIONS, Built, bert_tokenizer
from benchmarks.real.literal import literal_profile, segment_literally
from benchmarks.real.meter import Meter
from benchmarks.real.script import NAMES, TASK, rig, rig_dialogues
from int_model.core.config import IntConfig
from int_model.models.profile import Weights, profile_names, read_profile
from int_model.models.suite import load_suite
from int_model.strategies.negative_mining.pipeline import IntPipeline

CONFIG = IntConfig().merged({"iterations": {"count": 2}})


@pytest.fixture
def measured(profile: Path) -> Any:
    suite = load_suite(profile, device="cpu", overrides={"detector.id": str(profile.parent / "owl")}, offline=True)
    rig(suite)
    rig_dialogues(suite.vlm)
    return suite, Meter(suite)


def test_every_stage_does_its_work_and_is_counted(measured: Any) -> None:
    suite, meter = measured
    images = gpu._pictures(2, "72x56", seed=1)
    results = IntPipeline(suite, CONFIG).segment(images, TASK)
    assert all(result.instances and result.name in NAMES for result in results)
    assert all(len(result.trace.iterations) == 2 for result in results)
    stages = meter.report(images=2)
    assert stages["vlm.dialogue"]["items"] == 18
    assert stages["vlm.dialogue"]["decode_steps"] > 0
    assert stages["vlm.score"]["prefill_tokens"] > 0
    assert stages["detector.detect"]["networks"]["detector"]["items"] >= 2
    assert stages["segmenter.encode"]["items"] == 2
    assert stages["segmenter.decode_best"]["networks"]["mask decoder"]["passes"] > 0
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert stages["segmenter.encode"]["tflop"] >= 0
    meter.reset()
    assert meter.report(images=1) == {}


def test_the_literal_schedule_reads_much_more(measured: Any, profile: Path) -> None:
    suite, meter = measured
    images = gpu._pictures(1, "72x56", seed=2)
    IntPipeline(suite, CONFIG).segment(images, TASK)
    ours = sum(stage.prefill_tokens for stage in meter.stages.values())
    meter.reset()
    plain = load_suite(literal_profile(str(profile), {}), device="cpu", offline=True)
    rig(plain)
    counts = Meter(plain)
    [result] = segment_literally(plain, images, CONFIG)
    assert result.instances
    assert sum(stage.prefill_tokens for stage in counts.stages.values()) > 3 * ours


@pytest.mark.parametrize("name", sorted(set(profile_names()) - {"nano", "nano-names"}))
def test_every_checkpoint_of_a_shipped_profile_has_its_configuration(name: str) -> None:
    profile = read_profile(name)
    for role in set(profile.roles) - {"concepts"}:
        settings = getattr(profile, role)
        assert not isinstance(settings, Weights) or settings.id in CONFIGURATIONS


def test_the_detectors_tokenizer_has_the_ids_that_grounding_dino_has_built_in() -> None:
    ids = bert_tokenizer()("gecko.")["input_ids"]
    assert (ids[0], ids[-2], ids[-1]) == (101, 1012, 102)
    assert 100 not in ids


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edge", "llava", "llava-16gb", "medical", "qwen"])
def test_a_profile_runs_at_its_real_widths(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One layer of each transformer, one patch, one iteration; takes minutes on a CPU."""
    if read_profile(name).vlm.id.startswith("Qwen"):  # type: ignore[attr-defined]
        pytest.importorskip("torchvision", reason="the extra 'qwen' is not installed")
    small = ["vlm.dtype=bfloat16", "inpainter.size=64", "inpainter.steps=1"]
    small += ["vlm.quantize=none"] if name == "llava-16gb" else []
    options = ["--depth", "1", "--scales", "1", "--iterations", "1", "--in-flight", "1", "--size", "96x64"]
    out = tmp_path / "report.json"
    models = [word for entry in small for word in ("--model", entry)]
    options += ["--device", "cpu", "--no-warm-up", "--out", str(out), *models]
    assert gpu.main(["--profile", name, *options]) == 0
    assert "vlm.dialogue" in capsys.readouterr().out
    assert out.exists()


def test_networks_are_made_in_the_precision_of_their_role() -> None:
    """Directly on the device and in the role's type: nothing of 26 GB is ever made twice."""
    profile = read_profile("llava", {"text_image.dtype": "bfloat16"})
    built = Built.__new__(Built)
    built.profile, built.device, built.depth = profile, torch.device("cpu"), 1
    model = built._text_image(profile.text_image)["model"]  # type: ignore[arg-type]
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert model.config.vision_config.hidden_size == 768
    assert len(model.vision_model.encoder.layers) == 1
