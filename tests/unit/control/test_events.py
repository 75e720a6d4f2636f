from __future__ import annotations

import msgspec
import pytest

from plenum.control import events as ev
from plenum.model.endpoint import Endpoint
from plenum.model.errors import InvariantError
from plenum.model.workload import Request, Workload
from plenum.ports.batches import check_batch
from plenum.ports.gateway import Key

SAMPLES: dict[type, object] = {
    str: "red/x",
    int: 3,
    float: 1.5,
    bool: True,
    Workload: Workload(name="x", tenant="red"),
    Endpoint: Endpoint(name="x", tenant="red", model="smollm2"),
    Key: Key(id="k", hash="h", tenant="red"),
}


def sample(event: type[ev.Event]) -> ev.Event:
    """Return an event of a type with a value of its own in every field that needs one."""
    values = {}
    for field in msgspec.structs.fields(event):
        if field.required:
            values[field.name] = SAMPLES.get(field.type)
    if event is ev.MixLearned:
        values["mix"] = ((Request(gpus=1), 2),)
    return event(**values)


@pytest.mark.parametrize("name", sorted(ev.EVENTS))
def test_every_event_comes_back_as_it_was_written(name: str) -> None:
    event = sample(ev.EVENTS[name])
    record = ev.record_of(event, 7.5, "somebody", "ab" * 16)
    assert ev.event_of(record) == event
    assert (record.type, record.version, record.audit) == (name, event.version, event.audit)
    assert (record.subject, record.tenant) == (event.subject(), event.tenant())
    check_batch([record], [])


def test_equal_events_are_equal_bytes_whatever_the_order_of_their_dictionaries() -> None:
    one = ev.TenantApplied(name="red", quota={"gpu_milli": 1, "cpu_milli": 2})
    other = ev.TenantApplied(name="red", quota={"cpu_milli": 2, "gpu_milli": 1})
    assert ev.record_of(one, 0, "x").body == ev.record_of(other, 0, "x").body


def test_a_field_that_a_newer_writer_added_is_passed_over_and_one_that_is_missing_has_its_default() -> None:
    record = ev.record_of(ev.NodeLost(node="n0", why="gone"), 0, "control")
    newer = msgspec.structs.replace(record, body=b'{"node":"n0","why":"gone","later":1}')
    older = msgspec.structs.replace(record, body=b'{"node":"n0"}')
    assert ev.event_of(newer) == ev.NodeLost(node="n0", why="gone")
    assert ev.event_of(older) == ev.NodeLost(node="n0")


@pytest.mark.parametrize("change", [{"type": "NodeExploded"}, {"version": 99}])
def test_what_only_a_newer_plenum_knows_is_refused(change: dict) -> None:
    record = ev.record_of(ev.NodeLost(node="n0"), 0, "control")
    with pytest.raises(InvariantError, match="record 0"):
        ev.event_of(msgspec.structs.replace(record, **change))


def test_an_older_version_is_lifted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed(ev.NodeLost, frozen=True, kw_only=True):
        version = 3

    monkeypatch.setitem(ev.EVENTS, "NodeLost", Renamed)
    monkeypatch.setitem(ev._DECODERS, "NodeLost", msgspec.json.Decoder(Renamed))
    monkeypatch.setitem(ev.UPCASTS, ("NodeLost", 1), lambda body: {"node": body["host"]})
    monkeypatch.setitem(ev.UPCASTS, ("NodeLost", 2), lambda body: body | {"why": "lifted"})
    record = ev.record_of(ev.NodeLost(node="x"), 0, "control")
    old = msgspec.structs.replace(record, version=1, body=b'{"host":"n0"}')
    assert ev.event_of(old) == Renamed(node="n0", why="lifted")


def test_what_people_did_is_kept_for_ever_and_what_machines_did_is_not() -> None:
    kept = {name for name, event in ev.EVENTS.items() if event.audit}
    assert {"JobSubmitted", "JobEnded", "TokenIssued", "Refused", "LeaderChanged", "NodeCordoned"} <= kept
    assert not kept & {"RunReported", "UnitBound", "UnitReleased", "DecisionMade", "JobWaiting", "MixLearned"}
