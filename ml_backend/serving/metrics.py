"""Numbers for Prometheus; one registry per app, so that tests and several apps do not share them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ml_backend.serving.engine import Engine
from ml_backend.serving.recovery import MemoryEvent

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160)


class Metrics:
    """Counters and timings of the service; ``engine`` is asked for its own numbers whenever the page is read."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.tasks = Counter(
            "int_tasks", "Tasks by outcome.", ["outcome"], registry=self.registry
        )  # annotated, nothing_found, failed, late
        self.clicks = Counter(
            "int_clicks", "Interactive prompts by outcome.", ["outcome"], registry=self.registry
        )  # answered, nothing_found, stale, failed, late
        self.cache = Counter("int_cache", "Look-ups of results.", ["outcome"], registry=self.registry)
        self.images = Counter("int_model_images", "Images that went through the models.", registry=self.registry)
        self.webhooks = Counter("int_webhooks", "Webhooks by action.", ["action"], registry=self.registry)
        self.stage = Histogram(
            "int_stage_seconds", "Seconds by stage.", ["stage"], registry=self.registry, buckets=_SECONDS
        )
        waiting = Gauge("int_queue_images", "Images waiting for the models.", registry=self.registry)
        waiting.set_function(lambda: engine.status.waiting)
        ready = Gauge("int_models_ready", "1 once the models are loaded.", registry=self.registry)
        ready.set_function(lambda: engine.status.state == "ready")
        self.registry.register(_Memory(engine))

    def page(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self.registry)


class _Memory(Collector):
    """What the engine knows about memory, read when the page is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Both families; the counter has all its outcomes from the start."""
        ran_out = CounterMetricFamily(
            "int_out_of_memory", "Times memory ran out, by what came of it.", labels=["outcome"]
        )
        counted = self._engine.status.out_of_memory
        for outcome in get_args(MemoryEvent):
            ran_out.add_metric([outcome], counted.get(outcome, 0))
        yield ran_out
        used = GaugeMetricFamily("int_accelerator_bytes", "Memory of this process on the accelerator.", labels=["kind"])
        for kind, value in self._engine.memory().items():
            used.add_metric([kind], value)
        yield used
