"""Prompts computed by one replica and decoded by another: which ones, where, and what happens when it does not work.

Short prompts stay where they are decoded (:func:`plenum.serving.offload.place_prefill`); so does everything whose prefill fails or whose
handle is refused. A prefill at another site must be worth crossing the link, and the busier the link, the longer the prompt must be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from plenum.gateway import incidents
from plenum.gateway.choosing import choose
from plenum.gateway.incidents import HANDED, Incidents
from plenum.gateway.seats import Seat, Ticket
from plenum.gateway.targets import Target
from plenum.ports.engine import Answer, EngineError, Handle, HandleError
from plenum.serving import admission, offload

LINK_BPS = 12.5e9
"""Bytes a second of the link between two sites where their fleets say no ``uplink_bps``, as in :class:`plenum.serving.pools.Serving`."""

LINK_WINDOW_S = 5.0
CROSSING_TOKENS = 4_096
"""Least tokens left to compute for which a prefill crosses to another site; with a full link, this many times ``LINK_STEEP``."""

LINK_STEEP = 16


class Link:
    """How busy the link between two sites is: bytes of handles over what it carries, averaged."""

    def __init__(self, now: Callable[[], float], bps: float = LINK_BPS) -> None:
        self._now, self._bps, self._at_s, self._used = now, bps, now(), 0.0

    def carried(self, size_bytes: int) -> None:
        """Count a handle that crosses."""
        self._add(size_bytes / self._bps)

    def threshold_tokens(self, planned_tokens: int) -> float:
        """Return from how many tokens on a prefill is worth the link now."""
        self._add(0.0)
        planned = max(planned_tokens, CROSSING_TOKENS)
        return float(offload.raised_threshold(planned, self._used, LINK_STEEP * planned))

    def _add(self, seconds: float) -> None:
        now_s = self._now()
        self._used = admission.pressure_after(self._used, now_s - self._at_s, seconds, 1.0, LINK_WINDOW_S)
        self._at_s = now_s


class Handoffs:
    """Hands prompts to the prefill replicas of a revision."""

    def __init__(self, now: Callable[[], float], noted: Incidents | None = None) -> None:
        self._now, self._noted = now, noted or Incidents()
        self._links: dict[tuple[str, str], Link] = {}
        self._uplinks_bps: dict[str, int] = {}
        self._turn = 0

    def reach(self, uplinks_bps: dict[str, int]) -> None:
        """Go by these uplinks of sites (bit/s) from now on; those of other sites are taken to be wide."""
        if uplinks_bps != self._uplinks_bps:
            self._uplinks_bps, self._links = uplinks_bps, {}

    @asynccontextmanager
    async def opened(self, ticket: Ticket, seat: Seat) -> AsyncIterator[Answer]:
        """Give the answer of a decode replica, its prompt computed where that is best.

        Raises
        ------
        EngineError
            The decode replica has none to give.
        """
        ask, engine = ticket.ask, seat.target.engine
        handle = await self._prefilled(ticket, seat)
        async with AsyncExitStack() as stack:
            answer = None
            if handle is not None:
                try:
                    answer = await stack.enter_async_context(engine.decode(ask.path, ask.raw, handle))
                except (
                    EngineError,
                    HandleError,
                ) as error:  # the address for hand-offs may be gone, and the engine well
                    failed = isinstance(error, EngineError)
                    outcome = incidents.DECODE_FAILED if failed else incidents.HANDLE_REFUSED
                else:
                    outcome = incidents.DONE if answer.status < 500 else incidents.DECODE_FAILED
                self._noted.note(HANDED, seat.group.spec.id, outcome)
                if answer is not None and outcome != incidents.DONE:
                    await stack.aclose()
                    answer = None
            if answer is None:
                answer = await stack.enter_async_context(engine.open(ask.path, ask.raw))
            yield answer

    async def _prefilled(self, ticket: Ticket, seat: Seat) -> Handle | None:
        """Return a handle of the prompt; None: it is computed where it is decoded."""
        group, ask = seat.group, ticket.ask
        source = self._source_for(ticket, seat)
        if source is None:
            return None
        tally = group.tallies[source.target.replica.pool]
        tally.arrived += 1
        start_s = self._now()
        try:
            handle = await source.target.engine.prefill(ask.path, ask.raw)
        except (EngineError, HandleError) as error:
            failed = isinstance(error, EngineError)
            self._noted.note(HANDED, group.spec.id, incidents.PREFILL_FAILED if failed else incidents.PREFILL_REFUSED)
            if failed:
                group.failed(source.target)
            source.target.breaker.abandoned()
            return None
        finally:
            source.leave()
        source.target.breaker.succeeded()
        source.cached()
        tally.finished += 1
        tally.ttft_s.append(self._now() - start_s)
        tally.ended(ask.prompt_tokens, source.hit_tokens, 0)
        if link := self._link(source.target, seat.target):
            link.carried(handle.size_bytes)
        return handle

    def _source_for(self, ticket: Ticket, seat: Seat) -> Seat | None:
        """Return a place at the replica that is to compute the prompt; None: there is none that is worth it."""
        group, now_s = seat.group, self._now()
        able = [
            t
            for t in group.prefilling
            if t.open_to(now_s) and t.engine.capabilities.handoff and t.load < max(t.limit, 1.0)
        ]
        near = [target for target in able if self._link(target, seat.target) is None]
        candidates = near or able
        if not candidates:
            if ticket.ask.prompt_tokens >= group.spec.prefill_threshold_tokens:
                self._noted.note(HANDED, group.spec.id, incidents.NO_ROOM)
            return None
        prompt = ticket.ask.prompt_tokens
        hits = group.hits(ticket, candidates)
        chosen = choose(group.policy, candidates, hits, group.forecast, prompt, ticket.session, self._turn)
        self._turn += 1
        source, threshold = candidates[chosen], float(group.spec.prefill_threshold_tokens)
        if link := self._link(source, seat.target):
            threshold = link.threshold_tokens(group.spec.prefill_threshold_tokens)
        # A prompt of just the threshold is sent away: what has fewer tokens to compute stays.
        place, _, _ = offload.place_prefill(prompt, seat.hit_tokens, hits[chosen], threshold - 1.0, False)
        if place == offload.LOCAL:
            return None
        source.breaker.sent(now_s)
        return Seat(group, source, ticket, hits[chosen], 0.0)

    def _link(self, source: Target, target: Target) -> Link | None:
        """Return the link between the sites of two replicas; None: they stand at one, or it is not known."""
        a, b = source.replica.site, target.replica.site
        if not a or not b or a == b:
            return None
        if (a, b) not in self._links:
            said = [self._uplinks_bps[site] / 8 for site in (a, b) if self._uplinks_bps.get(site)]
            self._links[a, b] = Link(self._now, min(said, default=LINK_BPS))
        return self._links[a, b]


def warm() -> None:
    """Compile what hand-offs need, or load what was compiled, before the first request."""
    link = Link(lambda: 0.0)
    link.carried(1)
    link.threshold_tokens(1)
    offload.place_prefill(1, 0, 0, 0.0, False)
