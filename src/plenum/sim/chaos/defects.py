"""Planted bugs, to see that the simulation finds them. Nothing else uses this."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from plenum.control import events as ev
from plenum.control.agent import Agent
from plenum.control.controller import Controller
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.control.records import ENDED
from plenum.ports.nodes import Fence
from plenum.ports.store import Record, Snapshot
from plenum.sim.nodes import SimulatedDriver


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a world is made of."""

    controller: type[Controller] = Controller
    agent: type[Agent] = Agent
    driver: type[SimulatedDriver] = SimulatedDriver
    fences: bool = True
    """Whether the log refuses what is written in a term that is over."""
    adopts: bool = True


class UnfencedAgent(Agent):
    """Follows whatever answer comes, however old."""

    def take(self, request: SyncRequest, sent_at: float, response: SyncResponse) -> bool:
        """Follow."""
        self.fence = Fence()
        return super().take(request, sent_at, response)


class UnfencedDriver(SimulatedDriver):
    """Takes whatever order comes, however old."""

    def _admit(self, fence: Fence) -> None:
        pass


class DeafAgent(Agent):
    """Goes on though its lease has lapsed."""

    def tick(self) -> bool:
        """Do nothing."""
        return False


class EndlessDriver(SimulatedDriver):
    """Takes every lease for one for ever."""

    def renew(self, until_s: float) -> None:
        """Never let it lapse."""
        super().renew(math.inf)


class HastyController(Controller):
    """Gives nodes up long before their leases have lapsed."""

    def _silent(self) -> list[ev.Event]:
        now = self.clock.monotonic()
        found: list[ev.Event] = []
        for fleet in self.state.fleets.values():
            if now - self.heard.setdefault(fleet.agent, now) > 12.0:
                found += [ev.NodeLost(node=n) for n in fleet.nodes if self.state.nodes[n].phase == "Ready"]
        return found


class EagerController(Controller):
    """Frees devices once a unit is ordered to stop, before its runs have ended."""

    def tend(self, *, timers: bool = True) -> list[Record]:
        """Tend, and free what stops."""
        found = super().tend(timers=timers)
        if found:
            return found
        units = [
            ev.UnitReleased(job=job.id, unit=u.key, attempt=u.attempt, outcome="stopped", again=not job.stop)
            for job in self.state.jobs.values()
            if job.phase not in ENDED
            for u in job.units.values()
            if u.phase == "bound" and u.stop
        ]
        return [ev.record_of(e, self.clock.now(), "control") for e in units]


class UnfencedController(Controller):
    """Believes that it leads until it is told otherwise; with it goes a log that does not look at terms."""

    @property
    def leading(self) -> bool:
        """Whether it once led."""
        return self.term > 0


class ForgetfulController(Controller):
    """Leaves something out of its snapshots."""

    def save_snapshot(self, *, force: bool = False) -> bool:
        """Save a snapshot in which no unit has ever failed or been tried."""
        whole = msgspec.json.decode(self.state.snapshot().data)
        for job in whole["jobs"].values():
            for unit in job["units"].values():
                unit["failures"] = 0
        data = msgspec.json.encode(whole, order="deterministic")
        digest = hashlib.sha256(data).hexdigest()
        self.store.save_snapshot(Snapshot(position=self.state.position, digest=digest, data=data))
        return True


class BoastfulController(Controller):
    """Ignores quotas."""

    def decide(self) -> Any:
        """Decide as if there were none."""
        kept = {name: tenant.quota for name, tenant in self.state.tenants.items()}
        for tenant in self.state.tenants.values():
            tenant.quota = {}
        try:
            return super().decide()
        finally:
            for name, quota in kept.items():
                self.state.tenants[name].quota = quota


class RepeatingController(Controller):
    """Does not look at clients' keys."""

    def propose(self, commands: Any, used: Any) -> Any:
        """Decide each anew."""
        return super().propose(commands, {})


class _Defects(dict[str, Parts]):
    def parts(self, names: Collection[str]) -> Parts:
        """Return a world's parts with some bugs planted."""
        changed: dict[str, Any] = {}
        for name in names:
            parts = self[name]
            changed |= {f: getattr(parts, f) for f in Parts.__slots__ if getattr(parts, f) != getattr(Parts(), f)}
        return Parts(**changed)


DEFECTS = _Defects(
    {
        "no-fence": Parts(agent=UnfencedAgent, driver=UnfencedDriver),
        "unfenced-leader": Parts(controller=UnfencedController, fences=False),
        "ignores-lease": Parts(agent=DeafAgent, driver=EndlessDriver),
        "hasty-loss": Parts(controller=HastyController),
        "frees-early": Parts(controller=EagerController),
        "forgets-adoption": Parts(adopts=False),
        "forgetful-snapshot": Parts(controller=ForgetfulController),
        "ignores-quota": Parts(controller=BoastfulController),
        "ignores-keys": Parts(controller=RepeatingController),
    }
)
"""Name to what is exchanged."""
