"""Numbers for Prometheus; one registry per app, so that tests and several apps do not share them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160)


class Metrics:
    """Counters and timings of the service. ``waiting`` and ``ready`` are asked for whenever the page is read."""

    def __init__(self, waiting: Callable[[], float], ready: Callable[[], float]) -> None:
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
        Gauge("int_queue_images", "Images waiting for the models.", registry=self.registry).set_function(waiting)
        Gauge("int_models_ready", "1 once the models are loaded.", registry=self.registry).set_function(ready)

    def page(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self.registry)
