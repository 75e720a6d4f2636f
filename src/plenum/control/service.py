"""The control plane, live: one task owns the state, takes commands and what agents say in batches, and reconciles.

Everything that touches the state runs on one event loop; only the store waits in threads. Commands that arrive while a batch is being
written go into the next: one durable write serves many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from plenum.control import events as ev
from plenum.control.commands import Command
from plenum.control.controller import MAX_BATCH, MAX_RECORDS, READ_AT_ONCE, Batch, Controller, NotLeaderError, Outcome
from plenum.control.decider import Decider
from plenum.control.endpoints.commands import check_report
from plenum.control.history import Verification, Why, compact, verify, why
from plenum.control.protocol import LogAnswer, LogWant, SyncRequest, SyncResponse
from plenum.control.questions import Utilisation, explained, utilisation
from plenum.control.state import State
from plenum.model.errors import PlenumError
from plenum.model.fleet import Fleet
from plenum.model.plan import Reason
from plenum.ports.clock import Clock
from plenum.ports.gateway import LoadReport, Table
from plenum.ports.nodes import LogChunk, NodeDriver
from plenum.ports.store import ConflictError, FencedError, Lease, Record, StoreError

LEAD_S = 3.0
"""Life of the leader's lease; another replica takes over at most so long after a leader falls silent."""

TICK_S = 1.0
"""How often what depends on the time is looked at."""

MAX_QUEUE = 10_000
"""Commands waiting to be decided; beyond, they are refused at once."""

MAX_TRIES = 8
"""Times that a command is decided anew because the log moved on."""

MAX_RECENT = 10_000
"""Newest records kept for watchers; those further behind read from the store."""

MAX_WANTS = 1_000
"""Pieces of logs asked of one agent and not yet answered."""

WATCH_AT_ONCE = 500

RETENTION_S = 90 * 86_400.0
"""Age at which records that are not audit facts may go."""

KEYS_S = 7 * 86_400.0
"""Age at which a command's key may be forgotten."""

COMPACT_EVERY_S = 6 * 3_600.0

FINISH_S = 10.0
"""Longest that a round of work which has begun is waited for at the end."""

HEARTBEAT_S = 10.0
LOG_WAIT_S = 10.0
RETRY_S = 0.5

LOST = (ConflictError, FencedError, StoreError, NotLeaderError)
"""Why a write may come to nothing without anybody's fault."""


class BusyError(PlenumError):
    """Too much is being asked at once."""

    code = "control.busy"


@dataclass(slots=True)
class _Asked:
    command: Command
    done: asyncio.Future[Outcome]
    tries: int = 0


@dataclass(slots=True)
class _Synced:
    request: SyncRequest
    done: asyncio.Future[None]


class Service:
    """A replica of the control plane.

    Parameters
    ----------
    read_fleet
        Reads a Fleet manifest; for questions about the past, which have deciders of their own.
    retention_s
        Age at which records that are not audit facts are removed.
    on_error
        Told, in a sentence, what went wrong and was mended or is tried again.
    keep_recent
        Newest records kept for watchers.
    heartbeat_s
        How often watchers get a sign of life while nothing happens.
    log_wait_s
        Longest that a node's agent is waited for when it is asked for a log.
    """

    def __init__(
        self,
        controller: Controller,
        read_fleet: Callable[[str], Fleet],
        *,
        retention_s: float = RETENTION_S,
        on_error: Callable[[str], None] = lambda sentence: None,
        keep_recent: int = MAX_RECENT,
        heartbeat_s: float = HEARTBEAT_S,
        log_wait_s: float = LOG_WAIT_S,
    ) -> None:
        self.controller = controller
        self.embedded: dict[str, NodeDriver] = {}
        """Agent to driver, for those that run inside this process: their logs are read directly."""
        self.ready = False
        self.on_records: list[Callable[[Record], None]] = []
        """Called with every record as it is taken in; must not block."""
        self.on_decision: Callable[[float, int], None] = lambda seconds, bound: None
        self._read_fleet = read_fleet
        self._retention_s = retention_s
        self._on_error = on_error
        self._heartbeat_s = heartbeat_s
        self._log_wait_s = log_wait_s
        self._following = False
        self._failure: BaseException | None = None
        self._asked: deque[_Asked] = deque()
        self._synced: deque[_Synced] = deque()
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self._orders_moved: dict[str, asyncio.Event] = {}
        self._wants: dict[str, list[LogWant]] = {}
        self._answers: dict[tuple[str, str], asyncio.Future[LogAnswer]] = {}
        """By agent, too: none can answer for another."""
        self._next_want = 0
        self._recent: deque[Record] = deque(maxlen=keep_recent)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = self._stopping = False
        self._pausing = False
        self._holding = False
        self._tick_at = 0.0
        self._lead_at = 0.0
        self._renewing: asyncio.Future[Lease | None] | None = None
        controller.on_record = self._note

    # -- what it shows -----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state; to be read on the event loop's thread, between two awaits."""
        return self.controller.state

    @property
    def clock(self) -> Clock:
        """The clock that it goes by."""
        return self.controller.clock

    @property
    def leading(self) -> bool:
        """Whether this replica leads."""
        return self.controller.leading

    @property
    def following(self) -> bool:
        """Whether another replica led when this one last asked to."""
        return self._following and not self.leading

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the state and begin.

        Raises
        ------
        PlenumError
            The log cannot be read.
        """
        await asyncio.to_thread(self.controller.load)
        works = (self._run, self._keep_lead, self._follow_others, self._compact)
        self._tasks = [asyncio.create_task(self._guarded(w())) for w in works]
        self.ready = True

    async def stop(self) -> None:
        """Finish what was begun, keep a snapshot, give leadership up."""
        await self.end_watches()
        self.ready, self._stopping = False, True
        self._wake.set()
        for task in self._tasks[1:]:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=FINISH_S)
            self._tasks[0].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._renewing is not None:  # or it would take the lead again after it was given up
            await asyncio.gather(self._renewing, return_exceptions=True)
        self._refuse_waiting(BusyError("the control plane is shutting down; ask again in a moment"))
        if self.controller.term and self._failure is None:
            await asyncio.to_thread(self._leave)

    async def end_watches(self) -> None:
        """Let every :meth:`watch` end."""
        self._closing = True
        async with self._moved:
            self._moved.notify_all()

    async def broken(self) -> None:
        """Wait until a fault of ours has stopped the work for good, and raise it; only a new start helps then."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._failure is not None)
        assert self._failure is not None
        raise self._failure

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a part of the work; where it breaks, say so, and let nobody wait for it."""
        try:
            await work
        except Exception as error:
            self._failure, self.ready = error, False
            self._on_error(f"the control plane has stopped working: {error!r}")
            self._refuse_waiting(self._stopped())
            async with self._moved:
                self._moved.notify_all()

    def _stopped(self) -> PlenumError:
        return BusyError("the control plane has stopped working; what was asked last may have been done all the same")

    def _refuse_waiting(self, error: PlenumError) -> None:
        _fail((*self._asked, *self._synced), error)
        self._asked.clear()
        self._synced.clear()

    def _leave(self) -> None:
        try:
            self.controller.save_snapshot(force=True)
            self.controller.store.release(self.controller.holder)
        except PlenumError as error:
            self._on_error(f"leaving without a snapshot: {error.sentence}")

    @property
    def holding(self) -> bool:
        """Whether nothing new is placed yet, as what decides is being compiled or loaded."""
        return self._holding

    def hold_decisions(self, on: bool) -> None:
        """Place nothing new for now, or again; commands are taken and what runs is looked after in any case."""
        self._holding = on
        self._wake.set()

    async def stop_work(self, agent: str, timeout_s: float) -> None:
        """Order an agent's runs to end, start nothing more, and wait until they have; they wait for the next start of the control plane.

        Raises
        ------
        PlenumError
            Not the leader, or the store failed.
        """
        self._pausing = True

        def stop(state: State, now: float) -> list[ev.Event]:
            units = {id(unit): (job, unit) for job, unit in state.held.get(agent, {}).values() if not unit.stop}
            return [
                ev.UnitStopped(job=job.id, unit=unit.key, attempt=unit.attempt, why="shutdown")
                for job, unit in units.values()
            ]

        await self.execute(Command(subject=f"agent/{agent}", run=stop))
        end = self.clock.monotonic() + timeout_s
        while self.state.held.get(agent) and self.clock.monotonic() < end:
            async with self._moved:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self._moved.wait()

    # -- commands ----------------------------------------------------------------------------------

    async def execute(self, command: Command) -> Outcome:
        """Carry a command out; when this returns, what it wrote is durable.

        Raises
        ------
        PlenumError
            It was refused, this replica does not lead, or the store does not answer (then it may have been carried out all the
            same: ask again with the same key).
        """
        self._require_work()
        if len(self._asked) >= MAX_QUEUE:
            raise BusyError(f"{MAX_QUEUE:,} commands are waiting; try again in a second")
        asked = _Asked(command, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._wake.set()
        return await asked.done

    def _require_work(self) -> None:
        if self._failure is not None:
            raise self._stopped()
        self._require_term()

    def _require_term(self) -> None:
        """Raise NotLeaderError if another replica leads. A lease of our own that lapsed is asked for again before anything is refused."""
        if not self.controller.term:
            self.controller.require_lead()

    def report(self, report: LoadReport) -> None:
        """Take in what a gateway saw; soft state, so nothing is written, and the endpoints are looked after at once.

        Raises
        ------
        NotLeaderError
            Another replica leads; it is to be told.
        FieldError
            A figure cannot be meant.
        """
        self.controller.require_lead()
        check_report(report)
        self.controller.loads.take(report, self.clock.monotonic())
        self._wake.set()

    def dry_run(self, command: Command) -> tuple[ev.Event, ...]:
        """Return what a command would write now.

        Raises
        ------
        PlenumError
            It would be refused.
        """
        return tuple(command.decide(self.state, self.clock.now()))

    # -- agents ------------------------------------------------------------------------------------

    async def sync(self, request: SyncRequest) -> SyncResponse:
        """Take in what an agent says, then wait for news for at most ``wait_s``, and answer.

        Raises
        ------
        TakenError
            Another agent of this name is at work.
        PlenumError
            As :meth:`execute`.
        """
        self._require_work()
        self._require_term()
        if self.leading:
            self.controller.admit(request)
        for answer in request.logs:
            waiting = self._answers.get((request.agent, answer.id))
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        synced = _Synced(request, asyncio.get_running_loop().create_future())
        self._synced.append(synced)
        self._wake.set()
        await synced.done
        moved = self._orders_moved.setdefault(request.agent, asyncio.Event())
        if request.wait_s > 0 and not self._has_news(request):
            moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(request.wait_s):
                    await moved.wait()
        response = self.controller.answer(request)
        wants = tuple(self._wants.pop(request.agent, ()))
        return msgspec.structs.replace(response, wants=wants) if wants else response

    async def table(self, version: int, wait_s: float) -> Table | None:
        """Return what gateways are told once it is another than of a version; None: it is not for ``wait_s``.

        Raises
        ------
        NotLeaderError
            This replica does not lead, and may be behind.
        """
        self._require_work()
        self.controller.require_lead()
        end = self.clock.monotonic() + wait_s
        while self.state.served_version == version and not self._closing:
            left_s = end - self.clock.monotonic()
            if left_s <= 0:
                return None
            await self._move(self.state.position, min(left_s, self._heartbeat_s))
        return self.controller.table()

    def _has_news(self, request: SyncRequest) -> bool:
        agent = request.agent
        return request.version != self.state.agent_version.get(agent, 0) or bool(self._wants.get(agent))

    # -- reading -----------------------------------------------------------------------------------

    async def read(self, after: int, limit: int, *, subject: str = "", tenant: str | None = None) -> list[Record]:
        """Return records of the log above a position, oldest first."""
        store = self.controller.store
        return await asyncio.to_thread(store.read, after, limit, subject=subject, tenant=tenant)

    async def watch(self, after: int, *, subject: str = "", tenant: str | None = None) -> AsyncIterator[Record | None]:
        """Yield records above a position as they come; None from time to time while there are none.

        Ends when the service stops; the reader can go on elsewhere from the last position it got. Nothing is buffered for it: one that
        is slow reads older records from the store.
        """
        position = after
        while not self._closing:
            head = self.state.position
            if position < head and not self._reaches(position):
                records = await self.read(position, WATCH_AT_ONCE, subject=subject, tenant=tenant)
                last = records[-1].position if records else position
                # What was written meanwhile may be among them; what was not is still to come.
                position = last if len(records) == WATCH_AT_ONCE else max(head, last)
            else:
                fresh = [r for r in self._recent if r.position > position]
                records = [r for r in fresh if subject in ("", r.subject) and tenant in (None, r.tenant)]
                position = max(head, position)
            for record in records:
                yield record
            if self.state.position <= position and not await self._move(position):
                yield None

    def _reaches(self, position: int) -> bool:
        """Whether the newest records kept are all those above a position."""
        recent = self._recent
        return bool(recent) and recent[-1].position == self.state.position and recent[0].position <= position + 1

    async def _move(self, position: int, wait_s: float | None = None) -> bool:
        """Wait until the log is above a position; False: it was not for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._heartbeat_s if wait_s is None else wait_s), self._moved:
                while self.state.position <= position and not self._closing:
                    await self._moved.wait()
                return True
        return False

    async def explain(self, job: str) -> Reason:
        """Say why a job waits, tried on the present state.

        Raises
        ------
        AbsentError
            There is no such job.
        """
        if self._holding and job in self.state.waiting:
            sentence = (
                f"{job} waits: this control plane has just started, and compiles what decides; ask again in a minute."
            )
            return Reason(workload=job, code="wait.starting", constraint="", sentence=sentence)
        return explained(self.state, self.controller.decider, job, self.clock.now())

    async def why(self, job: str, at: float | None = None, position: int | None = None) -> Why:
        """Replay the last decision about a job (up to a time or a position) with the code of now.

        Raises
        ------
        AbsentError
            No decision about it is in the log.
        """
        decider = Decider(self._read_fleet, self.controller.decider.policy)
        return await asyncio.to_thread(why, self.controller.store, decider, job, at, position)

    async def verify(self) -> Verification:
        """Rebuild the state from the log and compare it, byte for byte, with the one in use."""
        here = self.state.snapshot()
        return await asyncio.to_thread(verify, self.controller.store, here)

    async def backup(self, path: str) -> None:
        """Write a consistent copy of the log to a new file."""
        await asyncio.to_thread(self.controller.store.backup, path)

    def utilisation(self) -> Utilisation:
        """Return what is in use, by whom, and what waits."""
        return utilisation(self.state, self.clock.now())

    async def logs(self, node: str, run: str, stream: str, offset: int, limit: int) -> LogChunk:
        """Return a piece of what a run wrote, asked of the node it ran on.

        Raises
        ------
        PlenumError
            The node is gone, does not answer, or has no such log.
        """
        agent = self.state.agent_of(node)
        driver = self.embedded.get(agent)
        if driver is not None:
            return await asyncio.to_thread(driver.logs, run, stream, offset, limit)
        if not agent:
            raise LogsError(f"node {node} is gone, and its logs with it")
        if len(self._wants.get(agent, ())) >= MAX_WANTS:
            raise BusyError(
                f"{MAX_WANTS:,} pieces of logs are asked of the agent of node {node}; try again in a second"
            )
        self._next_want += 1
        want = LogWant(id=f"{self._next_want}", run=run, stream=stream, offset=offset, limit=limit)
        waiting = self._answers[agent, want.id] = asyncio.get_running_loop().create_future()
        self._wants.setdefault(agent, []).append(want)
        self._orders_moved.setdefault(agent, asyncio.Event()).set()
        try:
            async with asyncio.timeout(self._log_wait_s):
                answer = await waiting
        except TimeoutError:
            raise LogsError(f"the agent of node {node} does not answer; try again") from None
        finally:
            del self._answers[agent, want.id]
            if want in (wanted := self._wants.get(agent, [])):
                wanted.remove(want)
        if answer.chunk is None:
            raise LogsError(answer.error)
        return answer.chunk

    # -- the loop ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Lead if possible, and work: commands and agents' words first, then what follows from them."""
        while not self._stopping:
            try:
                await self._lead()
                if not self.leading:
                    self._refuse_all()
                    await self._pause(RETRY_S)
                    continue
                if not await self._work():
                    await self._pause(self._idle_s())
            except LOST as error:
                self._on_error(error.sentence)
                self._refuse_all()
                await self._recover(error)

    async def _lead(self) -> None:
        """Ask for the lead, now and then, while another has it."""
        controller, now = self.controller, self.clock.monotonic()
        if controller.leading or now < self._lead_at:
            return
        self._lead_at = now + RETRY_S
        lease = await asyncio.to_thread(controller.store.acquire, controller.holder, LEAD_S, controller.address)
        self._following = lease is None
        controller.led(lease, now + LEAD_S)

    async def _keep_lead(self) -> None:
        """Renew the lease beside the loop, so that a round which takes long does not cost the lead."""
        controller = self.controller
        while not self._stopping:
            await asyncio.sleep(LEAD_S / 3)
            if not controller.leading:
                continue
            term, asked_at = controller.term, self.clock.monotonic()
            self._renewing = asyncio.ensure_future(
                asyncio.to_thread(controller.store.acquire, controller.holder, LEAD_S, controller.address)
            )
            try:
                lease = await asyncio.shield(self._renewing)
            except StoreError:  # the loop meets it too; the lease lapses if it lasts
                continue
            if lease is not None and lease.term == term == controller.term:
                controller.led(lease, asked_at + LEAD_S)
            else:
                controller.doubt()
                self._wake.set()

    async def _work(self) -> bool:
        """Do one round; returns whether there was anything to do."""
        controller = self.controller
        before = controller.state.position
        busy = await self._commands()
        await self._words()
        timers = self.clock.monotonic() >= self._tick_at
        if timers:
            self._tick_at = self.clock.monotonic() + TICK_S
        await self._append(controller.tend(timers=timers))
        await self._append(controller.tend_endpoints(timers=timers))
        await self._append(controller.learn())
        started = self.clock.monotonic()
        decision = None if self._pausing or self._holding else controller.decide()
        if decision is not None:
            self.on_decision(self.clock.monotonic() - started, len(decision.bound))
            await self._append(controller.commit(decision))
        if not (self._pausing or self._holding):
            await self._append(controller.reclaim(timers=timers))
        controller.save_snapshot()
        return busy or controller.state.position > before

    async def _commands(self) -> bool:
        if not self._asked:
            return False
        asked = [self._asked.popleft() for _ in range(min(len(self._asked), 2 * MAX_BATCH))]
        by_command = {id(a.command): a for a in asked}
        keys = [a.command.key for a in asked if a.command.key]
        try:
            used = await asyncio.to_thread(self.controller.store.find_keys, keys) if keys else {}
            batch = self.controller.propose([a.command for a in asked], used)
            await self._append(batch.records, batch)
        except LOST as error:
            self._again_or_fail(asked, error)
            raise
        except BaseException:  # a fault of ours, or the end: whoever asked must not wait for ever
            _fail(asked, self._stopped())
            raise
        self._asked.extendleft(reversed([by_command[id(command)] for command in batch.later]))
        for command, outcome in batch.done:
            waiting = by_command[id(command)].done
            if waiting.done():
                continue
            if isinstance(outcome, Exception):
                waiting.set_exception(outcome)
            else:
                waiting.set_result(outcome)
        return True

    def _again_or_fail(self, asked: list[_Asked], error: PlenumError) -> None:
        """Decide again after a conflict; say so where the outcome is unknown or somebody else leads."""
        for waiting in reversed(asked):
            waiting.tries += 1
            if isinstance(error, ConflictError) and waiting.tries < MAX_TRIES:
                self._asked.appendleft(waiting)
            elif not waiting.done.done():
                waiting.done.set_exception(error)

    async def _words(self) -> None:
        """Write down what agents said, all that wait in one go, and let them have their answers."""
        # Of each agent one at a time: what a second request says anew is judged once the first is in the log.
        first: dict[str, _Synced] = {}
        for waiting in self._synced:
            first.setdefault(waiting.request.agent, waiting)
        self._synced = deque(waiting for waiting in self._synced if first[waiting.request.agent] is not waiting)
        synced: list[_Synced] = []
        records: list[Record] = []
        for waiting in first.values():
            try:
                self.controller.admit(waiting.request)
                records += self.controller.reported(waiting.request)
                synced.append(waiting)
            except PlenumError as error:
                _fail((waiting,), error)
            except Exception as error:  # what one agent says must not end the work for all
                self._on_error(f"what agent {waiting.request.agent} said could not be taken in: {error!r}")
                _fail((waiting,), self._stopped())
        if not synced:
            return
        try:
            await self._append(records)
        except BaseException as error:
            _fail(synced, error if isinstance(error, PlenumError) else self._stopped())
            raise
        for waiting in synced:
            if not waiting.done.done():
                waiting.done.set_result(None)

    async def _append(self, records: list[Record], batch: Batch | None = None) -> None:
        """Write records decided on the present state, and take them in; a long list of facts in several pieces, a batch in one."""
        keys = batch.keys if batch else []
        if batch is None and len(records) > MAX_RECORDS:
            for i in range(0, len(records), MAX_RECORDS):
                await self._append(records[i : i + MAX_RECORDS])
            return
        if not records and not keys:
            return
        controller = self.controller
        if not controller.term:
            raise NotLeaderError(controller.state.address)
        position = controller.state.position
        versions = dict(controller.state.agent_version)
        try:
            await asyncio.to_thread(
                controller.store.append, records, expected=position, keys=keys, term=controller.term
            )
        except LOST as error:
            controller.failed(error)
            raise
        # If the answer took long, they may have been read back from the log meanwhile, as another's would be.
        written = controller.written(position, records)
        controller.absorb(record for record in written if record.position > controller.state.position)
        for agent, version in controller.state.agent_version.items():
            if versions.get(agent) != version and agent in self._orders_moved:
                self._orders_moved[agent].set()
        async with self._moved:
            self._moved.notify_all()

    async def _recover(self, error: PlenumError) -> None:
        """After a failed write: see what the log holds now."""
        if isinstance(error, StoreError):
            await asyncio.sleep(RETRY_S)
        try:
            while await self._catch_up():
                pass
        except PlenumError as again:
            self._on_error(again.sentence)

    async def _catch_up(self) -> bool:
        """Take in the next records that others have written, if there are any."""
        position = self.state.position
        records = await asyncio.to_thread(self.controller.store.read, position, READ_AT_ONCE)
        gone = not records and await asyncio.to_thread(self.controller.store.base) > position
        if self.state.position == position and (gone or not self.controller.follow(records)):
            self.controller.load()  # what came next was compacted away
        if self.state.position > position:
            async with self._moved:
                self._moved.notify_all()
        return bool(records)

    async def _follow_others(self) -> None:
        """While another replica leads, take in what it writes."""
        store = self.controller.store
        while True:
            if self.controller.leading:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                if await asyncio.to_thread(store.wait, self.state.position, LEAD_S / 3) and not self.controller.leading:
                    await self._catch_up()
            except PlenumError as error:
                self._on_error(error.sentence)
                await asyncio.sleep(RETRY_S)

    async def _compact(self) -> None:
        """From time to time remove what is old, while leading."""
        while True:
            await asyncio.sleep(COMPACT_EVERY_S)
            if self.leading:
                now = self.clock.now()
                try:
                    await asyncio.to_thread(compact, self.controller.store, now - self._retention_s, now - KEYS_S)
                except PlenumError as error:
                    self._on_error(f"old records were not removed: {error.sentence}")

    def _refuse_all(self) -> None:
        """Let nobody wait for a replica that does not lead."""
        try:
            self.controller.require_lead()
        except PlenumError as error:
            self._refuse_waiting(error)

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if self._asked or self._synced:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _idle_s(self) -> float:
        """How long there is nothing to do unless somebody asks."""
        now = self.clock.monotonic()
        until_start = self.controller.next_start_s()
        return max(0.01, min(self._tick_at - now, until_start))

    def _note(self, record: Record) -> None:
        if self._recent and record.position != self._recent[-1].position + 1:
            self._recent.clear()  # what is between was not taken in one by one; watchers read it from the store
        self._recent.append(record)
        for listener in self.on_records:
            listener(record)


def _fail(waiting: Iterable[_Asked | _Synced], error: Exception) -> None:
    """Let nobody wait any longer who still does."""
    for each in waiting:
        if not each.done.done():
            each.done.set_exception(error)


class LogsError(PlenumError):
    """A log cannot be had."""

    code = "logs.absent"
