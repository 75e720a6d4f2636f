"""What gateways saw of late, put together: soft state that is in no log. A gateway that falls silent is forgotten."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import msgspec

from plenum.control.endpoints.sustained import Sustained
from plenum.model.endpoint import Promise
from plenum.ports.gateway import LoadReport, Peer, PoolLoad
from plenum.serving.calibration import Calibration
from plenum.serving.scaling import History, Limits, history_of

STALE_S = 15.0
"""A gateway that says nothing for so long is counted no more."""

WINDOW_S = 30.0
"""Rates are means over so long."""

MAX_SAMPLES = 4_000
"""Latencies kept of one revision, the newest."""

MAX_LATENCY_S = 1e6
"""Longer ones are nonsense: means of such could be infinite, which no event may say."""

BIN_S = 300.0
MAX_BINS = 2_016
"""Rates kept for forecasts: a week of them."""

RECENT = 200
"""Newest latencies of a pool that lateness is told by."""

ENOUGH = 20
"""Latencies before anything is made of them."""

MAX_GATEWAYS = 1_000
MAX_SEEN = 10_000
"""Reports on one pool within the window."""

MAX_POOLS = 10_000
"""Pools of revisions that anything is known of."""


class Tally(msgspec.Struct, kw_only=True):
    """What was seen of a revision's pool since it was first reported, or since :meth:`Loads.watch`."""

    finished: int = 0
    failed: int = 0
    output_tokens: int = 0
    ttft_s: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    tpot_s: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


class Watch(msgspec.Struct, kw_only=True):
    """A canary on trial: how many looks were taken at each of its figures, and what came of them."""

    mark: float
    looks: dict[str, int] = {}
    verdict: object = None


class PoolNow(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of an endpoint now, over all gateways and revisions.

    Parameters
    ----------
    rate_rps, finished_rps, prompt_tokens, output_tokens
        Means over :data:`WINDOW_S`, or as long as anything is known of it; tokens of a request.
    quiet_s
        Since something last arrived, waited or ran; infinity: nothing was ever seen.
    """

    waiting: int = 0
    running: int = 0
    rate_rps: float = 0.0
    finished_rps: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    cache_used: float = 0.0
    quiet_s: float = float("inf")


class _Gateway(msgspec.Struct, kw_only=True):
    at: float
    report: LoadReport
    pools: dict[tuple[str, str], list[PoolLoad]] = {}
    """Endpoint and pool to what it says of each revision: of thousands, each is asked for by itself."""


class _Seen(msgspec.Struct, frozen=True):
    at: float
    arrived: int
    finished: int
    prompt_tokens: int
    output_tokens: int


class _Window(msgspec.Struct, kw_only=True):
    began: float
    busy_at: float = float("-inf")
    bins: deque[list[float]] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_BINS))
    """Number of the bin, and what arrived in it."""
    seen: deque[_Seen] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_SEEN))
    ttft_s: deque[tuple[float, float]] = msgspec.field(default_factory=lambda: deque(maxlen=RECENT))
    tpot_s: deque[tuple[float, float]] = msgspec.field(default_factory=lambda: deque(maxlen=RECENT))
    """When they were told, and latencies."""


class Loads:
    """Takes reports and answers what they come to, as of the last :meth:`advance`; times are by the monotonic clock."""

    def __init__(self, calibration: Calibration | None = None) -> None:
        self.calibration = calibration
        """By which the performance model says what replicas bear; None: the one that ships."""
        self.now_s = self.began_s = float("-inf")
        self.version = 0
        """Grows with every report."""
        self.forecast_rps: dict[str, float] = {}
        """Endpoint to the rate that is expected by when a replica started now would be ready."""
        self._gateways: dict[str, _Gateway] = {}
        self._windows: dict[tuple[str, str], _Window] = {}
        self._tallies: dict[tuple[str, int, str], Tally] = {}
        self._watches: dict[str, Watch] = {}
        self._decided_s: dict[str, float] = {}
        self._histories: dict[tuple[str, str], History] = {}
        self._sustained: dict[tuple[str, str], Sustained] = {}

    def advance(self, now_s: float) -> None:
        """Let time pass."""
        self.began_s = now_s if self.began_s == float("-inf") else self.began_s
        self.now_s = max(self.now_s, now_s)

    def take(self, report: LoadReport, now_s: float) -> None:
        """Take a gateway's report in."""
        self.advance(now_s)
        if report.gateway not in self._gateways and len(self._gateways) >= MAX_GATEWAYS:
            fresh = {gateway.report.gateway for gateway in self._fresh()}
            _drop(self._gateways, [name for name in self._gateways if name not in fresh])
            if len(fresh) >= MAX_GATEWAYS:
                return
        self.version += 1
        gateway = self._gateways[report.gateway] = _Gateway(at=now_s, report=report)
        for pool in report.pools:
            gateway.pools.setdefault((pool.endpoint, pool.pool), []).append(pool)
            self._note(pool, report.seconds, now_s)

    def _note(self, pool: PoolLoad, seconds: float, now_s: float) -> None:
        keys = (pool.endpoint, pool.pool), (pool.endpoint, pool.revision, pool.pool)
        known = keys[0] in self._windows and keys[1] in self._tallies
        if not known and max(len(self._windows), len(self._tallies)) >= MAX_POOLS:
            return
        window = self._windows.setdefault(keys[0], _Window(began=now_s - max(seconds, 0.0)))
        window.seen.append(
            _Seen(now_s, max(pool.arrived, 0), max(pool.finished, 0), pool.prompt_tokens, pool.output_tokens)
        )
        while window.seen and window.seen[0].at <= now_s - WINDOW_S:
            window.seen.popleft()
        if not window.bins or window.bins[-1][0] != now_s // BIN_S:
            window.bins.append([now_s // BIN_S, 0.0])
        window.bins[-1][1] += max(pool.arrived, 0)
        if pool.arrived or pool.waiting or pool.running:
            window.busy_at = now_s
        tally = self._tallies.setdefault(keys[1], Tally())
        tally.finished += max(pool.finished, 0)
        tally.failed += max(pool.failed, 0)
        tally.output_tokens += max(pool.output_tokens, 0)
        for name in ("ttft_s", "tpot_s"):
            good = [t for t in getattr(pool, name) if 0 <= t <= MAX_LATENCY_S]
            getattr(tally, name).extend(good)
            getattr(window, name).extend((now_s, t) for t in good)

    def keep(self, endpoints: Mapping[str, Collection[int]]) -> None:
        """Forget all but some endpoints, and of these all but some revisions."""
        _drop(self._tallies, [key for key in self._tallies if key[1] not in endpoints.get(key[0], ())])
        for of_pools in (self._windows, self._histories, self._sustained):
            _drop(of_pools, [key for key in of_pools if key[0] not in endpoints])
        for of_one in (self._watches, self._decided_s, self.forecast_rps):
            _drop(of_one, [key for key in of_one if key not in endpoints])

    def watch(self, endpoint: str, mark: float) -> Watch:
        """Return what is remembered of watching a canary; a new mark begins a new watch, with all revisions tallied afresh."""
        watch = self._watches.get(endpoint)
        if watch is None or watch.mark != mark:
            watch = self._watches[endpoint] = Watch(mark=mark)
            self._tallies = {key: value for key, value in self._tallies.items() if key[0] != endpoint}
        return watch

    def tally(self, endpoint: str, revision: int, pool: str) -> Tally:
        """Return what was seen of a revision's pool."""
        return self._tallies.get((endpoint, revision, pool)) or Tally()

    def now(self, endpoint: str, pool: str) -> PoolNow:
        """Return how a pool is."""
        now_s = self.now_s
        here = [load for gateway in self._fresh() for load in gateway.pools.get((endpoint, pool), ())]
        window = self._windows.get((endpoint, pool))
        if window is None:
            return PoolNow()
        seen = [each for each in window.seen if each.at > now_s - WINDOW_S]
        finished = sum(each.finished for each in seen)
        span_s = min(max(now_s - window.began, 1.0), WINDOW_S)
        waiting, running = sum(load.waiting for load in here), sum(load.running for load in here)
        return PoolNow(
            waiting=waiting,
            running=running,
            rate_rps=sum(each.arrived for each in seen) / span_s,
            finished_rps=finished / span_s,
            prompt_tokens=sum(each.prompt_tokens for each in seen) / max(finished, 1),
            output_tokens=sum(each.output_tokens for each in seen) / max(finished, 1),
            cache_used=max((load.cache_used for load in here), default=0.0),
            quiet_s=0.0 if waiting or running else now_s - window.busy_at,
        )

    def rates(self, endpoint: str) -> list[float]:
        """Return the rates of its busiest pool in bins of :data:`BIN_S`, oldest first; the one that is not over is left out."""
        found: list[dict[float, float]] = [
            {each[0]: each[1] for each in window.bins}
            for (name, _), window in self._windows.items()
            if name == endpoint
        ]
        bins = max(found, key=lambda seen: sum(seen.values()), default={})
        if not bins:
            return []
        first, last = min(bins), self.now_s // BIN_S
        return [bins.get(first + i, 0.0) / BIN_S for i in range(max(int(last - first), 0))][-MAX_BINS:]

    def late(self, endpoint: str, pool: str, promise: Promise) -> float:
        """Return the part of the newest requests that were later than promised; 0 while there are too few to tell."""
        window = self._windows.get((endpoint, pool))
        if window is None or window.busy_at <= self.now_s - WINDOW_S:
            return 0.0
        return max((late / seen for late, seen in _counts(window, promise, float("-inf"))), default=0.0)

    def is_late(self, endpoint: str, pool: str, promise: Promise) -> bool | None:
        """Return whether more requests of the last :data:`WINDOW_S` were late than chance has where the promise is just kept.

        None: there are too few to tell.
        """
        window, part = self._windows.get((endpoint, pool)), 1.0 - promise.quantile
        counts = [] if window is None else _counts(window, promise, self.now_s - WINDOW_S)
        surely = [late > seen * part + 2.0 * math.sqrt(seen * part * (1.0 - part)) for late, seen in counts]
        return any(surely) if surely else None

    def sustained(self, endpoint: str, pool: str, basis: Hashable) -> Sustained:
        """Return what was seen of a pool's replicas; afresh where they have become others."""
        known = self._sustained.get((endpoint, pool))
        if known is None or known.basis != basis:
            known = self._sustained[endpoint, pool] = Sustained(basis=basis)
        return known

    def is_due(self, endpoint: str, every_s: float) -> bool:
        """Tell whether it is time to decide on an endpoint again, and note that it is done."""
        if self.now_s < self._decided_s.get(endpoint, float("-inf")) + every_s:
            return False
        self._decided_s[endpoint] = self.now_s
        return True

    def history(self, endpoint: str, pool: str, limit: Limits) -> History:
        """Return what scaling remembers of a pool; afresh where its limits are others."""
        known = self._histories.get((endpoint, pool))
        if known is None or len(known.too_few_rps) != limit.most + 1:
            known = self._histories[endpoint, pool] = history_of(limit)
        return known

    @property
    def heard(self) -> bool:
        """Whether any gateway says anything; if none does, nobody knows what is asked for."""
        return bool(self._fresh())

    def drained(self, run: str, position: int) -> bool:
        """Tell whether every gateway knows that a run gets nothing new, and has nothing open there.

        Where none has been heard of for so long that any would have been, nobody can have.
        """
        fresh = self._fresh()
        if not fresh:
            return self.now_s >= self.began_s + STALE_S
        return all(g.report.table >= position and not g.report.draining.get(run) for g in fresh)

    def alive(self) -> tuple[Peer, ...]:
        """Return the gateways that report."""
        reports = sorted((gateway.report for gateway in self._fresh()), key=lambda report: report.gateway)
        return tuple(Peer(name=report.gateway, url=report.url) for report in reports)

    def without(self, position: int) -> set[str]:
        """Return the gateways that report and go by a table from before a position of the log."""
        return {gateway.report.gateway for gateway in self._fresh() if gateway.report.table < position}

    def _fresh(self) -> list[_Gateway]:
        return [gateway for gateway in self._gateways.values() if gateway.at > self.now_s - STALE_S]


def _counts(window: _Window, promise: Promise, since_s: float) -> list[tuple[int, int]]:
    """Return how many latencies told since then are above what is promised, and of how many; of each kind that there are enough of."""
    pairs = ((window.ttft_s, promise.ttft_s), (window.tpot_s, promise.tpot_s))
    told = [[t > limit for at, t in latencies if at > since_s] for latencies, limit in pairs]
    return [(sum(late), len(late)) for late in told if len(late) >= ENOUGH]


def _drop(known: dict[Any, Any], keys: list[Any]) -> None:
    for key in keys:
        del known[key]
