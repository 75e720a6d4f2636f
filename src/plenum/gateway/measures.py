"""A gateway's metrics, by Prometheus's conventions; labels are endpoints and codes, never what a client wrote."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()

_TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOTAL_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)


class _Endpoint:
    """One endpoint's figures, looked up once."""

    __slots__ = ("cached", "outcomes", "output", "prompt", "total_s", "ttft_s")

    def __init__(self, measures: Measures, endpoint: str) -> None:
        self.prompt = measures.tokens.labels(endpoint, "prompt")
        self.cached = measures.tokens.labels(endpoint, "cached")
        self.output = measures.tokens.labels(endpoint, "output")
        self.ttft_s = measures.ttft_s.labels(endpoint)
        self.total_s = measures.total_s.labels(endpoint)
        self.outcomes: dict[str, Counter] = {}


class Measures:
    """Counts what goes through a gateway."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "plenum_gateway_requests", "Requests that an engine answered.", ["endpoint", "outcome"], registry=registry
        )
        self.tokens = Counter("plenum_gateway_tokens", "Tokens billed.", ["endpoint", "kind"], registry=registry)
        self.refusals = Counter("plenum_gateway_refusals", "Requests refused.", ["code"], registry=registry)
        self.ttft_s = Histogram(
            "plenum_gateway_time_to_first_token_seconds",
            "From a request's arrival to the first byte of its answer.",
            ["endpoint"],
            buckets=_TTFT_S,
            registry=registry,
        )
        self.total_s = Histogram(
            "plenum_gateway_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ["endpoint"],
            buckets=_TOTAL_S,
            registry=registry,
        )
        self.in_flight = Gauge("plenum_gateway_requests_in_flight", "Requests and streams open.", registry=registry)
        self.connections = Gauge("plenum_gateway_connections", "Connections of clients.", registry=registry)
        self.dropped = Counter(
            "plenum_gateway_connections_dropped", "Connections ended for what they did.", ["why"], registry=registry
        )
        self._endpoints: dict[str, _Endpoint] = {}

    def answered(
        self,
        endpoint: str,
        outcome: str,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        ttft_s: float,
        total_s: float,
    ) -> None:
        """Count an answer that has ended; ``ttft_s`` 0: nothing of it was sent."""
        figures = self._endpoints.get(endpoint)
        if figures is None:
            figures = self._endpoints[endpoint] = _Endpoint(self, endpoint)
        counter = figures.outcomes.get(outcome)
        if counter is None:
            counter = figures.outcomes[outcome] = self.requests.labels(endpoint, outcome)
        counter.inc()
        figures.prompt.inc(prompt_tokens)
        figures.cached.inc(cached_tokens)
        figures.output.inc(output_tokens)
        if ttft_s:
            figures.ttft_s.observe(ttft_s)
        figures.total_s.observe(total_s)

    def exposition(self) -> bytes:
        """Return all of them as text."""
        return generate_latest(self.registry)
