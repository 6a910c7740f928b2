"""What a service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_EXAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of the text."""


class Measures:
    """Counts of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "graft_requests", "Requests to /predict, by status.", ["status"], registry=self._registry
        )
        self.errors = Counter("graft_errors", "Requests to /predict that were refused.", registry=self._registry)
        self.examples = Counter("graft_examples", "Examples predicted.", registry=self._registry)
        self.truncated = Counter("graft_examples_truncated", "Examples that were cut.", registry=self._registry)
        self.seconds = Histogram(
            "graft_request_seconds", "From request to answer.", buckets=_SECONDS, registry=self._registry
        )
        self.batches = Histogram(
            "graft_batch_examples", "Examples answered together.", buckets=_EXAMPLES, registry=self._registry
        )
        self.in_progress = Gauge("graft_requests_in_progress", "Requests being answered.", registry=self._registry)
        self.waiting = Gauge("graft_waiting_examples", "Examples that wait for the model.", registry=self._registry)

    def count(self, status: int) -> None:
        """Count a request by how it ended."""
        self.requests.labels(str(status)).inc()
        if status >= 400:
            self.errors.inc()

    def text(self) -> bytes:
        """All counts in Prometheus' text format."""
        return generate_latest(self._registry)
