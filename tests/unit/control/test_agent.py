from __future__ import annotations

import msgspec
import pytest
from tests.unit.control.cloud import TTL_S, Cloud, imitation, job, read_fleet

from plenum.control import commands as c
from plenum.control.agent import Agent
from plenum.control.commands import TakenError
from plenum.control.controller import MAX_CAUSE, MAX_INSTANCE, Controller, NotLeaderError
from plenum.control.protocol import LEASE_GRACE_S, LEASE_S, LogAnswer, LogWant, SyncRequest, SyncResponse
from plenum.model import Kind
from plenum.model.errors import FieldError
from plenum.ports.nodes import EXITED, Fence, LogChunk, Report
from plenum.ports.store import TERM_GAP
from plenum.sim.nodes import SimulatedDriver
from plenum.sim.store import MemoryStore


@pytest.fixture
def cloud() -> Cloud:
    cloud = Cloud()
    cloud.run(1)
    return cloud


def test_what_is_bound_runs_and_what_ended_is_forgotten_on_the_node(cloud: Cloud) -> None:
    cloud.submit(job(), imitation(3))
    cloud.run(3)
    assert cloud.phases() == ["running"]
    cloud.run(6)
    assert cloud.state.jobs["red/j"].phase == "Succeeded"
    assert cloud.driver.observe() == ()


def test_reports_are_told_once_and_again_where_the_answer_was_lost(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(2)
    cloud.sync()
    assert cloud.agent.request().reports == ()
    cloud.driver.stop(cloud.alive()[0], 0, cloud.agent.fence)
    lost = cloud.agent.request()
    assert lost.reports == cloud.agent.request().reports != ()


def test_an_older_answer_is_not_followed(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.work()
    request = cloud.agent.request()
    old = cloud.controller.sync(request)
    cloud.execute(c.delete_job("red/j"))
    cloud.work()
    cloud.sync()
    assert not cloud.agent.take(request, cloud.clock.monotonic(), old)
    assert cloud.alive() == []


def test_a_run_called_off_before_its_agent_heard_of_it_is_let_go(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.work()
    cloud.execute(c.delete_job("red/j"))
    cloud.run(4)
    assert cloud.state.jobs == {}
    assert cloud.driver.observe() == ()


def test_a_run_that_started_before_it_was_called_off_is_not_let_go_until_it_ended(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.work()
    request, sent_at = cloud.agent.request(), cloud.clock.monotonic()
    cloud.agent.take(request, sent_at, cloud.controller.sync(request))
    assert len(cloud.alive()) == 1
    cloud.execute(c.delete_job("red/j"))
    cloud.work()
    cloud.sync()
    cloud.work()
    assert "red/j" in cloud.state.jobs
    cloud.run(4)
    assert cloud.state.jobs == {}


def test_a_lapsed_lease_ends_all_work_in_time(cloud: Cloud) -> None:
    cloud.submit(job(replicas=2), imitation(grace_s=600))
    cloud.run(2)
    cloud.clock.advance(LEASE_S - 1.5)
    assert not cloud.agent.tick()
    cloud.clock.advance(1.5)
    assert cloud.agent.tick()
    cloud.clock.advance(LEASE_GRACE_S)
    assert cloud.alive() == []
    assert {report.cause for report in cloud.driver.observe()} == {"lease-lost"}


def test_the_lease_counts_from_when_the_request_was_sent(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(2)
    request, sent_at = cloud.agent.request(), cloud.clock.monotonic()
    response = cloud.controller.sync(request)
    cloud.clock.advance(LEASE_S + 1)
    cloud.agent.take(request, sent_at, response)
    assert cloud.agent.tick()


def test_a_new_agent_adopts_what_its_driver_runs(cloud: Cloud) -> None:
    cloud.submit(job(replicas=2))
    cloud.run(3)
    before = cloud.alive()
    cloud.agent = Agent("a", cloud.driver, cloud.clock)
    cloud.run(3)
    assert cloud.alive() == before
    assert cloud.phases() == ["running", "running"]


def test_a_new_agent_that_nobody_answers_does_not_fail_when_its_lease_lapses(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    agent = Agent("a", cloud.driver, cloud.clock)
    cloud.clock.advance(LEASE_S + 1)
    assert agent.tick()
    cloud.clock.advance(LEASE_GRACE_S)
    assert cloud.alive() == []


def test_a_new_agent_takes_nothing_that_is_older_than_what_its_driver_knows(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    agent = Agent("a", cloud.driver, cloud.clock)
    stale = SyncResponse(fence=Fence(0, 1), version=7, orders={})
    assert not agent.take(agent.request(), cloud.clock.monotonic(), stale)
    assert agent.version == -1
    assert len(cloud.alive()) == 1


def test_what_a_node_forgot_in_a_crash_has_vanished_and_goes_again_elsewhere(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    (run,) = cloud.state.jobs["red/j"].runs()
    cloud.driver.crash(run.node)
    cloud.run(6)
    (again,) = cloud.state.jobs["red/j"].runs()
    assert again.id != run.id
    assert again.node != run.node
    assert again.phase == "running"


def test_a_node_that_is_down_gets_no_work_until_it_is_up(cloud: Cloud) -> None:
    for node in cloud.driver.nodes():
        cloud.driver.crash(node)
    cloud.run(2)
    assert {node.phase for node in cloud.state.nodes.values()} == {"Lost"}
    cloud.submit(job())
    cloud.run(2)
    assert cloud.state.jobs["red/j"].phase == "Pending"
    cloud.driver.reboot("n1")
    cloud.run(4)
    assert [run.node for run in cloud.state.jobs["red/j"].runs()] == ["n1"]


def test_an_order_lost_on_a_node_that_went_down_does_not_hold_the_job_up(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.work()
    (run,) = cloud.state.jobs["red/j"].runs()
    cloud.driver.crash(run.node)
    cloud.run(6)
    assert cloud.phases() == ["running"]


def test_a_silent_agents_nodes_are_lost_and_their_work_goes_elsewhere_only_then(cloud: Cloud) -> None:
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=2))
    cloud.run(3)
    heard = cloud.clock.monotonic()
    while cloud.state.nodes["n0"].phase == "Ready":
        cloud.run(1, agent=False)
        cloud.agent.tick()
    assert cloud.clock.monotonic() - heard >= LEASE_S + LEASE_GRACE_S
    assert cloud.alive() == []
    cloud.run(10)
    assert cloud.phases() == ["running", "running"]


def test_what_an_agent_said_was_down_is_given_up_once_the_agent_is_silent_too(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    (run,) = cloud.state.jobs["red/j"].runs()
    cloud.driver.crash(run.node)
    request = cloud.agent.request()
    cloud.controller.append(cloud.controller.reported(type(request)(agent="a", nodes=request.nodes)))
    cloud.work()
    assert run.phase == "running"
    cloud.run(LEASE_S + 15, agent=False)
    assert cloud.state.jobs["red/j"].phase == "Pending"


def test_a_second_agent_of_a_name_is_refused_until_the_first_is_gone(cloud: Cloud) -> None:
    twin = Agent("a", SimulatedDriver(["n0", "n1"], cloud.clock), cloud.clock, instance="twin")
    with pytest.raises(TakenError, match="another agent of the name a"):
        cloud.controller.sync(twin.request())
    successor = cloud.replica("c1")
    cloud.clock.advance(TTL_S + 1)
    successor.lead(TTL_S)
    with pytest.raises(TakenError):
        successor.sync(twin.request())
    cloud.controller = successor
    cloud.run(LEASE_S + 15, agent=False)
    cloud.agent, cloud.driver = twin, twin.driver  # type: ignore[assignment]
    cloud.run(3)
    assert {node.phase for node in cloud.state.nodes.values()} == {"Ready"}


def test_who_does_not_lead_answers_nobody(cloud: Cloud) -> None:
    cloud.clock.advance(TTL_S + 1)
    with pytest.raises(NotLeaderError):
        cloud.controller.sync(cloud.agent.request())


def test_logs_are_answered_with_the_next_request_and_refusals_too(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    request, sent_at, response = cloud.sync()
    (run,) = cloud.alive()
    wants = tuple(LogWant(id=i, run=r, stream="stdout", offset=0, limit=10) for i, r in (("1", run), ("2", "none")))
    fence, version = response.fence, response.version
    cloud.agent.take(request, sent_at, SyncResponse(fence=fence, version=version, wants=wants))
    first, second = cloud.agent.request().logs
    assert first.chunk is not None
    assert first.chunk.data == b"started re"
    assert "none" in second.error
    assert cloud.agent.request().logs == ()


# -- what cannot be meant -----------------------------------------------------------------------------


def test_nonsense_of_one_agent_is_no_news(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    (run,) = cloud.alive()
    assert cloud.controller.reported(SyncRequest(agent="a", nodes=cloud.agent.driver.nodes(), reports=())) == []
    odd = Report(run=run, phase="levitating")
    assert cloud.controller.reported(SyncRequest(agent="a", nodes=cloud.agent.driver.nodes(), reports=(odd,))) == []
    assert cloud.phases() == ["running"]


def test_what_an_agent_says_is_kept_within_bounds(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(3)
    (run,) = cloud.alive()
    report = Report(run=run, phase=EXITED, exit_code=10**30, cause="c" * 10**6, message="m" * 10**6)
    (record,) = cloud.controller.reported(SyncRequest(agent="a", nodes=cloud.agent.driver.nodes(), reports=(report,)))
    assert len(record.body) < 1000
    body = msgspec.json.decode(record.body)
    assert (body["exit_code"], len(body["cause"])) == (-1, MAX_CAUSE)
    with pytest.raises(FieldError, match="instance"):
        cloud.controller.admit(SyncRequest(agent="a", instance="x" * (MAX_INSTANCE + 1)))


def test_many_pieces_of_logs_are_told_in_several_requests(cloud: Cloud) -> None:
    class Chatty(SimulatedDriver):
        def logs(self, run: str, stream: str, offset: int, limit: int) -> LogChunk:
            return LogChunk(offset=offset, data=b"x" * limit, end=False)

    agent = Agent("a", Chatty(cloud.driver.nodes(), cloud.clock), cloud.clock)
    wants = tuple(LogWant(id=str(i), run="r", stream="stdout", offset=0, limit=2**18) for i in range(30))
    agent.take(agent.request(), cloud.clock.monotonic(), SyncResponse(fence=Fence(1, 1), version=1, wants=wants))
    told: list[LogAnswer] = []
    while (request := agent.request()).logs:
        assert len(msgspec.json.encode(request)) < 2 * 2**20
        told += request.logs
    assert [answer.id for answer in told] == [want.id for want in wants]


# -- after a restore ----------------------------------------------------------------------------------


def _restored(cloud: Cloud, head: int) -> None:
    """Let the cloud go on from what its log held up to a position, as from a backup; the agent goes on as it is."""
    term = cloud.state.term + TERM_GAP
    store = MemoryStore(cloud.clock)
    store.append(cloud.store.read(0, head), expected=0)
    while (lease := store.acquire("nobody", 1.0)) is not None and lease.term < term:
        store._lease = msgspec.structs.replace(lease, term=term)  # pyright: ignore[reportPrivateUsage]
    store.release("nobody")
    cloud.store = store
    cloud.controller = Controller(store, cloud.clock, read_fleet, holder="c1")
    cloud.controller.load()
    cloud.controller.lead(TTL_S)


@pytest.mark.parametrize("duration_s", [3, 1000])
def test_after_a_restore_no_job_is_taken_for_one_of_the_log_that_is_gone(cloud: Cloud, duration_s: float) -> None:
    head = cloud.store.head()
    cloud.execute(c.apply_tenant("x", {}))
    cloud.submit(job("before"), imitation(duration_s))
    cloud.run(8)
    runs = {run.id for run in cloud.state.jobs["red/before"].runs()}
    position = cloud.state.jobs["red/before"].version
    _restored(cloud, head)
    cloud.submit(job("after"), imitation())
    after = cloud.state.jobs["red/after"]
    assert after.version < position  # the positions of the log that is gone come again
    cloud.run(8)
    assert cloud.phases("red/after") == ["running"]
    assert len(cloud.alive()) == 1
    assert runs.isdisjoint(cloud.alive())


@pytest.mark.parametrize("told", [False, True])
def test_after_a_restore_attempts_are_not_taken_for_those_of_the_log_that_is_gone(cloud: Cloud, told: bool) -> None:
    cloud.submit(job(), imitation())
    cloud.run(3 if told else 2)
    head = cloud.store.head()
    assert cloud.phases() == (["running"] if told else ["bound"])
    for _ in range(2):
        cloud.driver.stop(cloud.alive()[0], 0, cloud.agent.fence, cause="vanished")
        cloud.run(10)
    before = set(cloud.alive())
    assert len(before) == 1
    _restored(cloud, head)
    if not told:
        cloud.agent = Agent("a", cloud.driver, cloud.clock)
    cloud.run(30)
    assert cloud.phases() == ["running"]
    assert len(cloud.alive()) == 1
    assert before.isdisjoint(cloud.alive())


def test_after_a_restore_a_run_whose_end_was_in_the_log_that_is_gone_has_vanished(cloud: Cloud) -> None:
    cloud.submit(job(), imitation(5))
    cloud.run(3)
    head, (run,) = cloud.store.head(), cloud.alive()
    cloud.clock.advance(5)
    cloud.sync()
    assert cloud.driver.observe() == ()
    _restored(cloud, head)
    cloud.sync()
    cloud.sync()
    found = [r for r in cloud.state.jobs["red/j"].runs() if r.id == run]
    assert [(r.phase, r.cause) for r in found] == [("exited", "vanished")]


def test_orders_are_told_anew_where_another_log_has_led_to_the_same_version(cloud: Cloud) -> None:
    cloud.sync()
    request = cloud.agent.request()
    assert cloud.controller.answer(request).orders is None
    other = msgspec.structs.replace(request, seen=Fence(request.seen.term + 1, request.seen.position))
    assert cloud.controller.answer(other).orders is not None
