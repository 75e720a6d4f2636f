"""One revision of an endpoint: its replicas, who waits for one of them, and who gets which."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence

from plenum.gateway.admitting import Outlook, Pressure, Verdict, judge
from plenum.gateway.choosing import choose, hits_of, policy_of, predicted_ttft_s
from plenum.gateway.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT, TIERS, FairQueue
from plenum.gateway.forecast import Forecast
from plenum.gateway.hedging import HedgeBudget
from plenum.gateway.incidents import FAILURES, LATE, SHUT_OFF, Incidents
from plenum.gateway.kv_index import KvIndex
from plenum.gateway.prefixes import PrefixIndex
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.seats import MovedError, Seat, Ticket
from plenum.gateway.tallies import Tally
from plenum.gateway.targets import READY, Target, leave_out_the_late
from plenum.model.endpoint import PREFILL, Endpoint
from plenum.serving import admission

MAX_WAITING = 1_000
"""Requests of one class that wait for one revision."""

BATCH_PART = 0.75
"""Part of a replica's places that batch work may fill, so that an interactive request finds one."""

TPOT_PART = 0.9
"""Part of the promised time per token that a replica is filled up to."""

TTFT_PART = 0.8
"""Part of the promised time to the first token that waiting may take with what follows it; the rest is for what predictions miss."""

FIRST_OUTPUT_TOKENS = 128.0
"""Expected of a request before any has ended."""

TRIED = Verdict(
    step=admission.ADMIT,
    code="admission.tried",
    sentence="a replica is idle: nobody could do better, and it is seen how it does",
)
"""Of what would be refused: else a prediction that became too high would never be put right."""


class Group:
    """Replicas of one revision, and those who wait for them.

    Parameters
    ----------
    now
        Monotonic clock, in seconds.
    call
        Called when a request finds no replica at all.
    forecast
        None: one that learns everything.
    """

    def __init__(
        self,
        spec: Endpoint,
        revision: int,
        now: Callable[[], float],
        call: Callable[[], None],
        forecast: Forecast | None = None,
    ) -> None:
        self.spec, self.revision = spec, revision
        self.targets: list[Target] = []
        self.queue: FairQueue[Ticket] = FairQueue(MAX_WAITING)
        self.tallies = {pool.name: Tally() for pool in spec.pools}
        self.index, self.kv_index, self.forecast = PrefixIndex(), KvIndex(), forecast or Forecast()
        self.pressure, self.hedges, self.incidents = Pressure(now), HedgeBudget(), Incidents()
        self.output_tokens_mean = FIRST_OUTPUT_TOKENS
        self.tells_cached = False
        self._now, self._call, self._turn = now, call, 0

    @property
    def policy(self) -> int:
        """Of :data:`plenum.serving.routing.POLICIES`."""
        return policy_of(self.spec.routing)

    @property
    def tally(self) -> Tally:
        """Of the pool that answers."""
        return self.tallies[self.spec.pools[-1].name]

    @property
    def answering(self) -> list[Target]:
        """Replicas that answer clients."""
        return [target for target in self.targets if target.replica.pool != PREFILL]

    @property
    def prefilling(self) -> list[Target]:
        """Replicas that only prefill."""
        return [target for target in self.targets if target.replica.pool == PREFILL]

    @property
    def replicas(self) -> int:
        """How many may be sent requests now."""
        now_s = self._now()
        return sum(target.open_to(now_s) for target in self.answering)

    def ready(self) -> bool:
        """Whether any replica is up."""
        return any(target.replica.phase == READY for target in self.answering)

    def usable(self, tried: set[str]) -> bool:
        """Whether there is a replica that has not failed this request, and is not shut off."""
        now_s = self._now()
        return any(t.open_to(now_s) and t.replica.run not in tried for t in self.answering)

    def hits(self, ticket: Ticket, targets: Sequence[Target]) -> list[int]:
        """Return how many tokens of a prompt each of some replicas has: what engines tell of it, else what was sent them."""
        prompt = ticket.ask.prompt_tokens
        if ticket.tokens:
            told = [min(self.kv_index.found(target.replica.run, ticket.tokens), prompt) for target in targets]
            if any(told):
                return told
        return hits_of(self.index, targets, ticket.blocks, ticket.size_bytes, prompt)

    def outlook(self, ticket: Ticket, *, judged: bool) -> Outlook:
        """Return what would become of a request if it were taken now; its first token only where that is ``judged``."""
        now_s, ask, forecast = self._now(), ticket.ask, self.forecast
        able = [target for target in self.answering if target.open_to(now_s)]
        if not able:
            return Outlook()
        hits = self.hits(ticket, able)
        output = self._output_of(ask)
        work_s = forecast.work_s(ask.prompt_tokens, max(hits), output, min(target.limit for target in able))
        ttft_s = tpot_s = 0.0
        if judged and forecast.knows_ttft:
            ttft_s = min(
                predicted_ttft_s(forecast, t, ask.prompt_tokens, hit) for t, hit in zip(able, hits, strict=True)
            )
            ttft_s += self._wait_s(ticket, able, ttft_s, output)
        if forecast.knows_tpot:
            tpot_s = forecast.tpot_s(min(target.load for target in able) + 1)
        return Outlook(
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            ttft_high_s=ttft_s * forecast.ttft_errors.high,
            tpot_high_s=tpot_s * forecast.tpot_errors.high,
            work_s=work_s,
        )

    def judge(self, ticket: Ticket, cheaper: Outlook | None) -> Verdict | None:
        """Ask admission; None where no replica is up yet: then it waits for one, whatever is promised."""
        replicas, promise = self.replicas, self.spec.promise
        if not replicas:
            return None
        outlook, ask = self.outlook(ticket, judged=math.isfinite(promise.ttft_s)), ticket.ask
        ticket.work_s = outlook.work_s
        if not ticket.tier:
            self.pressure.arrived(0, outlook.work_s, replicas)
        waited_s = self._now() - ask.arrived_s
        if not ticket.tier and math.isfinite(promise.ttft_s) and self.forecast.knows_ttft:
            # It waits for a place only while a first token in time is still likely.
            places = min(target.limit for target in self.answering)
            sent_s = self.forecast.ttft_s(ask.prompt_tokens, ticket.hit_tokens, 0.0, 0.0, places)
            sent_s *= self.forecast.ttft_errors.high
            ticket.until_s = min(ticket.until_s, ask.arrived_s + max(TTFT_PART * promise.ttft_s - sent_s, 0.0))
        verdict = judge(outlook, cheaper, promise, self.pressure, ticket.tier, waited_s, ask.output_tokens)
        if verdict.step == admission.SHED and self._idle():
            return TRIED
        return verdict

    def retry_after_s(self, tier: int) -> float:
        """Return when one that is refused should come back."""
        backlog_s = sum(ticket.work_s for ticket in self.queue.everyone()) / max(self.replicas, 1)
        return self.pressure.retry_after_s(tier, backlog_s)

    async def seat(self, ticket: Ticket) -> Seat:
        """Wait for a place at a replica.

        Raises
        ------
        RefusedError
            Too many wait, or it has waited as long as it may.
        MovedError
            The revision is gone.
        """
        if not any(self.queue.waiting(tier) for tier in range(ticket.tier + 1)) and self._lets_go(ticket):
            target = self._target_for(ticket)
            if target is not None:
                return self._take(ticket, target)
        if not self.queue.takes(ticket.tenant, ticket.tier):
            sentence = f"{len(self.queue):,} requests wait for model {ticket.ask.model} already; come back later"
            raise self._refused("queue.full", sentence, ticket)
        if not self.ready():
            self._call()
        loop = asyncio.get_running_loop()
        ticket.seat = loop.create_future()
        self.queue.push(ticket, front=bool(ticket.tried))
        left_s = max(ticket.until_s - self._now(), 0.0)
        timers = [
            loop.call_later(min(self.spec.wake_wait_s, left_s), self._expire, ticket, True),
            loop.call_later(left_s, self._expire, ticket, False),
        ]
        try:
            return await ticket.seat
        except asyncio.CancelledError:
            if ticket.seat.done() and not ticket.seat.cancelled() and ticket.seat.exception() is None:
                ticket.seat.result().leave()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self.queue.leave(ticket)

    def spare(self, ticket: Ticket, seat: Seat) -> Seat | None:
        """Return a place for asking a second replica, if nobody waits and one has no prompt to compute and less to do.

        Where all are busy lateness is no accident, and asking twice makes it worse for everybody.
        """
        if len(self.queue):
            return None
        others = [t for t in self._roomy(ticket) if t.load < seat.target.load and not t.prefilling + t.others_waiting]
        others = [target for target in others if target.replica.run not in ticket.tried]
        return self._take(ticket, self._chosen(ticket, others)) if others else None

    def pump(self) -> None:
        """Give places that are free to those that wait, in their order."""
        for tier in range(len(TIERS)):
            while (ticket := self.queue.peek(tier)) is not None:
                target = self._target_for(ticket) if self._lets_go(ticket) else None
                if target is None:
                    return  # what an interactive request waits for is not given to a batch one
                self.queue.leave(ticket)
                if ticket.seat is not None and not ticket.seat.done():
                    ticket.seat.set_result(self._take(ticket, target))

    def failed(self, target: Target) -> None:
        """Note that a replica failed a request; those that wait look again when it may be tried."""
        now_s, before = self._now(), target.breaker.state
        target.breaker.failed(now_s)
        self.tallies[target.replica.pool].failed += 1
        if target.breaker.state == "open":
            if before != "open":
                self.incidents.note(SHUT_OFF, self.spec.id, FAILURES)
            asyncio.get_running_loop().call_later(max(target.breaker.reopens_s - now_s, 0.0), self.pump)

    def adjust(self) -> None:
        """Set how much each replica is given at once, and leave out the late ones; every second or so."""
        for target in self.answering:
            target.limit = float(self.forecast.places_for(self.spec.promise.tpot_s * TPOT_PART, target.slots))
        for _ in leave_out_the_late([t for t in self.answering if t.replica.phase == READY], self._now()):
            self.incidents.note(SHUT_OFF, self.spec.id, LATE)

    def dissolve(self) -> None:
        """Send those that wait elsewhere: this revision is gone."""
        self.targets = []
        self.send_elsewhere()

    def send_elsewhere(self, adapters: Collection[str] | None = None) -> None:
        """Have those that wait choose a revision anew; given adapters, those that ask for one of ours that is not among them stay."""
        stay = () if adapters is None else dict(self.spec.adapters).keys() - set(adapters)
        for ticket in self.queue.everyone():
            if ticket.ask.model in stay:
                continue
            self.queue.leave(ticket)
            if ticket.seat is not None and not ticket.seat.done():
                ticket.seat.set_exception(MovedError())

    def _idle(self) -> bool:
        now_s = self._now()
        return not len(self.queue) and any(t.open_to(now_s) and not t.load for t in self.answering)

    def _lets_go(self, ticket: Ticket) -> bool:
        return ticket.tier == 0 or bool(ticket.tried) or self.pressure.lets_go(ticket.tier)

    def _roomy(self, ticket: Ticket) -> list[Target]:
        now_s = self._now()
        able = [target for target in self.answering if target.open_to(now_s)]
        fresh = [target for target in able if target.replica.run not in ticket.tried]
        part = BATCH_PART if ticket.tier else 1.0
        return [target for target in fresh or able if target.load < max(target.limit * part, 1.0)]

    def _target_for(self, ticket: Ticket) -> Target | None:
        roomy = self._roomy(ticket)
        return self._chosen(ticket, roomy) if roomy else None

    def _chosen(self, ticket: Ticket, roomy: list[Target]) -> Target:
        ask = ticket.ask
        hits = self.hits(ticket, roomy)
        chosen = choose(self.policy, roomy, hits, self.forecast, ask.prompt_tokens, ticket.session, self._turn)
        self._turn += 1
        ticket.hit_tokens = hits[chosen]
        return roomy[chosen]

    def _take(self, ticket: Ticket, target: Target) -> Seat:
        target.breaker.sent(self._now())
        if ticket.tier and not ticket.tried:
            self.pressure.arrived(ticket.tier, ticket.work_s, self.replicas)
        charged = PROMPT_WEIGHT * ticket.ask.prompt_tokens + OUTPUT_WEIGHT * self._output_of(ticket.ask)
        return Seat(self, target, ticket, ticket.hit_tokens, charged)

    def _output_of(self, ask: Ask) -> float:
        return min(self.output_tokens_mean, ask.output_tokens or self.output_tokens_mean)

    def _wait_s(self, ticket: Ticket, able: list[Target], ttft_s: float, output: float) -> float:
        """Return how long it would wait for a place: those before it and it itself, as fast as places come free."""
        ahead = sum(self.queue.waiting(tier) for tier in range(ticket.tier + 1))
        if not ahead and any(target.load < target.limit for target in able):
            return 0.0
        places = sum(target.limit for target in able)
        return (ahead + 1) * (ttft_s + output * self.forecast.tpot_s(places / len(able))) / max(places, 1.0)

    def _refused(self, code: str, sentence: str, ticket: Ticket) -> RefusedError:
        return RefusedError(503, "overloaded_error", code, sentence, retry_after_s=self.retry_after_s(ticket.tier))

    def _expire(self, ticket: Ticket, waking: bool) -> None:
        if ticket.seat is None or ticket.seat.done() or (waking and self.usable(set())):
            return
        model = ticket.ask.model
        if not self.ready():
            error = self._refused("endpoint.waking", f"no replica of model {model} is ready yet", ticket)
        elif not self.usable(set()):
            error = self._refused("engine.failed", f"every replica of model {model} fails for the time being", ticket)
        elif ticket.until_s < (ticket.ask.deadline_s or math.inf):
            error = self._refused(
                "admission.ttft", f"model {model} is busy: the first token would come later than promised", ticket
            )
        else:
            error = self._refused("queue.timeout", f"no replica of model {model} had room in time", ticket)
        ticket.seat.set_exception(error)
