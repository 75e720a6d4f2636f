"""The live service: one loop over a store in memory that can be slow, fail and be written by others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.clock import SystemClock
from plenum.adapters.manifests.fleet import parse_fleet
from plenum.control import commands
from plenum.control import events as ev
from plenum.control.agent import Agent
from plenum.control.commands import Command, TakenError
from plenum.control.controller import Controller, NotLeaderError, Outcome
from plenum.control.hardware import node_facts
from plenum.control.protocol import LogAnswer, SyncRequest, SyncResponse
from plenum.control.service import MAX_QUEUE, BusyError, LogsError, Service
from plenum.model.errors import FieldError
from plenum.model.process import Process, Simulated
from plenum.model.workload import Kind, Request, Role, Workload
from plenum.ports.nodes import EXITED, RUNNING, LogChunk, Report
from plenum.ports.store import FencedError, Record, StoreError
from plenum.sim.nodes import SimulatedDriver
from plenum.sim.store import AFTER, BEFORE, MemoryStore

T = TypeVar("T")

FLEET = """
apiVersion: plenum.dev/v1alpha1
kind: Fleet
metadata: {name: hall}
spec: {templates: {box: {budgets: {cpu: 4}}}, nodes: [{names: [n1, n2], template: box}]}
"""


class Disk:
    """What goes wrong with a store: asked before each operation."""

    def __init__(self) -> None:
        self.appends = 0
        self.next = ""
        """What happens to the next append."""
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, operation: str) -> str:
        if operation != "append":
            return ""
        self.appends += 1
        self.gate.wait(PATIENCE_S)
        happens, self.next = self.next, ""
        if happens == "bug":
            raise RuntimeError("a fault of ours")
        return happens


class SlowStore(MemoryStore):
    """A store whose readers can be held up without holding up those who write."""

    def __init__(self, clock: Jump, disk: Disk) -> None:
        super().__init__(clock, disk)
        self.reads = 0
        self.gate = threading.Event()
        self.gate.set()

    def read(self, after: int, limit: int, *, subject: str = "", tenant: str | None = None) -> list[Record]:
        self.reads += 1
        self.gate.wait(PATIENCE_S)
        return super().read(after, limit, subject=subject, tenant=tenant)


class Jump:
    """A clock for leases that can be set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._clock = SystemClock()

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.ahead_s


class World:
    """A store, its faults, and services over it."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.clock = Jump()
        self.store = SlowStore(self.clock, self.disk)
        self.errors: list[str] = []

    @asynccontextmanager
    async def service(self, holder: str = "a", *, leads: bool = True, **more: Any) -> AsyncIterator[Service]:
        controller = Controller(self.store, SystemClock(), parse_fleet, holder=holder, address=f"https://{holder}:1")
        service = Service(controller, parse_fleet, on_error=self.errors.append, **more)
        await service.start()
        try:
            await until(lambda: service.leading or not leads)
            yield service
        finally:
            self.disk.gate.set()
            await service.stop()


def run(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * PATIENCE_S):
            await test(World())

    asyncio.run(limited())


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.005)


async def outcome(awaitable: Awaitable[T]) -> T | BaseException:
    return (await asyncio.gather(awaitable, return_exceptions=True))[0]


def tenant(name: str, key: str = "", digest: str = "") -> Command:
    return commands.apply_tenant(name, {}).by("test", key=key, digest=digest)


def task(name: str, tenant: str = "red", key: str = "", duration_s: float = 0.0) -> Command:
    workload = Workload(
        name=name,
        kind=Kind.TASK,
        tenant=tenant,
        roles=(Role(name="worker", replicas=1, request=Request(cpu_milli=1000)),),
    )
    process = Process(simulated=Simulated(duration_s=duration_s))
    return commands.apply_job(workload, process, {"name": name}).by("test", key=key, digest=name)


def fleet() -> Command:
    return commands.apply_fleet("hall", FLEET, node_facts(parse_fleet(FLEET)), driver="agent", agent="ag")


# -- commands ---------------------------------------------------------------------------------------


def test_commands_that_wait_together_are_written_together_and_durable_when_acknowledged() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            before = world.disk.appends

            async def submit(i: int) -> None:
                done = await service.execute(task(f"t{i}"))
                assert world.store.head() >= done.position
                assert world.store.read(done.position - 1, 1)[0].subject == f"job/red/t{i}"

            await asyncio.gather(*(submit(i) for i in range(300)))
            assert len(service.state.live) == 300
            assert world.disk.appends - before < 30

    run(test)


def test_a_refusal_is_that_of_one_command_alone_and_so_is_a_fault_of_ours() -> None:
    def broken(state: object, now: float) -> list[ev.Event]:
        raise RuntimeError("a fault of ours")

    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            wrong = Command(subject="job/x", run=broken, alone=False)
            asked = [service.execute(c) for c in (task("a"), task("b", tenant="blue"), wrong, task("c"))]
            a, b, fault, c = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(b, FieldError)
            assert isinstance(fault, RuntimeError)
            assert not isinstance(a, BaseException)
            assert not isinstance(c, BaseException)
            assert service.ready

    run(test)


def test_a_command_with_a_key_is_carried_out_once() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            twice = await asyncio.gather(*(service.execute(task("a", key="k")) for _ in range(2)))
            again = await service.execute(task("a", key="k"))
            assert sorted(done.replayed for done in (*twice, again)) == [False, True, True]
            assert len({done.position for done in (*twice, again)}) == 1
            with pytest.raises(FieldError, match="used before for another request"):
                await service.execute(task("b", key="k"))
        async with world.service("b") as service:
            assert (await service.execute(task("a", key="k"))).replayed

    run(test)


def test_two_requests_with_one_key_at_the_same_time_are_not_both_carried_out() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            asked = [service.execute(task(name, key="k")) for name in "ab"]
            done = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(each, FieldError) for each in done) == 1
            assert len(service.state.jobs) == 1

    run(test)


@pytest.mark.parametrize(("fault", "written"), [(BEFORE, False), (AFTER, True)])
def test_where_the_store_fails_the_outcome_is_unknown_and_the_key_tells(fault: str, written: bool) -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            world.disk.next = fault
            with pytest.raises(StoreError):
                await service.execute(task("a", key="k"))
            await until(lambda: service.state.position == world.store.head())
            assert ("red/a" in service.state.jobs) is written
            again = await service.execute(task("a", key="k"))
            assert again.replayed is written
            assert world.errors

    run(test)


def test_what_another_wrote_meanwhile_is_taken_in_and_the_command_decided_anew() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            world.disk.gate.clear()
            asked = asyncio.create_task(service.execute(tenant("red")))
            await until(lambda: world.disk.appends)
            await until(lambda: not world.disk.gate.is_set())
            # Beneath the gate, where faults are not asked about: as if another had been quicker.
            fault, world.store.fault = world.store.fault, None
            other = ev.record_of(ev.TenantApplied(name="blue"), 0.0, "other")
            world.store.append([other], expected=world.store.head())
            world.store.fault = fault
            world.disk.gate.set()
            done = await asked
            assert [r.subject for r in world.store.read(done.position - 2, 2)] == ["tenant/blue", "tenant/red"]
            assert set(service.state.tenants) == {"red", "blue"}

    run(test)


def test_a_leader_that_lost_its_lease_writes_nothing_more_and_names_the_next() -> None:
    async def test(world: World) -> None:
        async with world.service("a") as first, world.service("b", leads=False) as second:
            await first.execute(tenant("red"))
            world.clock.ahead_s += 3_600
            lease = world.store.acquire("b", 3_600, "https://b:1")
            assert lease is not None
            error = await outcome(first.execute(tenant("blue")))
            assert isinstance(error, FencedError)
            await until(lambda: second.leading)
            await until(lambda: first.state.address == "https://b:1")
            with pytest.raises(NotLeaderError) as caught:
                await first.execute(tenant("blue"))
            assert caught.value.address == "https://b:1"
            await second.execute(tenant("green"))
            await until(lambda: first.state.position == second.state.position)
            assert set(first.state.tenants) == {"red", "green"}

    run(test)


def test_one_that_ends_hands_over_at_once() -> None:
    async def test(world: World) -> None:
        async with world.service("b", leads=False) as second:
            async with world.service("a", leads=False) as first:
                await until(lambda: first.leading or second.leading)
                leader, other = (first, second) if first.leading else (second, first)
                with pytest.raises(NotLeaderError):
                    await other.execute(tenant("red"))
                if leader is second:
                    return
            await until(lambda: second.leading)
            await second.execute(tenant("red"))

    run(test)


def test_more_than_may_wait_is_refused_at_once() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            world.disk.gate.clear()
            first = asyncio.create_task(service.execute(tenant("red")))
            before = world.disk.appends
            await until(lambda: world.disk.appends > before)
            asked = [asyncio.create_task(service.execute(tenant("blue"))) for _ in range(MAX_QUEUE)]
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await service.execute(tenant("green"))
            world.disk.gate.set()
            await first
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    run(test)


def test_who_gives_up_waiting_stops_nothing() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            world.disk.gate.clear()
            before = world.disk.appends
            asked = asyncio.create_task(service.execute(tenant("red")))
            await until(lambda: world.disk.appends > before)
            queued = asyncio.create_task(service.execute(tenant("blue")))
            await asyncio.sleep(0)
            for each in (asked, queued):
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
            world.disk.gate.set()
            await service.execute(tenant("green"))
            assert set(service.state.tenants) == {"red", "blue", "green"}

    run(test)


def test_a_fault_of_ours_in_the_loop_stops_it_for_good_and_says_so() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            watched = asyncio.create_task(service.broken())
            world.disk.next = "bug"
            with pytest.raises(BusyError, match="has stopped working"):
                await service.execute(tenant("red"))
            with pytest.raises(BusyError):
                await service.execute(tenant("blue"))
            assert isinstance(await outcome(watched), RuntimeError)
            assert not service.ready
            assert "a fault of ours" in world.errors[-1]

    run(test)


def test_commands_that_still_wait_when_it_stops_are_told() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            world.disk.gate.clear()
            before = world.disk.appends
            asked = [asyncio.create_task(service.execute(tenant("red")))]
            await until(lambda: world.disk.appends > before)
            asked.append(asyncio.create_task(service.execute(tenant("blue"))))
            await asyncio.sleep(0)
            stopping = asyncio.create_task(service.stop())
            await asyncio.sleep(0)
            world.disk.gate.set()
            begun, queued = await asyncio.gather(*asked, return_exceptions=True)
            await stopping
            assert isinstance(begun, Outcome)
            assert isinstance(queued, Outcome | BusyError)
            assert [r.subject for r in world.store.read(begun.position - 1, 1)] == ["tenant/red"]

    run(test)


# -- watching ---------------------------------------------------------------------------------------


async def take(watched: AsyncIterator[Record | None], last: int) -> list[Record]:
    found = []
    async for record in watched:
        if record is not None:
            found.append(record)
            if record.position >= last:
                break
    return found


@pytest.mark.parametrize("keep_recent", [1, 7, 10_000])
def test_watchers_miss_nothing_and_get_nothing_twice_while_others_write(keep_recent: int) -> None:
    async def test(world: World) -> None:
        async with world.service(keep_recent=keep_recent) as service:
            await asyncio.gather(*(service.execute(tenant(name)) for name in ("red", "blue")))
            writing = [
                asyncio.create_task(service.execute(task(f"t{i}", tenant=("red", "blue")[i % 2]))) for i in range(120)
            ]
            whole = asyncio.create_task(take(service.watch(0), 123))
            reds = asyncio.create_task(take(service.watch(0, tenant="red"), 10**9))
            one = asyncio.create_task(take(service.watch(0, subject="job/blue/t1"), 1))
            await asyncio.gather(*writing)
            last = service.state.position
            late = asyncio.create_task(take(service.watch(last - 5), last))
            assert [r.position for r in await late] == list(range(last - 4, last + 1))
            assert [r.position for r in (await whole)[:123]] == list(range(1, 124))
            assert [r.subject for r in await one] == ["job/blue/t1"]
            await service.end_watches()
            wanted = [r.position for r in world.store.read(0, 10_000, tenant="red")]
            assert [r.position for r in await reds] == wanted

    run(test)


def test_what_is_written_while_a_watcher_reads_reaches_it_once() -> None:
    async def test(world: World) -> None:
        async with world.service(keep_recent=2) as service:
            await service.execute(tenant("red"))
            for i in range(5):
                await service.execute(task(f"t{i}"))
            world.store.gate.clear()
            before = world.store.reads
            watched = asyncio.create_task(take(service.watch(0), 12))
            await until(lambda: world.store.reads > before)
            for i in range(5, 8):
                await service.execute(task(f"t{i}"))
            world.store.gate.set()
            for i in range(8, 10):
                await service.execute(task(f"t{i}"))
            assert [r.position for r in await watched] == list(range(1, 13))

    run(test)


def test_watchers_hear_that_all_is_well_and_end_with_the_service() -> None:
    async def test(world: World) -> None:
        async with world.service(heartbeat_s=0.01) as service:
            watched = service.watch(service.state.position)
            assert await anext(watched) is None
            assert await anext(watched) is None
            await service.execute(tenant("red"))
            record = await anext(watched)
            while record is None:
                record = await anext(watched)
            assert record.subject == "tenant/red"
        assert [record async for record in watched if record is not None] == []

    run(test)


# -- agents -----------------------------------------------------------------------------------------


async def serve(service: Service, agent: Agent, *, wait_s: float = 0.05) -> None:
    """Be an agent until cancelled."""
    while True:
        with suppress(NotLeaderError, StoreError):
            request, sent_at = agent.request(wait_s), service.clock.monotonic()
            agent.take(request, sent_at, await service.sync(request))
        agent.tick()


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[SimulatedDriver]:
    """Two nodes with an agent of their own."""
    driver = SimulatedDriver(("n1", "n2"), service.clock)
    await service.execute(tenant("red"))
    await service.execute(fleet())
    serving = asyncio.create_task(serve(service, Agent("ag", driver, service.clock)))
    try:
        await until(lambda: service.state.nodes["n2"].phase == "Ready")
        yield driver
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def process_task(name: str) -> Command:
    """A job for nodes with agents; what runs it here is an imitation."""
    workload = Workload(
        name=name,
        kind=Kind.TASK,
        tenant="red",
        roles=(Role(name="worker", replicas=1, request=Request(cpu_milli=1000)),),
    )
    return commands.apply_job(workload, Process(command=("sleep", "60"), grace_s=0.1), {"name": name}).by("test")


def test_an_agent_gets_orders_as_soon_as_there_are_some() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            await service.execute(fleet())
            await service.sync(SyncRequest(agent="ag", nodes=("n1", "n2")))
            await until(lambda: service.state.nodes["n1"].phase == "Ready")

            async def ordered() -> SyncResponse:
                version = -1
                while True:  # a node that comes up is news, too
                    asked = SyncRequest(agent="ag", nodes=("n1", "n2"), version=version, wait_s=PATIENCE_S)
                    response = await service.sync(asked)
                    if response.orders:
                        return response
                    version = response.version

            waiting = asyncio.create_task(ordered())
            await service.execute(process_task("a"))
            async with asyncio.timeout(PATIENCE_S / 2):
                response = await waiting
            assert response.orders
            assert [order.job for order in response.orders.values()] == ["red/a"]

    run(test)


def test_two_requests_of_an_agent_at_once_are_both_written_before_they_are_answered() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            await service.execute(fleet())
            await service.sync(SyncRequest(agent="ag", nodes=("n1", "n2")))
            await service.execute(process_task("a"))
            await until(lambda: service.state.orders.get("ag"))
            (run_id,) = service.state.orders["ag"]
            started = SyncRequest(agent="ag", nodes=("n1", "n2"), reports=(Report(run=run_id, phase=RUNNING),))
            ended = msgspec.structs.replace(started, reports=(Report(run=run_id, phase=EXITED, exit_code=0),))
            world.disk.gate.clear()  # so that both wait together
            before = world.disk.appends
            blocking = asyncio.create_task(service.execute(tenant("blue")))
            await until(lambda: world.disk.appends > before)
            both = [asyncio.create_task(service.sync(request)) for request in (started, ended)]
            await asyncio.sleep(0)
            world.disk.gate.set()
            await asyncio.gather(blocking, *both)
            told = [r.body for r in world.store.read(0, 1_000, subject="job/red/a") if r.type == "RunReported"]
            assert [msgspec.json.decode(body)["phase"] for body in told] == [RUNNING, EXITED]

    run(test)


def test_what_an_agent_says_is_not_acknowledged_before_it_is_written() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            await service.execute(fleet())
            world.disk.next = BEFORE
            with pytest.raises(StoreError):
                await service.sync(SyncRequest(agent="ag", nodes=("n1",)))
            assert service.state.nodes["n1"].phase == "Unknown"

            def again() -> bool:
                return service.state.position == world.store.head()

            await until(again)
            await service.sync(SyncRequest(agent="ag", nodes=("n1",)))
            assert service.state.nodes["n1"].phase == "Ready"

    run(test)


def test_a_second_agent_of_a_name_is_not_answered() -> None:
    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            await service.execute(fleet())
            await service.sync(SyncRequest(agent="ag", nodes=("n1", "n2"), instance="one"))
            with pytest.raises(TakenError, match="another agent of the name ag"):
                await service.sync(SyncRequest(agent="ag", nodes=("n1", "n2"), instance="two"))
            await service.sync(SyncRequest(agent="ag", nodes=("n1", "n2"), instance="one"))

    run(test)


def test_no_agent_answers_for_another() -> None:
    async def test(world: World) -> None:
        async with world.service(log_wait_s=0.3) as service:
            facts = node_facts(parse_fleet(FLEET))
            await service.execute(commands.apply_fleet("hall", FLEET, facts, driver="agent", agent="ag"))
            asked = asyncio.ensure_future(outcome(service.logs("n1", "r1", "stdout", 0, 100)))
            await until(lambda: service._wants)  # pyright: ignore[reportPrivateUsage]
            forged = LogChunk(offset=0, data=b"forged", end=True)
            guesses = tuple(LogAnswer(id=str(n), chunk=forged) for n in range(100))
            await service.sync(SyncRequest(agent="other", logs=guesses))
            assert isinstance(await asked, LogsError)

    run(test)


def test_what_was_read_back_before_the_store_answered_is_taken_in_once() -> None:
    class Late(SlowStore):
        before_answer: Callable[[], object] | None = None

        def append(self, *args: Any, **more: Any) -> int:
            position = super().append(*args, **more)
            if self.before_answer is not None:
                self.before_answer()
            return position

    async def test(world: World) -> None:
        loop = asyncio.get_running_loop()
        store = Late(world.clock, world.disk)
        world.store = store
        async with world.service() as service:
            catch_up = service._catch_up  # pyright: ignore[reportPrivateUsage]
            store.before_answer = lambda: asyncio.run_coroutine_threadsafe(catch_up(), loop).result(PATIENCE_S)
            await service.execute(tenant("red"))
            store.before_answer = None
            assert "red" in service.state.tenants
            await service.execute(tenant("blue"))
            assert service.state.position == store.head()

    run(test)


def test_logs_are_fetched_through_the_agent() -> None:
    async def answers(service: Service, seen: list[str]) -> None:
        """Answer whatever is asked, as an agent does with its next request."""
        request = SyncRequest(agent="ag", nodes=("n1", "n2"), wait_s=20)
        while True:
            version = service.state.agent_version.get("ag", 0)
            response = await service.sync(msgspec.structs.replace(request, version=version))
            seen += [want.run for want in response.wants]
            said = tuple(
                LogAnswer(id=want.id, chunk=LogChunk(offset=want.offset, data=b"line\n"[: want.limit], end=True))
                if want.run == "r1"
                else LogAnswer(id=want.id, error=f"no run {want.run} here")
                for want in response.wants
            )
            request = msgspec.structs.replace(request, logs=said)

    async def test(world: World) -> None:
        async with world.service() as service:
            await service.execute(tenant("red"))
            await service.execute(fleet())
            seen: list[str] = []
            serving = asyncio.create_task(answers(service, seen))
            chunks = await asyncio.gather(*(service.logs("n1", "r1", "stdout", i, 3) for i in range(5)))
            assert [(chunk.offset, chunk.data) for chunk in chunks] == [(i, b"lin") for i in range(5)]
            with pytest.raises(LogsError, match="no run r2 here"):
                await service.logs("n2", "r2", "stdout", 0, 3)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            with pytest.raises(LogsError, match="is gone"):
                await service.logs("n9", "r1", "stdout", 0, 3)

    run(test)


def test_logs_of_a_silent_agent_are_not_waited_for_for_ever_and_nothing_is_left_to_ask() -> None:
    async def test(world: World) -> None:
        async with world.service(log_wait_s=0.02) as service:
            await service.execute(tenant("red"))
            await service.execute(fleet())
            with pytest.raises(LogsError, match="does not answer"):
                await service.logs("n1", "r1", "stdout", 0, 3)
            response = await service.sync(SyncRequest(agent="ag", nodes=("n1", "n2")))
            assert response.wants == ()

    run(test)


def test_work_is_stopped_for_a_clean_end_and_begins_again_with_the_next_start() -> None:
    async def test(world: World) -> None:
        async with world.service() as service, served(service):
            await service.execute(process_task("a"))
            await until(lambda: service.state.jobs["red/a"].phase == "Running")
            await service.stop_work("ag", PATIENCE_S)
            assert not service.state.held.get("ag")
            job = service.state.jobs["red/a"]
            assert (job.phase, job.units["worker-0"].failures) == ("Pending", 0)
            position = service.state.position
            await service.execute(process_task("b"))
            assert not [r for r in world.store.read(position, 100) if r.type == "UnitBound"]
        async with world.service("b") as service, served(service):
            await until(lambda: service.state.jobs["red/a"].phase == "Running")
            assert service.state.jobs["red/a"].units["worker-0"].attempt == 2

    run(test)


def test_nothing_is_placed_while_decisions_are_held_and_explain_says_so() -> None:
    async def test(world: World) -> None:
        async with world.service() as service, served(service):
            service.hold_decisions(True)
            await service.execute(process_task("a"))
            assert (await service.explain("red/a")).code == "wait.starting"
            assert service.state.jobs["red/a"].phase == "Pending"
            service.hold_decisions(False)
            await until(lambda: service.state.jobs["red/a"].phase == "Running")
            assert (await service.explain("red/a")).code == "running"

    run(test)


def test_the_state_in_use_is_what_the_log_adds_up_to() -> None:
    async def test(world: World) -> None:
        async with world.service() as service, served(service):
            await service.execute(process_task("a"))
            await until(lambda: service.state.jobs["red/a"].phase == "Running")
            assert (await service.verify()).same
            found = await service.why("red/a")
            assert found.agrees
            assert [node for _, node in found.places] == [run.node for run in service.state.jobs["red/a"].runs()]

    run(test)
