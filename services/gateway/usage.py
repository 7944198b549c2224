"""Usage: what was asked, for which project, and how long it took – counted in this process, shown at /metrics, lost at its end.

It names projects, so /metrics has an address of its own beside the API's, as the other programs' have. Each new label value is
one more series for ever: so neither keys nor models are named.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
_PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/files", "/v1/uploads", "/v1/fine_tuning/jobs", "/v1/models",
)  # fmt: skip


class Usage:
    """Counters of one gateway, in the registry of its program, or in one of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        self._requests = Counter(
            "afina_gateway_requests_total", "HTTP requests.", ["method", "path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "afina_gateway_request_seconds", "Time of HTTP requests.", ["path"], buckets=_SECONDS, registry=self._registry
        )
        self._in_flight = Gauge("afina_gateway_generations_in_flight", "Answers under way.", registry=self._registry)
        self._tokens = Counter(
            "afina_gateway_tokens_total",
            "Tokens, as the model servers count them.",
            ["project", "model_kind", "kind"],
            registry=self._registry,
        )

    def requested(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request; paths that carry an id count as what they begin with."""
        label = next((known for known in _PATHS if path.startswith(known)), "other")
        self._requests.labels(method if method in _METHODS else "other", label, str(status)).inc()
        self._seconds.labels(label).observe(seconds)

    def generated(self, project: str, model_kind: str, usage: Any) -> None:
        """Count the tokens of an answer that tells them; the kinds of models are base, adapter, full and endpoint."""
        if not isinstance(usage, dict):
            return
        for kind in ("prompt_tokens", "completion_tokens"):
            self._tokens.labels(project, model_kind, kind.removesuffix("_tokens")).inc(usage.get(kind) or 0)

    def in_flight(self, count: int) -> None:
        """Note how many answers are under way."""
        self._in_flight.set(count)
