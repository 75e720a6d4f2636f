"""What gateways are told of replicas."""

from __future__ import annotations

import msgspec
from tests.unit.control.cloud import read_fleet
from tests.unit.control.endpoints.city import City, chat

from plenum.control import commands as c
from plenum.control.hardware import node_facts
from plenum.graph.build import FleetBuilder
from plenum.model import Fleet


def test_a_node_stands_at_the_site_above_it_however_far():
    facts = {fact.name: fact.site for fact in node_facts(_sites())}

    assert facts == {"near": "zurich", "far": "lugano", "loose": ""}


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


def _sites() -> Fleet:
    b = FleetBuilder("sites")
    b.domain("place.site", "zurich", parent=None)
    b.domain("place.site", "lugano", parent=None)
    b.domain("place.hall", "h", parent="place.site:lugano")
    b.domain("place.rack", "r", parent="place.hall:h")
    for name, above in (("near", "place.site:zurich"), ("far", "place.rack:r"), ("loose", "")):
        b.node(name, domains={"place": above} if above else {}, budgets={"cpu_milli": 1000, "memory_bytes": 2**30})
    return b.build()
