"""How often requests did not go the plain way: second requests, hand-offs, retries, replicas shut off; for ``/metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

HEDGED, HANDED, RETRIED, SHUT_OFF = "hedges", "handoffs", "retries", "breaker_openings"

DONE = "done"
PREFILL_FAILED, PREFILL_REFUSED, HANDLE_REFUSED, DECODE_FAILED, NO_ROOM = (
    "prefill-failed", "prefill-refused", "handle-refused", "decode-failed", "no-room",
)  # fmt: skip
"""What becomes of a hand-off: of all but the first the prompt is computed where it is decoded."""

FAILURES, LATE = "failures", "late"
"""Why a replica is shut off."""

_ABOUT = {
    HEDGED: "Second requests sent as the first was late.",
    HANDED: "Prompts that one replica was to compute for another; fallen back unless done.",
    RETRIED: "Requests sent again after a failure.",
    SHUT_OFF: "Times that a replica was sent nothing for a while.",
}


class Incidents(Collector):
    """Counts by endpoint and by how it went."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def note(self, what: str, endpoint: str, how: str = "") -> None:
        """Count one."""
        self._counts[what, endpoint, how] += 1

    def count(self, what: str, how: str = "") -> int:
        """Return how many there were, of all endpoints."""
        return sum(n for (each, _, this), n in self._counts.items() if each == what and this == how)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield them as Prometheus has them."""
        labels = {HANDED: ["endpoint", "outcome"], SHUT_OFF: ["endpoint", "why"]}
        for what, about in _ABOUT.items():
            names = labels.get(what, ["endpoint"])
            family = CounterMetricFamily(f"plenum_gateway_{what}", about, labels=names)
            for (each, endpoint, how), n in sorted(self._counts.items()):
                if each == what:
                    family.add_metric([endpoint, how][: len(names)], n)
            yield family
