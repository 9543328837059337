"""Metrics of the service in Prometheus format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from rewards.result import Score
from rewards.service.queue import Admission

PATHS = ("/v1/score", "/healthz", "/readyz", "/metrics")
"""Paths that are counted one by one; the others together, since a client can think up any number of them."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
JUDGE_COUNTS = {
    "asked": "Requests to the judge.",
    "answered": "Requests that got a response.",
    "unanswered": "Requests given up without a response.",
    "refused": "Requests that a server refused.",
    "bad": "Responses without a score.",
    "retries": "Further attempts for the same request.",
}
JUDGE_STATES = {
    "in_rotation": "Servers of the judge that respond.",
    "p50_seconds": "Median time to a response, lately.",
    "p95_seconds": "95th percentile of the time to a response, lately.",
    "error_rate": "Share of requests without a usable response.",
}
CACHE_COUNTS = {
    "hits": "Judge scores found in the cache.",
    "misses": "Judge scores not found in the cache.",
    "faults": "Times that the cache did not respond.",
}


class Metrics:
    """Counters of one service; nothing global, so that there can be several in a process."""

    def __init__(self, admission: Admission, judges: Sequence[str]) -> None:
        self._registry = CollectorRegistry()
        self._pool = _PoolNumbers(judges)
        self._registry.register(self._pool)
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "locus_requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "locus_request_seconds",
            "From a request's headers to the end of its response.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._scores = Counter("locus_scores", "Scores by component.", ["component"], registry=self._registry)
        self._errors = Counter(
            "locus_score_errors", "Scores that were an error, by component.", ["component"], registry=self._registry
        )
        for name, what, value in (
            ("taken", "Requests that are worked on or wait.", lambda: admission.taken),
            ("places", "Requests that may be worked on or wait.", lambda: admission.slots),
        ):
            Gauge(f"locus_queue_{name}", what, registry=self._registry).set_function(value)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts a response to a request."""
        known = path if path in PATHS else "other"
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def scored(self, components: Mapping[str, Sequence[Score]]) -> None:
        """Counts scores, and the errors among them."""
        for name, scores in components.items():
            self._scores.labels(name).inc(len(scores))
            self._errors.labels(name).inc(sum(score.error is not None for score in scores))

    def text(self, statistics: Mapping[str, float]) -> bytes:
        """The page of metrics, with the pool's own numbers (`RewardPool.statistics`)."""
        self._pool.statistics = statistics
        return generate_latest(self._registry)


class _PoolNumbers:
    """The pool's numbers as Prometheus's metrics; those that it does not have are left out."""

    def __init__(self, judges: Sequence[str]) -> None:
        self._judges = judges
        self.statistics: Mapping[str, float] = {}

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for kind, keys in ((CounterMetricFamily, JUDGE_COUNTS), (GaugeMetricFamily, JUDGE_STATES)):
            for key, what in keys.items():
                family = kind(f"locus_judge_{key}", what, labels=["judge"])
                for judge in self._judges:
                    if f"{judge}_{key}" in self.statistics:
                        family.add_metric([judge], self.statistics[f"{judge}_{key}"])
                if family.samples:
                    yield family
        for key, what in CACHE_COUNTS.items():
            if f"cache_{key}" in self.statistics:
                yield CounterMetricFamily(f"locus_cache_{key}", what, value=self.statistics[f"cache_{key}"])
