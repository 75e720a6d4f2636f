"""How many replicas an endpoint's pools are to have."""

from __future__ import annotations

from collections.abc import Iterator

from plenum.control.endpoints import events as ep
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.state import EndpointRecord
from plenum.control.fact import Event
from plenum.control.state import State


def scaled(state: State, found: EndpointRecord, loads: Loads) -> Iterator[Event]:
    """Yield the changes of numbers that are due."""
    for pool in found.spec.pools:
        before = found.wanted.get(pool.name, pool.min_replicas)
        after = min(max(before, pool.min_replicas), pool.max_replicas)
        if after == 0 and loads.now(found.id, pool.name).waiting:
            after = 1
        if after != before:
            yield ep.EndpointScaled(endpoint=found.id, pool=pool.name, before=before, after=after, why="limits")
