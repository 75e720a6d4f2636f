"""The auditor: looks at the log and at what really runs after every step, and says what must not be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from plenum.control import events as ev
from plenum.control.decider import Decider
from plenum.control.protocol import LEASE_GRACE_S, LEASE_MARGIN_S
from plenum.control.state import State
from plenum.model.workload import Request
from plenum.ports.nodes import EXITED, Assignment, Report
from plenum.ports.store import Record
from plenum.sim.chaos.books import BookedUnit, Books, Load, must
from plenum.sim.chaos.hosts import Host
from plenum.sim.chaos.scenery import Plot, read_fleet

LEASES_S = (12.0, 30.0, 30.0, 45.0)
"""Of agents; each life of a replica is given one."""

HALF_S = 2 * (max(LEASES_S) + LEASE_GRACE_S + LEASE_MARGIN_S) + 40.0
"""Longest that a part of a gang may run without the rest: until the loss of a node is sure, the order to stop has reached the others or
their leases have lapsed, and the longest grace in the scenery is over. Counted anew from a change of leader, which must wait again."""

CHECK_ONE_OF = 12
"""One decision in so many is made again by a decider that starts from nothing."""


class Auditor:
    """Keeps the books of a world.

    Parameters
    ----------
    tell
        Takes a sentence of the story.
    """

    def __init__(self, manifests: dict[str, Plot], now_s: Callable[[], float], tell: Callable[[str], None]) -> None:
        self.books = Books(manifests)
        self.replayed = State()
        """The log replayed record by record from zero; never from a snapshot."""
        self.digest = hashlib.sha256()
        self._now_s, self._tell = now_s, tell
        self._seen: dict[str, tuple[Report, ...]] = {}
        self._alive: dict[str, dict[str, Assignment]] = {}
        self._slots: dict[tuple[int, str], str] = {}
        self._well: set[str] = set()
        """Runs seen to have ended of themselves, and well."""
        self._half: dict[tuple[int, str], float] = {}
        self._acknowledged: dict[str, int] = {}
        self._decisions = 0

    # -- the log -----------------------------------------------------------------------------------

    def appended(self, records: Sequence[Record]) -> None:
        """Take in what was just appended."""
        for record in records:
            self.digest.update(repr((record.position, record.at, record.type, record.subject, record.trace)).encode())
            self.digest.update(record.body)
            event = self.books.take(record, self._now_s())
            if isinstance(event, ev.DecisionMade):
                self._decide_again(event, records)
            self.replayed.apply(record)
            self._tell(f"{record.position} {_said(event, record)}")
            if isinstance(event, ev.UnitReleased | ev.UnitBound):
                self._look_at_gangs()

    def _decide_again(self, event: ev.DecisionMade, records: Sequence[Record]) -> None:
        """Hold an incremental decision to one made from nothing."""
        self._decisions += 1
        if self._decisions % CHECK_ONE_OF or event.rejected:
            return
        again = Decider(read_fleet).decide(self.replayed, event.now)
        wrote = [e for e in map(ev.event_of, records) if isinstance(e, ev.UnitBound)]
        same = again is not None and list(again.bound) == wrote
        must(same, "decides-alike", f"the decision at {self.books.position} is made differently from nothing")

    def acknowledged(self, key: str, position: int, wrote: int) -> None:
        """Note that a client was told that its command is done."""
        must(position <= self.books.position, "intent-lost", f"{key} is acknowledged at {position}, which is not there")
        before = self._acknowledged.setdefault(key, position)
        must(before == position, "intent-once", f"{key} is acknowledged at {before} and at {position}")
        if wrote:
            at = self.books.traces.get(key, [])
            must(at and at[-1] == position and len(at) == wrote, "intent-lost", f"{key} should be at {position}: {at}")

    # -- what really runs --------------------------------------------------------------------------

    def look(self, hosts: Sequence[Host]) -> None:
        """Compare what runs on every host with what may."""
        changed = False
        for host in hosts:
            for driver in host.drivers:
                reports = driver.observe()
                if self._seen.get(driver.name) is not reports:
                    self._seen[driver.name] = reports
                    self._note(driver.name, reports, driver.assignments)
                    changed = True
        if changed:
            self._check_loads()
            self._look_at_gangs()
        self._check_half()

    def _note(self, driver: str, reports: tuple[Report, ...], assignments: dict[str, Assignment]) -> None:
        alive = {r.run: assignments[r.run] for r in reports if r.phase != EXITED}
        before = self._alive.get(driver, {})
        for run in before.keys() - alive.keys():
            a = before[run]
            if self._slots.get((a.uid, a.slot)) == run:
                del self._slots[a.uid, a.slot]
        self._alive[driver] = alive
        for run in sorted(alive.keys() - before.keys()):
            a = alive[run]
            twice = [name for name, there in self._alive.items() if name != driver and run in there]
            must(not twice, "run-twice", f"{run} runs in {driver} and in {twice}")
            other = self._slots.setdefault((a.uid, a.slot), run)
            must(other == run, "slot-twice", f"{run} runs on {a.node} while {other} of the same replica runs")
            self._tell(f"{run} runs on {a.node}")
        for r in reports:
            if r.phase != EXITED or r.run not in before:
                continue
            self._tell(f"{r.run} ended: {r.exit_code} {r.cause}")
            if r.exit_code == 0 and not r.cause:
                self._well.add(r.run)
            unordered = r.cause == "stopped" and r.run not in self.books.may_stop
            must(not unordered, "stopped-unasked", f"{r.run} was stopped, which nobody had decided")

    def _check_loads(self) -> None:
        load = Load()
        where: dict[str, Plot] = {}
        for alive in self._alive.values():
            for run, a in alive.items():
                must(run in self.books.unit_of_run, "runs-unheld", f"{run} runs on {a.node} and holds nothing")
                plot = where[a.node] = self.books.plot_of(a.node)
                load.take(a.node, plot.racks[a.node], a.gpus, _request(a))
        for node, plot in where.items():
            load.check(node, plot.racks[node], plot.rack_power_w, "as it runs")

    def runs(self) -> set[str]:
        """Return the runs that are alive anywhere."""
        return {run for alive in self._alive.values() for run in alive}

    def _look_at_gangs(self) -> None:
        alive = self.runs()
        for run in alive - self.books.unit_of_run.keys():
            must(False, "runs-unheld", f"{run} runs and holds nothing")
        half = {
            key: self._half.get(key, self._now_s())
            for key, unit in self.books.units.items()
            if unit.gang and self._is_half(unit, alive)
        }
        self._half = half

    def _is_half(self, unit: BookedUnit, alive: set[str]) -> bool:
        running = [run in alive for run in unit.bindings]
        return any(running) and not all(on or run in self._well for on, run in zip(running, unit.bindings, strict=True))

    def _check_half(self) -> None:
        for key, since_s in self._half.items():
            for_s = self._now_s() - max(since_s, self.books.leader_changed_at_s)
            must(for_s < HALF_S, "half-gang", f"{self.books.units[key].job} has run in part for {for_s:.0f} s")

    # -- replicas ----------------------------------------------------------------------------------

    def compare(self, name: str, state: State) -> None:
        """Hold a replica's state to the log replayed from zero, where it is as far."""
        if state.position == self.replayed.position:
            same = state.snapshot().data == self.replayed.snapshot().data
            must(same, "replays", f"{name} differs from the log replayed from zero at {state.position}")


def _request(a: Assignment) -> Request:
    return Request(gpus=len(a.gpus), gpu_milli=a.gpu_milli or 1000, cpu_milli=a.cpu_milli, memory_bytes=a.memory_bytes)


_SHOWN = ("run", "phase", "exit_code", "cause", "unit", "why", "code", "outcome", "again", "term", "holder", "agent")


def _said(event: ev.Event, record: Record) -> str:
    shown = [type(event).__name__, record.subject]
    if isinstance(event, ev.UnitBound):
        shown += [event.unit, *(f"{b.run}@{b.node}" for b in event.bindings)]
    for name in _SHOWN:
        value = getattr(event, name, None)
        if value not in (None, "") and not isinstance(event, ev.UnitBound):
            shown.append(f"{name}={value}")
    return " ".join(shown)
