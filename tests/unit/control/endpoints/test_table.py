"""What gateways are told of replicas."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.control.cloud import read_fleet
from tests.unit.control.endpoints.city import City, chat

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.endpoints.table import table_of
from plenum.control.hardware import node_facts
from plenum.control.state import State
from plenum.graph.build import FleetBuilder
from plenum.model import Fleet
from plenum.model.errors import FieldError
from plenum.ports.gateway import Replica, Table
from plenum.ports.policy import Arm, Experiment, Judge, Policy


def test_a_node_stands_at_the_site_above_it_however_far():
    facts = {fact.name: fact.site for fact in node_facts(_sites())}

    assert facts == {"near": "zurich", "far": "lugano", "loose": ""}
    assert {fact.site: fact.site_bps for fact in node_facts(_sites())} == {"zurich": 10**10, "lugano": 0, "": 0}


def test_replicas_stand_where_their_nodes_do():
    city = City(1)
    city.apply(chat())
    city.run(10)
    assert [replica.site for replica in city.replicas()] == [""]
    version = city.state.served_version

    facts = tuple(msgspec.structs.replace(fact, site="zurich") for fact in node_facts(read_fleet("1")))
    city.execute(c.apply_fleet("lab", "1 0", facts, agent="a"))

    assert [replica.site for replica in city.replicas()] == ["zurich"]
    assert city.state.served_version > version


def test_gateways_are_told_which_certificate_a_replica_shows_and_older_tables_of_none():
    city = City(1)
    city.apply(chat())
    city.run(10)
    (before,) = city.replicas()
    assert before.certificate_sha256 == ""
    (job,) = city.state.jobs.values()
    (unit,) = job.units.values()
    told = ev.RunReported(
        job=job.id,
        unit=unit.key,
        run=before.run,
        node=before.node,
        phase="running",
        url="https://127.0.0.1:30000",
        certificate_sha256="0f" * 32,
    )
    city.controller.append([ev.record_of(told, city.clock.now(), "test")])
    (replica,) = city.replicas()
    assert (replica.url, replica.certificate_sha256) == (told.url, told.certificate_sha256)
    older = {name: value for name, value in msgspec.to_builtins(before).items() if name != "certificate_sha256"}
    assert msgspec.convert(older, Replica) == before


def test_a_fleet_of_which_less_was_noted_is_described_anew_by_who_leads_next():
    city = City(1)
    lab = city.state.fleets["lab"]
    old = ev.FleetApplied(
        name="lab", manifest=lab.manifest, driver=lab.driver, agent=lab.agent, nodes=(ev.NodeFacts(name="n0"),)
    )
    city.controller.append([ev.record_of(old, 1.0, "test")])
    later = city.replica("c1")
    assert later.state.nodes["n0"].facts.gpus == 0
    city.clock.advance(60.0)
    assert later.lead(10.0)
    assert later.state.nodes["n0"].facts == node_facts(read_fleet("1"))[0]
    position = later.state.position
    again = city.replica("c2")
    city.clock.advance(60.0)
    assert again.lead(10.0)
    assert again.state.position == position + 1


def test_gateways_are_told_at_what_rate_sites_reach_each_other():
    city = City(1)
    facts = tuple(msgspec.structs.replace(f, site="zurich", site_bps=10**9) for f in node_facts(read_fleet("1")))
    city.execute(c.apply_fleet("lab", "1 0", facts, agent="a"))
    assert table_of(city.state).uplinks_bps == {"zurich": 10**9}


def test_what_tenants_have_gateways_do_reaches_them():
    city = City(1)
    city.apply(chat())
    version = city.state.served_version
    arms = (Arm(name="plain", model="chat"), Arm(name="kind", model="chat", system="Be kind."))
    policy = Policy(experiments=(Experiment(name="tone", model="helper", arms=arms, judge=Judge(model="chat")),))

    city.execute(c.apply_tenant("red", {}, policy=policy))

    assert city.state.served_version > version
    assert msgspec.json.decode(msgspec.json.encode(table_of(city.state)), type=Table).policies == {"red": policy}
    assert State.from_snapshot(city.state.snapshot()).tenants["red"].policy == policy
    assert c.apply_tenant("red", {}, policy=policy).decide(city.state, 0.0) == ()
    city.execute(c.apply_tenant("red", {}))
    assert table_of(city.state).policies == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"arms": (Arm(name="a", model="chat"), Arm(name="b", model="gone"))}, "spec.experiments[0].arms[1].model"),
        (
            {"arms": (Arm(name="a"),)},
            "spec.experiments[0].arms[0].model",
        ),  # which is the experiment's own, no endpoint's
        ({"judge": Judge(model="gone")}, "spec.experiments[0].judge.model"),
    ],
)
def test_experiments_ask_models_of_their_tenant_alone(change: dict[str, Any], field: str):
    city = City(1)
    city.apply(chat())
    tone = Experiment(name="tone", model="helper", arms=(Arm(name="a", model="chat"),))

    command = c.apply_tenant("red", {}, policy=Policy(experiments=(msgspec.structs.replace(tone, **change),)))
    with pytest.raises(FieldError, match="apply the endpoint first") as refused:
        command.decide(city.state, 0.0)

    assert refused.value.where.field == field


def _sites() -> Fleet:
    b = FleetBuilder("sites")
    b.domain("place.site", "zurich", parent=None)
    b.domain("place.site", "lugano", parent=None)
    b.budget("place.site:zurich", "uplink_bps", 10**10)
    b.domain("place.hall", "h", parent="place.site:lugano")
    b.domain("place.rack", "r", parent="place.hall:h")
    for name, above in (("near", "place.site:zurich"), ("far", "place.rack:r"), ("loose", "")):
        b.node(name, domains={"place": above} if above else {}, budgets={"cpu_milli": 1000, "memory_bytes": 2**30})
    return b.build()
