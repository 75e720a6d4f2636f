import pytest

from plenum.ports.store import Record, StoreError
from plenum.sim.store import MemoryStore, NoFileError


class ManualClock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s


RECORD = Record(at=0.0, type="tested")


def test_leases_lapse_by_the_clock():
    clock = ManualClock()
    store = MemoryStore(clock)
    first = store.acquire("a", 10.0)
    clock.time_s = 9.9
    assert store.acquire("b", 10.0) is None
    assert store.leader() == first
    clock.time_s = 10.0
    assert store.leader() is None
    second = store.acquire("b", 10.0)
    assert first is not None
    assert second is not None
    assert (first.term, second.term) == (1, 2)


def test_a_fault_before():
    store = MemoryStore(ManualClock(), fault=lambda name: "before" if name == "append" else "")
    with pytest.raises(StoreError):
        store.append([RECORD], expected=0)
    assert store.head() == 0
    store.fault = None
    assert store.append([RECORD], expected=0) == 1


def test_a_fault_after():
    store = MemoryStore(ManualClock(), fault=lambda name: "after" if name == "append" else "")
    with pytest.raises(StoreError):
        store.append([RECORD], expected=0)
    assert store.head() == 1


def test_any_operation_may_fail():
    asked: list[str] = []
    store = MemoryStore(ManualClock(), fault=lambda name: asked.append(name) or "before")
    for operation in (store.head, store.base, store.snapshot, store.leader, store.drop_snapshots):
        with pytest.raises(StoreError):
            operation()
    assert asked == ["head", "base", "snapshot", "leader", "drop_snapshots"]


def test_no_backup():
    with pytest.raises(NoFileError):
        MemoryStore(ManualClock()).backup("anywhere")
