"""Counts and times what a suite's networks do: per stage seconds, calls, batch sizes, tokens and arithmetic.

A *stage* is a method of a role (``vlm.dialogue``); the clock stops only when the device has finished. A *network* is a
module whose passes are counted. The arithmetic of a pass is PyTorch's own count (``FlopCounterMode``) of its first
pass, per item; a language model's is 2 x weights x tokens plus its attention over what is in the cache.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from int_model.models.suite import ModelSuite

STAGES = {
    "vlm": ("dialogue", "score"),
    "inpainter": ("inpaint",),
    "detector": ("detect",),
    "segmenter": ("encode", "decode", "decode_best"),
    "text_image": ("embed_images", "embed_patches", "embed_texts"),
}


@dataclass
class Passes:
    """Of one network in one stage."""

    calls: int = 0
    items: int = 0
    flops: float = 0.0
    batches: Counter[int] = field(default_factory=Counter)


@dataclass
class Stage:
    """Of one method of a role. ``tokens``: that the language model computed, left padding included."""

    seconds: float = 0.0
    calls: int = 0
    items: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    steps: int = 0
    networks: dict[str, Passes] = field(default_factory=dict)


class Meter:
    """Counts from when it is made; ``reset`` starts anew. Put on the adapters of one suite, and on networks once.

    Args:
        suite: its adapters' methods and their networks' forward passes are wrapped, on the objects.
    """

    def __init__(self, suite: ModelSuite) -> None:
        self.stages: dict[str, Stage] = {}
        self._current: str | None = None
        self._device = torch.device(suite.device)
        self._per_item: dict[str, float] = {}
        self.attach(suite)
        self._attach_networks(suite)

    def reset(self) -> None:
        """Forget the counts, not what a pass costs."""
        self.stages = {}

    def attach(self, suite: ModelSuite) -> None:
        """Time the methods of a suite's adapters; several suites may share the networks."""
        for role, methods in STAGES.items():
            adapter = getattr(suite, role)
            for method in methods:
                if hasattr(adapter, method):
                    setattr(adapter, method, self._timed(f"{role}.{method}", getattr(adapter, method)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._current is not None:  # one method of an adapter calls another
                return call(*arguments, **options)
            self._current = name
            self._finish()
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self._finish()
                stage = self.stages.setdefault(name, Stage())
                stage.seconds += time.perf_counter() - start
                stage.calls += 1
                first = arguments[1] if name.startswith("segmenter.decode") else arguments[0]
                stage.items += len(first)
                self._current = None

        return timed

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    # ---------------------------------------------------------------- networks

    def _attach_networks(self, suite: ModelSuite) -> None:
        model: Any = suite.vlm._model  # type: ignore[attr-defined]
        self._count_language(model.get_decoder())
        inner = model.model
        self._count("vision tower", getattr(inner, "vision_tower", None) or inner.visual)
        pipeline = getattr(suite.inpainter, "_pipeline", None)
        if pipeline is not None:
            self._count("unet", pipeline.unet)
            self._count("vae encoder", pipeline.vae.encoder)
            self._count("vae decoder", pipeline.vae.decoder)
            self._count("prompt encoder", pipeline.text_encoder)
        self._count("detector", suite.detector._model)  # type: ignore[attr-defined]
        sam: Any = suite.segmenter.model  # type: ignore[attr-defined]
        self._count("image encoder", sam.vision_encoder)
        self._count("mask decoder", sam.mask_decoder)
        clip: Any = suite.text_image._model  # type: ignore[attr-defined]
        self._count("clip image", clip.vision_model.encoder.layers[0], times=len(clip.vision_model.encoder.layers))
        self._count("clip text", clip.text_model)

    def _passes(self, network: str) -> tuple[Stage, Passes]:
        stage = self.stages.setdefault(self._current or "other", Stage())
        return stage, stage.networks.setdefault(network, Passes())

    def _count(self, name: str, module: Any, *, times: int = 1) -> None:
        """Wrap a network's forward pass. ``times``: of a stack of equal layers only the first is wrapped."""
        forward = module.forward

        def counted(*arguments: Any, **options: Any) -> Any:
            tensors = [value for value in (*arguments, *options.values()) if isinstance(value, torch.Tensor)]
            items = int(tensors[0].shape[0])
            if name not in self._per_item:
                with FlopCounterMode(display=False) as counter:
                    out = forward(*arguments, **options)
                self._per_item[name] = counter.get_total_flops() / items
            else:
                out = forward(*arguments, **options)
            _, passes = self._passes(name)
            passes.calls += 1
            passes.items += items
            passes.flops += self._per_item[name] * items * times
            passes.batches[items] += 1
            return out

        module.forward = counted

    def _count_language(self, decoder: Any) -> None:
        config = decoder.config
        weights = sum(p.numel() for layer in decoder.layers for p in layer.parameters() if p.ndim == 2)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = 4 * config.num_hidden_layers * config.num_attention_heads * head
        forward = decoder.forward

        def counted(*arguments: Any, **options: Any) -> Any:
            inputs = options.get("inputs_embeds")
            inputs = options.get("input_ids") if inputs is None else inputs
            inputs = arguments[0] if inputs is None else inputs
            rows, length = int(inputs.shape[0]), int(inputs.shape[1])
            cache = options.get("past_key_values")
            past = int(cache.get_seq_length()) if cache is not None else 0
            out = forward(*arguments, **options)
            stage, passes = self._passes("language model")
            tokens = rows * length
            if length > 1:
                stage.prefill_tokens += tokens
            else:
                stage.decode_tokens += tokens
                stage.steps += 1
            passes.calls += 1
            passes.items += tokens
            passes.flops += 2.0 * weights * tokens + float(attention) * tokens * (past + length)
            passes.batches[rows] += 1
            return out

        decoder.forward = counted

    # ---------------------------------------------------------------- report

    def report(self, images: int) -> dict[str, Any]:
        """Per stage what it took, in all and per image; JSON-compatible."""
        table = {}
        for name, stage in sorted(self.stages.items(), key=lambda entry: -entry[1].seconds):
            flops = sum(passes.flops for passes in stage.networks.values())
            table[name] = {
                "seconds": round(stage.seconds, 4),
                "seconds_per_image": round(stage.seconds / images, 4),
                "calls": stage.calls,
                "items": stage.items,
                "prefill_tokens": stage.prefill_tokens,
                "decode_tokens": stage.decode_tokens,
                "decode_steps": stage.steps,
                "tflop": round(flops / 1e12, 3),
                "tflops": round(flops / 1e12 / stage.seconds, 2) if stage.seconds else 0.0,
                "networks": {
                    network: {
                        "passes": passes.calls,
                        "items": passes.items,
                        "tflop": round(passes.flops / 1e12, 3),
                        "batches": dict(passes.batches.most_common(6)),
                    }
                    for network, passes in stage.networks.items()
                },
            }
        return table


def ceilings(device: torch.device) -> dict[str, float]:
    """What the device reaches here: matrix products in TFLOP/s by precision, a copy in TB/s (read plus written)."""
    if device.type != "cuda":
        return {}
    found = {}
    side = 8192
    for name, dtype, tf32 in (
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        seconds = _median(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        torch.backends.cuda.matmul.allow_tf32 = before
        found[name] = round(2 * side**3 / seconds / 1e12, 1)
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device).random_()
    other = torch.empty_like(block)
    found["copy_tb_s"] = round(2 * block.numel() / _median(lambda: other.copy_(block)) / 1e12, 2)
    return found


def _median(work: Callable[[], Any], rounds: int = 8) -> float:
    times = []
    for _ in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times[2:])[rounds // 2]
