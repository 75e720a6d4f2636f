"""A replica of the control plane, as the live service runs one: the same steps in the same order, with waits between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TypeVar

from plenum.control.commands import Command, TakenError
from plenum.control.controller import Controller, NotLeaderError, Outcome
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.model.errors import PlenumError
from plenum.ports.store import CommandKey, ConflictError, FencedError, Record, StoreError
from plenum.sim.chaos.schedule import Life, Process, Schedule

LEAD_S = 6.0
"""Life of the leader's lease; longer than live, so that a run of few events sees much happen."""
TICK_S, RETRY_S = 2.0, 1.0
MAX_TRIES = 8
BATCH = 16

T = TypeVar("T")
Reply = Callable[[Outcome | PlenumError], None]
Word = Callable[[SyncResponse | PlenumError], None]


class Replica(Process):
    """One replica.

    Parameters
    ----------
    make
        Makes its controller, anew for each life.
    """

    def __init__(self, schedule: Schedule, name: str, make: Callable[[str], Controller]) -> None:
        super().__init__(schedule, name)
        self.controller: Controller | None = None
        self.store_s = 0.01
        """Mean time that a call of the store takes."""
        self._make = make
        self._asked: deque[tuple[Command, Reply, int]] = deque()
        self._said: deque[tuple[SyncRequest, Word]] = deque()
        self._tick_at_s = self._lead_at_s = 0.0

    # -- what reaches it ---------------------------------------------------------------------------

    def ask(self, command: Command, reply: Reply) -> None:
        """Take a client's command in."""
        if self.up:
            self._asked.append((replace(command), reply, 0))  # a repeated request is another, as it is on the wire
            self.wake()

    def say(self, request: SyncRequest, reply: Word) -> None:
        """Take in what an agent says."""
        if self.up:
            self._said.append((request, reply))
            self.wake()

    # -- its life ----------------------------------------------------------------------------------

    def life(self) -> Life:
        """Lead if possible, and work: commands and agents' words first, then what follows from them."""
        c = self.controller = self._make(self.name)
        self._asked.clear()
        self._said.clear()
        self._tick_at_s = self._lead_at_s = 0.0
        while True:
            try:
                yield self.schedule.about(self.store_s)
                c.load()
                break
            except StoreError:
                yield RETRY_S
        while True:
            try:
                yield from self._lead(c)
                if not c.leading:
                    self._refuse_all(c)
                    c.catch_up()
                    yield -(LEAD_S / 3)
                elif not (yield from self._work(c)):
                    yield -self._idle_s(c)
            except (StoreError, ConflictError, FencedError) as error:
                self._refuse_all(c)
                if isinstance(error, StoreError):
                    yield RETRY_S
                yield from self._recover(c)

    def _recover(self, c: Controller) -> Life:
        yield self.schedule.about(self.store_s)
        try:
            c.catch_up()
        except StoreError:
            yield RETRY_S

    def _lead(self, c: Controller) -> Life:
        now_s = c.clock.monotonic()
        if now_s < self._lead_at_s and (c.leading or now_s < self._lead_at_s - LEAD_S / 3 + RETRY_S):
            return
        self._lead_at_s = now_s + LEAD_S / 3
        lease = yield from self._call(lambda: c.store.acquire(c.holder, LEAD_S, c.address))
        c.led(lease, now_s + LEAD_S)

    def _work(self, c: Controller) -> Generator[float, None, bool]:
        """Do one round; returns whether there was anything to do."""
        before = c.state.position
        busy = yield from self._commands(c)
        yield from self._words(c)
        timers = c.clock.monotonic() >= self._tick_at_s
        if timers:
            self._tick_at_s = c.clock.monotonic() + TICK_S
        yield from self._append(c, c.tend(timers=timers))
        yield from self._append(c, c.tend_endpoints(timers=timers))
        yield from self._append(c, c.learn())
        decision = c.decide()
        if decision is not None:
            yield from self._append(c, c.commit(decision))
        yield from self._append(c, c.reclaim(timers=timers))
        return busy or c.state.position > before

    def _commands(self, c: Controller) -> Generator[float, None, bool]:
        if not self._asked:
            return False
        asked = [self._asked.popleft() for _ in range(min(len(self._asked), BATCH))]
        try:
            keys = [command.key for command, _, _ in asked]
            used: dict[str, CommandKey] = yield from self._call(lambda: c.store.find_keys(keys))
            batch = c.propose([command for command, _, _ in asked], used)
            yield from self._append(c, batch.records, batch.keys)
        except (ConflictError, FencedError, StoreError) as error:
            self._again_or_fail(asked, error)
            raise
        later = {id(command) for command in batch.later}
        waiting = {id(command): (command, reply, tries) for command, reply, tries in asked}
        self._asked.extendleft(reversed([waiting[i] for i in later_in_order(asked, later)]))
        for command, outcome in batch.done:
            if isinstance(outcome, Exception) and not isinstance(outcome, PlenumError):
                raise outcome  # a fault of ours, which is to be seen
            waiting[id(command)][1](outcome)
        return True

    def _again_or_fail(self, asked: Sequence[tuple[Command, Reply, int]], error: PlenumError) -> None:
        for command, reply, tries in reversed(asked):
            if isinstance(error, ConflictError) and tries < MAX_TRIES:
                self._asked.appendleft((command, reply, tries + 1))
            else:
                reply(error)

    def _words(self, c: Controller) -> Life:
        """Write down what agents said, one request of each, and answer."""
        said, waits = [], deque[tuple[SyncRequest, Word]]()
        for request, reply in self._said:
            try:
                c.admit(request)
            except (NotLeaderError, TakenError) as error:
                reply(error)
                continue
            taken = any(other.agent == request.agent for other, _ in said)
            (waits if taken else said).append((request, reply))
        self._said = waits
        if not said:
            return
        try:
            yield from self._append(c, [record for request, _ in said for record in c.reported(request)])
        except (ConflictError, FencedError, StoreError) as error:
            for _, reply in said:
                reply(error)
            raise
        for request, reply in said:
            try:
                reply(c.answer(request))
            except (NotLeaderError, TakenError) as error:
                reply(error)

    def _append(self, c: Controller, records: Sequence[Record], keys: Sequence[CommandKey] = ()) -> Life:
        if not records and not keys:
            return
        position, term = c.state.position, c.term
        try:
            yield from self._call(lambda: c.store.append(records, expected=position, keys=keys, term=term))
        except (ConflictError, FencedError, StoreError) as error:
            c.failed(error)
            raise
        c.absorb(c.written(position, records))

    def _call(self, operation: Callable[[], T]) -> Generator[float, None, T]:
        """Call the store: the call takes place whatever becomes of the caller meanwhile."""
        s = self.schedule
        there_s, back_s = s.about(self.store_s), s.about(self.store_s)
        box: list[T | PlenumError] = []

        def perform() -> None:
            try:
                box.append(operation())
            except PlenumError as error:
                box.append(error)

        s.after(there_s, perform)
        yield there_s + back_s
        while not box:
            yield back_s
        outcome = box[0]
        if isinstance(outcome, PlenumError):
            raise outcome
        return outcome

    def _refuse_all(self, c: Controller) -> None:
        """Let nobody wait for a replica that does not lead."""
        try:
            c.require_lead()
        except NotLeaderError as error:
            asked, said = self._asked, self._said
            self._asked, self._said = deque(), deque()
            for _, reply, _ in asked:
                reply(error)
            for _, answer in said:
                answer(error)

    def _idle_s(self, c: Controller) -> float:
        now_s = c.clock.monotonic()
        return max(0.05, min(self._tick_at_s - now_s, self._lead_at_s - now_s, c.next_start_s()))


def later_in_order(asked: Sequence[tuple[Command, Reply, int]], later: set[int]) -> list[int]:
    """Return the identities of the commands that wait for a later batch, in the order in which they were asked."""
    return [id(command) for command, _, _ in asked if id(command) in later]
