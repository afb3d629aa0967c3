"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Of one server; two in a process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.total: dict[str, int] = {}
        own = self.registry
        self._waiting = Gauge("tenshot_queue_pictures", "Pictures that wait", registry=own)
        self._batches = Histogram("tenshot_batch_pictures", "Pictures in a step", buckets=PICTURES, registry=own)
        self._swaps = Counter("tenshot_weight_swaps", "Batches with other weights than the one before", registry=own)
        self._seconds = Histogram(
            "tenshot_request_seconds", "Until the answer begins", ["api"], buckets=SECONDS, registry=own
        )
        self._requests = Counter(
            "tenshot_requests", "Requests for pictures, by how they ended", ["api", "status"], registry=own
        )
        self._restarts = Counter("tenshot_worker_restarts", "Processes that drew and ended by themselves", registry=own)
        self._models = Gauge("tenshot_models", "Models in a device's memory", ["device"], registry=own)
        self._memory = Gauge(
            "tenshot_memory_peak_bytes", "The most that a device's process has used", ["device"], registry=own
        )

    def waiting(self, pictures: int) -> None:
        self._waiting.set(pictures)

    def step(self, pictures: int) -> None:
        self._batches.observe(pictures)

    def swapped(self) -> None:
        self._swaps.inc()

    def answered(self, api: str, status: int, seconds: float) -> None:
        self._seconds.labels(api).observe(seconds)
        self._requests.labels(api, str(status)).inc()
        self.total[str(status)] = self.total.get(str(status), 0) + 1

    def restarted(self) -> None:
        self._restarts.inc()

    def held(self, device: str, models: int, peak: int) -> None:
        self._models.labels(device).set(models)
        self._memory.labels(device).set(peak)

    def text(self) -> bytes:
        return generate_latest(self.registry)
