"""What gateways saw of late, put together: soft state that is in no log. A gateway that falls silent is forgotten."""

from __future__ import annotations

from collections import deque

import msgspec

from plenum.ports.gateway import LoadReport, PoolLoad

STALE_S = 15.0
"""A gateway that says nothing for so long is counted no more."""

WINDOW_S = 30.0
"""Rates are means over so long."""

MAX_SAMPLES = 4_000
"""Latencies kept of one revision, the newest."""

MAX_GATEWAYS = 1_000
MAX_POOLS = 10_000
"""Pools of revisions that anything is known of."""


class Tally(msgspec.Struct, kw_only=True):
    """What was seen of a revision's pool since it was first reported, or since :meth:`Loads.watch`."""

    finished: int = 0
    failed: int = 0
    output_tokens: int = 0
    ttft_s: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    tpot_s: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


class PoolNow(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of an endpoint now, over all gateways and revisions.

    Parameters
    ----------
    rate_rps, finished_rps
        Means over :data:`WINDOW_S`, or as long as anything is known of it.
    quiet_s
        Since something last arrived, waited or ran; infinity: nothing was ever seen.
    """

    waiting: int = 0
    running: int = 0
    rate_rps: float = 0.0
    finished_rps: float = 0.0
    cache_used: float = 0.0
    quiet_s: float = float("inf")


class _Gateway(msgspec.Struct, kw_only=True):
    at: float
    report: LoadReport


class _Window(msgspec.Struct, kw_only=True):
    began: float
    busy_at: float = float("-inf")
    seen: deque[tuple[float, int, int]] = msgspec.field(default_factory=deque)


class Loads:
    """Takes reports and answers what they come to, as of the last :meth:`advance`; times are by the monotonic clock."""

    def __init__(self) -> None:
        self.now_s = self.began_s = float("-inf")
        self.version = 0
        """Grows with every report."""
        self.forecast_rps: dict[str, float] = {}
        """Endpoint to the rate that is expected by when a replica started now would be ready."""
        self._gateways: dict[str, _Gateway] = {}
        self._windows: dict[tuple[str, str], _Window] = {}
        self._tallies: dict[tuple[str, int, str], Tally] = {}
        self._marks: dict[str, float] = {}

    def advance(self, now_s: float) -> None:
        """Let time pass."""
        self.began_s = now_s if self.began_s == float("-inf") else self.began_s
        self.now_s = max(self.now_s, now_s)

    def take(self, report: LoadReport, now_s: float) -> None:
        """Take a gateway's report in."""
        self.advance(now_s)
        if report.gateway not in self._gateways and len(self._gateways) >= MAX_GATEWAYS:
            return
        self.version += 1
        self._gateways[report.gateway] = _Gateway(at=now_s, report=report)
        for pool in report.pools:
            self._note(pool, report.seconds, now_s)

    def _note(self, pool: PoolLoad, seconds: float, now_s: float) -> None:
        if len(self._tallies) >= MAX_POOLS or len(self._windows) >= MAX_POOLS:
            self.keep({endpoint for endpoint, _ in list(self._windows)[MAX_POOLS // 2 :]})
        window = self._windows.setdefault((pool.endpoint, pool.pool), _Window(began=now_s - max(seconds, 0.0)))
        window.seen.append((now_s, max(pool.arrived, 0), max(pool.finished, 0)))
        while window.seen and window.seen[0][0] <= now_s - WINDOW_S:
            window.seen.popleft()
        if pool.arrived or pool.waiting or pool.running:
            window.busy_at = now_s
        tally = self._tallies.setdefault((pool.endpoint, pool.revision, pool.pool), Tally())
        tally.finished += max(pool.finished, 0)
        tally.failed += max(pool.failed, 0)
        tally.output_tokens += max(pool.output_tokens, 0)
        tally.ttft_s.extend(t for t in pool.ttft_s if 0 <= t < float("inf"))
        tally.tpot_s.extend(t for t in pool.tpot_s if 0 <= t < float("inf"))

    def keep(self, endpoints: set[str]) -> None:
        """Forget all but some endpoints."""
        self._windows = {key: value for key, value in self._windows.items() if key[0] in endpoints}
        self._tallies = {key: value for key, value in self._tallies.items() if key[0] in endpoints}

    def watch(self, endpoint: str, mark: float) -> None:
        """Tally an endpoint's revisions afresh where a mark is new, as when a canary gets its first requests."""
        if self._marks.get(endpoint) != mark:
            self._marks[endpoint] = mark
            self._tallies = {key: value for key, value in self._tallies.items() if key[0] != endpoint}

    def tally(self, endpoint: str, revision: int, pool: str) -> Tally:
        """Return what was seen of a revision's pool."""
        return self._tallies.get((endpoint, revision, pool)) or Tally()

    def now(self, endpoint: str, pool: str) -> PoolNow:
        """Return how a pool is."""
        now_s = self.now_s
        here = [
            load
            for gateway in self._fresh()
            for load in gateway.report.pools
            if (load.endpoint, load.pool) == (endpoint, pool)
        ]
        window = self._windows.get((endpoint, pool))
        if window is None:
            return PoolNow()
        seen = [each for each in window.seen if each[0] > now_s - WINDOW_S]
        span_s = min(max(now_s - window.began, 1.0), WINDOW_S)
        waiting, running = sum(load.waiting for load in here), sum(load.running for load in here)
        return PoolNow(
            waiting=waiting,
            running=running,
            rate_rps=sum(arrived for _, arrived, _ in seen) / span_s,
            finished_rps=sum(finished for _, _, finished in seen) / span_s,
            cache_used=max((load.cache_used for load in here), default=0.0),
            quiet_s=0.0 if waiting or running else now_s - window.busy_at,
        )

    def drained(self, run: str, position: int) -> bool:
        """Tell whether every gateway knows that a run gets nothing new, and has nothing open there.

        Where none has been heard of for so long that any would have been, nobody can have.
        """
        fresh = self._fresh()
        if not fresh:
            return self.now_s >= self.began_s + STALE_S
        return all(g.report.table >= position and not g.report.draining.get(run) for g in fresh)

    def _fresh(self) -> list[_Gateway]:
        return [gateway for gateway in self._gateways.values() if gateway.at > self.now_s - STALE_S]
