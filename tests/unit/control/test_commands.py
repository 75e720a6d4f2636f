"""Each refusal, and what each command leads to."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.unit.control.cloud import Log, imitation, job, log, read_fleet

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.commands import AbsentError, ChangedError, Command, LimitError, TakenError
from plenum.control.hardware import node_facts
from plenum.model import Kind, Request, Role
from plenum.model.errors import FieldError, PlenumError
from plenum.model.process import Process


@pytest.fixture
def it() -> Log:
    return log()


def refusal(it: Log, command: Command) -> PlenumError:
    before = it.state.snapshot().data
    with pytest.raises(PlenumError) as caught:
        command.decide(it.state, 9.0)
    assert it.state.snapshot().data == before
    return caught.value


def apply(it: Log, *args, manifest: dict | None = None, **more) -> list[ev.Event]:
    workload = job(*args, **more)
    return it.command(c.apply_job(workload, imitation(), manifest or {"text": str(workload)}))


# -- tenants, users, tokens -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "a/b", "a b", "é", "a\n"])
def test_names_that_cannot_stand_in_an_address_are_refused(it: Log, name: str) -> None:
    assert isinstance(refusal(it, c.apply_tenant(name, {})), FieldError)
    assert isinstance(refusal(it, c.apply_user(name, ())), FieldError)
    assert isinstance(refusal(it, c.apply_fleet(name, "1", ())), FieldError)
    if name:
        assert isinstance(refusal(it, c.apply_job(job(name), imitation(), {})), FieldError)


def test_a_tenant_is_made_changed_left_and_deleted(it: Log) -> None:
    assert it.command(c.apply_tenant("blue", {"gpu_milli": 1})) != []
    assert it.command(c.apply_tenant("blue", {"gpu_milli": 1})) == []
    assert it.command(c.apply_tenant("blue", {"gpu_milli": 2}, max_jobs=3, labels={"a": "b"})) != []
    version = it.state.tenants["blue"].version
    assert isinstance(refusal(it, c.apply_tenant("blue", {}, if_version=version - 1)), ChangedError)
    assert isinstance(refusal(it, c.apply_tenant("blue", {}, if_version=0)), ChangedError)
    assert isinstance(refusal(it, c.apply_tenant("green", {}, if_version=5)), ChangedError)
    assert isinstance(refusal(it, c.delete_tenant("green")), AbsentError)
    it.command(c.delete_tenant("blue", if_version=version))
    assert "blue" not in it.state.tenants


def test_a_tenant_with_live_jobs_stays_and_takes_its_ended_jobs_with_it(it: Log) -> None:
    apply(it, "j")
    assert isinstance(refusal(it, c.delete_tenant("red")), TakenError)
    it.write(ev.JobEnded(job="red/j", phase="Succeeded"))
    it.command(c.delete_tenant("red"))
    assert (it.state.tenants, it.state.jobs, list(it.state.ended)) == ({}, {}, [])


@pytest.mark.parametrize(
    ("role", "tenant", "field"),
    [
        ("king", "red", "grants[0].role"),
        ("operator", "red", "grants[0]"),
        ("member", "*", "grants[0]"),
        ("member", "none", "grants[0].tenant"),
    ],
)
def test_grants_that_make_no_sense_are_refused(it: Log, role: str, tenant: str, field: str) -> None:
    assert refusal(it, c.apply_user("ann", [ev.Grant(role, tenant)])).where.field == field


def test_a_user_goes_with_its_tokens(it: Log) -> None:
    it.command(c.apply_user("ann", [ev.Grant("member", "red"), ev.Grant("member", "red"), ev.Grant("admin", "red")]))
    assert it.state.users["ann"].grants == (ev.Grant("admin", "red"), ev.Grant("member", "red"))
    assert it.command(c.apply_user("ann", [ev.Grant("admin", "red"), ev.Grant("member", "red")])) == []
    it.command(c.issue_token("t1", "ann", "h1"))
    it.command(c.issue_token("t2", "ann", "h2", kind="agent"))
    assert set(it.state.token_by_hash) == {"h1", "h2"}
    it.command(c.delete_user("ann"))
    assert (set(it.state.tokens), set(it.state.token_by_hash)) == ({"t2"}, {"h2"})
    it.command(c.revoke_token("t2"))
    assert not it.state.token_by_hash
    for command in (c.delete_user("ann"), c.revoke_token("t2")):
        assert isinstance(refusal(it, command), AbsentError)
    assert isinstance(refusal(it, c.issue_token("t3", "ann", "h3")), FieldError)


def test_nobody_takes_the_tokens_of_all(it: Log) -> None:
    for user in ("greedy", "modest"):
        it.command(c.apply_user(user, []))
    for n in range(c.MAX_TOKENS_EACH):
        it.command(c.issue_token(f"t{n}", "greedy", f"h{n}"))
    assert isinstance(refusal(it, c.issue_token("more", "greedy", "hm")), LimitError)
    it.command(c.issue_token("other", "modest", "ho"))
    it.command(c.revoke_token("t0"))
    it.command(c.issue_token("more", "greedy", "hm"))


def test_there_is_a_limit_on_everything(it: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(it, "j")
    it.command(c.apply_user("ann", ()))
    it.command(c.issue_token("t", "ann", "h"))
    for name in ("MAX_TENANTS", "MAX_USERS", "MAX_TOKENS", "MAX_LIVE_JOBS", "MAX_UNITS"):
        monkeypatch.setattr(c, name, 1)
    for command in (
        c.apply_tenant("blue", {}),
        c.apply_user("bob", ()),
        c.issue_token("t2", "ann", "h2"),
        c.apply_job(job("k"), imitation(), {}),
    ):
        assert isinstance(refusal(it, command), LimitError)
    for name in ("j", "k"):
        assert refusal(it, c.apply_job(job(name, replicas=2), imitation(), {})).where.field == "spec.replicas"
    gang = c.apply_job(job("j", Kind.TASK, 1), imitation(), {"other": 1})
    assert it.command(gang) != []


def test_refusals_are_cut_to_a_length(it: Log) -> None:
    (event,) = it.command(c.refused("GET", "/" * 9999, "x", "y" * 9999, source="1.2.3.4", times=3))
    assert isinstance(event, ev.Refused)
    assert (len(event.path), len(event.sentence), event.times) == (300, 500, 3)


# -- hardware ---------------------------------------------------------------------------------------


def fleet(name: str, nodes: int, **more) -> Command:
    return c.apply_fleet(name, f"{nodes}", node_facts(read_fleet(f"{nodes}")), agent="a", **more)


def test_nodes_belong_to_one_fleet_and_fleets_to_one_agent(it: Log) -> None:
    assert "belongs to fleet lab" in refusal(it, fleet("other", 1)).sentence
    assert isinstance(refusal(it, c.apply_fleet("lab", "9", (), agent="b")), TakenError)
    assert isinstance(refusal(it, c.apply_fleet("lab", "9", (), agent="a", driver="agent")), TakenError)


def test_nodes_with_work_stay_and_keep_their_gpus(it: Log) -> None:
    apply(it, "j", replicas=2, gpus=8)
    it.bind()
    shrunk = [replace_gpus(facts, 4) for facts in node_facts(read_fleet("2"))]
    assert "fewer GPUs" in refusal(it, c.apply_fleet("lab", "x", shrunk, agent="a")).sentence
    one = node_facts(read_fleet("2"))[:1]
    assert "n1 would go" in refusal(it, c.apply_fleet("lab", "x", one, agent="a")).sentence
    assert isinstance(refusal(it, c.delete_fleet("lab")), TakenError)
    assert isinstance(refusal(it, c.delete_fleet("none")), AbsentError)


def replace_gpus(facts: ev.NodeFacts, gpus: int) -> ev.NodeFacts:
    return msgspec.structs.replace(facts, gpus=gpus)


def test_a_fleet_grows_shrinks_and_goes(it: Log) -> None:
    assert it.command(fleet("lab", 2)) != []
    assert it.command(fleet("lab", 2)) == []
    it.command(fleet("lab", 4))
    assert [it.state.nodes[n].phase for n in ("n0", "n3")] == ["Ready", "Unknown"]
    it.command(c.cordon("n3", True))
    it.command(fleet("lab", 2))
    assert set(it.state.nodes) == {"n0", "n1"}
    it.command(c.delete_fleet("lab"))
    assert (it.state.nodes, it.state.fleets, it.state.by_node) == ({}, {}, {})


def test_cordon_says_nothing_twice(it: Log) -> None:
    assert isinstance(refusal(it, c.cordon("none", True)), AbsentError)
    assert len(it.command(c.cordon("n0", True))) == 1
    assert it.command(c.cordon("n0", True)) == []
    assert len(it.command(c.cordon("n0", True, drain=True))) == 1
    assert (it.state.nodes["n0"].cordoned, it.state.nodes["n0"].draining) == (True, True)
    it.command(c.cordon("n0", False, drain=True))
    assert (it.state.nodes["n0"].cordoned, it.state.nodes["n0"].draining) == (False, False)
    assert isinstance(refusal(it, c.cordon("n0", True, if_version=1)), ChangedError)


# -- jobs -------------------------------------------------------------------------------------------


def test_a_job_needs_a_tenant_that_is_there(it: Log) -> None:
    assert refusal(it, c.apply_job(job(tenant="none"), imitation(), {})).where.field == "metadata.tenant"


def test_a_tenant_has_so_many_live_jobs_and_no_more(it: Log) -> None:
    it.command(c.apply_tenant("red", {}, max_jobs=1))
    apply(it, "a")
    assert isinstance(refusal(it, c.apply_job(job("b"), imitation(), {})), LimitError)
    it.write(ev.JobEnded(job="red/a", phase="Failed"))
    assert apply(it, "b") != []


def test_the_same_again_is_no_change_and_priority_alone_restarts_nothing(it: Log) -> None:
    apply(it, manifest={"v": 1})
    assert apply(it, manifest={"v": 1}) == []
    (changed,) = apply(it, manifest={"v": 2}, priority=3)
    assert isinstance(changed, ev.JobChanged)
    assert not changed.restart
    (changed,) = apply(it, manifest={"v": 3}, replicas=2, priority=3)
    assert isinstance(changed, ev.JobChanged)
    assert changed.restart


def test_what_a_job_runs_says_where_it_may_run(it: Log) -> None:
    it.command(c.apply_job(job("real"), Process(command=("true",)), {}))
    it.command(c.apply_job(job("imitated"), imitation(), {}))
    traits = {name: it.job(f"red/{name}").workload.roles[0].request.traits for name in ("real", "imitated")}
    assert traits == {"real": ("process",), "imitated": ("simulated",)}


def test_a_job_keeps_its_kind_and_is_not_changed_while_it_goes(it: Log) -> None:
    apply(it)
    other = replace(job(), kind=Kind.ENDPOINT)
    assert isinstance(refusal(it, c.apply_job(other, imitation(), {})), TakenError)
    it.command(c.delete_job("red/j"))
    assert it.command(c.delete_job("red/j")) == []
    assert "being deleted" in refusal(it, c.apply_job(job(), imitation(), {"v": 2})).sentence


def test_one_change_at_a_time(it: Log) -> None:
    apply(it)
    it.bind()
    apply(it, replicas=2)
    assert "still changing" in refusal(it, c.apply_job(job(replicas=3), imitation(), {"v": 3})).sentence


def test_an_ended_job_is_deleted_at_once_or_asked_for_again(it: Log) -> None:
    apply(it)
    it.write(ev.JobEnded(job="red/j", phase="Succeeded"))
    again = apply(it, replicas=2)
    assert [type(event) for event in again] == [ev.JobForgotten, ev.JobSubmitted]
    assert it.job().uid > 1
    it.write(ev.JobEnded(job="red/j", phase="Succeeded"))
    (ended,) = it.command(c.delete_job("red/j"))
    assert ended == ev.JobEnded(job="red/j", phase="Deleted", message="deleted after it had succeeded")
    assert isinstance(refusal(it, c.delete_job("red/j")), AbsentError)


def test_versions_guard_jobs_too(it: Log) -> None:
    apply(it)
    version = it.job().version
    assert isinstance(refusal(it, c.delete_job("red/j", if_version=version + 1)), ChangedError)
    wanted = job(roles=(Role(request=Request(gpus=2)),))
    assert isinstance(refusal(it, c.apply_job(wanted, imitation(), {}, if_version=0)), ChangedError)
    assert it.command(c.apply_job(wanted, imitation(), {}, if_version=version)) != []
