"""Books kept from the facts in the log alone, by other means than the code under test: who holds what, and was it theirs to give."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from plenum.control import events as ev
from plenum.model.workload import Request, Workload
from plenum.ports.nodes import EXITED
from plenum.ports.store import Record
from plenum.sim.chaos.scenery import CPU_MILLI, GPU_POWER_W, GPUS, MEMORY_BYTES, Plot

FULL = 1000
"""Thousandths that a device has."""


class Violation(Exception):  # noqa: N818
    """Something that must never happen has happened.

    Parameters
    ----------
    invariant
        Its permanent name.
    """

    def __init__(self, invariant: str, sentence: str) -> None:
        super().__init__(f"{invariant}: {sentence}")
        self.invariant, self.sentence = invariant, sentence


def must(holds: object, invariant: str, sentence: str) -> None:
    """Raise Violation unless something holds."""
    if not holds:
        raise Violation(invariant, sentence)


@dataclass(slots=True)
class BookedJob:
    """A job as the log has it; ``generations`` are what was asked for, first to last."""

    uid: int
    tenant: str
    generations: list[Workload]
    going: bool = False
    ended: bool = False


@dataclass(slots=True)
class BookedUnit:
    """A bound unit: its runs and what each holds; ``over`` are the runs said to have ended."""

    job: str
    uid: int
    key: str
    gang: bool
    bindings: dict[str, ev.Binding]
    requests: dict[str, Request]
    bound_at_s: float
    stopped: bool = False
    over: set[str] = field(default_factory=set)


class Load:
    """What a set of replicas takes, device by device and budget by budget."""

    def __init__(self) -> None:
        self.gpu_milli: Counter[tuple[str, int]] = Counter()
        self.cpu_milli: Counter[str] = Counter()
        self.memory_bytes: Counter[str] = Counter()
        self.power_w: Counter[str] = Counter()

    def take(self, node: str, rack: str, gpus: tuple[int, ...], request: Request, sign: int = 1) -> None:
        """Add a replica, or with sign -1 take one away."""
        for g in gpus:
            self.gpu_milli[node, g] += sign * request.gpu_milli
        self.cpu_milli[node] += sign * request.cpu_milli
        self.memory_bytes[node] += sign * request.memory_bytes
        self.power_w[rack] += sign * -(-len(gpus) * request.gpu_milli * GPU_POWER_W // 1000)

    def check(self, node: str, rack: str, rack_power_w: int, where: str) -> None:
        """Raise Violation if a node or its rack gives more than it has."""
        for g in range(GPUS):
            given = self.gpu_milli[node, g]
            must(given <= FULL, "device-twice", f"{where}: GPU {g} of {node} is given {given} thousandths")
        must(self.cpu_milli[node] <= CPU_MILLI, "budget", f"{where}: {node} gives {self.cpu_milli[node]} cpu_milli")
        must(self.memory_bytes[node] <= MEMORY_BYTES, "budget", f"{where}: {node} gives too much memory")
        drawn = self.power_w[rack]
        must(not rack_power_w or drawn <= rack_power_w, "budget", f"{where}: {rack} draws {drawn} of {rack_power_w} W")


def numbers(mask: int) -> tuple[int, ...]:
    """Return the set bits."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


class Books:
    """The log so far, added up the slow and obvious way.

    Parameters
    ----------
    plots
        Fleet name to its plot as last applied is kept by ``manifests``: text to plot.
    """

    def __init__(self, manifests: dict[str, Plot]) -> None:
        self.position = 0
        self.term = 0
        self.jobs: dict[str, BookedJob] = {}
        self.units: dict[tuple[int, str], BookedUnit] = {}
        self.unit_of_run: dict[str, BookedUnit] = {}
        """Runs of bound units."""
        self.runs: set[str] = set()
        """Every run there ever was."""
        self.may_stop: set[str] = set()
        """Runs that an agent may have been told to end."""
        self.traces: dict[str, list[int]] = {}
        """A client's key to the positions of what it led to."""
        self.plots: dict[str, Plot] = {}
        self.lost: set[str] = set()
        self.closed: set[str] = set()
        self.ready: set[str] = set()
        self.leader_changed_at_s = 0.0
        self._manifests = manifests
        self._load = Load()
        self._quota: dict[str, dict[str, int]] = {}
        self._max_jobs: dict[str, int] = {}
        self._held: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def plot_of(self, node: str) -> Plot:
        """Return the fleet that has a node."""
        name = node.partition("-")[0]
        must(name in self.plots and node in self.plots[name].nodes, "no-such-node", f"{node} is in no fleet")
        return self.plots[name]

    def take(self, record: Record, now_s: float) -> ev.Event:
        """Take in the next record.

        Raises
        ------
        Violation
            It says what must not be.
        """
        must(record.position == self.position + 1, "log-order", f"{record.position} follows {self.position}")
        self.position = record.position
        event = ev.event_of(record)
        if record.trace:
            self.traces.setdefault(record.trace, []).append(record.position)
            here = self.traces[record.trace]
            must(len(here) <= here[-1] - here[0] + 1 <= 2, "intent-once", f"{record.trace} acted at {here}")
        handler = getattr(self, f"_{type(event).__name__}", None)
        if handler is not None:
            handler(event, record, now_s)
        return event

    # -- one event each ----------------------------------------------------------------------------

    def _LeaderChanged(self, e: ev.LeaderChanged, record: Record, now_s: float) -> None:  # noqa: N802
        must(e.term >= self.term, "terms", f"term {e.term} follows term {self.term}")
        self.term, self.leader_changed_at_s = e.term, now_s

    def _DecisionMade(self, e: ev.DecisionMade, record: Record, now_s: float) -> None:  # noqa: N802
        must(e.term == self.term, "one-leader", f"a decision of term {e.term} is written in term {self.term}")
        must(e.inputs == record.position - 1, "stale-decision", f"{record.position} was decided on {e.inputs}")

    def _TenantApplied(self, e: ev.TenantApplied, record: Record, now_s: float) -> None:  # noqa: N802
        self._quota[e.name], self._max_jobs[e.name] = e.quota, e.max_jobs

    def _FleetApplied(self, e: ev.FleetApplied, record: Record, now_s: float) -> None:  # noqa: N802
        old, self.plots[e.name] = self.plots.get(e.name), self._manifests[e.manifest]
        gone = set(old.nodes if old else ()) - set(self.plots[e.name].nodes)
        for unit in self.units.values():
            on = {b.node for b in unit.bindings.values()} & gone
            must(not on, "fleet-shrunk", f"nodes {sorted(on)} went with {unit.job} on them")
        for known in (self.closed, self.lost, self.ready):
            known -= gone

    def _NodeReady(self, e: ev.NodeReady, record: Record, now_s: float) -> None:  # noqa: N802
        self.ready.add(e.node)
        self.lost.discard(e.node)

    def _NodeLost(self, e: ev.NodeLost, record: Record, now_s: float) -> None:  # noqa: N802
        self.ready.discard(e.node)
        self.lost.add(e.node)
        if not e.gone:
            return
        for run, unit in self.unit_of_run.items():
            if unit.bindings[run].node == e.node:
                unit.over.add(run)
                self.may_stop.add(run)

    def _NodeCordoned(self, e: ev.NodeCordoned, record: Record, now_s: float) -> None:  # noqa: N802
        (self.closed.add if e.cordoned else self.closed.discard)(e.node)

    def _JobSubmitted(self, e: ev.JobSubmitted, record: Record, now_s: float) -> None:  # noqa: N802
        known = self.jobs.get(e.job)
        must(known is None, "job-twice", f"{e.job} is submitted while it is there")
        tenant = e.tenant()
        live = sum(1 for job in self.jobs.values() if job.tenant == tenant and not job.ended)
        most = self._max_jobs.get(tenant, 0)
        must(e.owner or not most or live < most, "max-jobs", f"{tenant} gets job {live + 1} of {most}")
        self.jobs[e.job] = BookedJob(record.position, tenant, [e.workload])

    def _JobChanged(self, e: ev.JobChanged, record: Record, now_s: float) -> None:  # noqa: N802
        job = self.jobs[e.job]
        must(not job.ended and not job.going, "changed-after-end", f"{e.job} is changed though it goes")
        if e.restart:
            job.generations.append(e.workload)
        else:
            job.generations[-1] = e.workload

    def _JobScaled(self, e: ev.JobScaled, record: Record, now_s: float) -> None:  # noqa: N802
        job = self.jobs[e.job]
        (role,) = job.generations[-1].roles
        job.generations[-1] = replace(job.generations[-1], roles=(replace(role, replicas=e.replicas),))

    def _JobStopRequested(self, e: ev.JobStopRequested, record: Record, now_s: float) -> None:  # noqa: N802
        self.jobs[e.job].going = True

    def _UnitBound(self, e: ev.UnitBound, record: Record, now_s: float) -> None:  # noqa: N802
        job = self.jobs[e.job]
        workload = job.generations[-1]
        must(not job.ended and not job.going, "bound-after-end", f"{e.job} is bound though it goes")
        must(e.generation == len(job.generations), "old-generation", f"{e.job} is bound in generation {e.generation}")
        must((job.uid, e.unit) not in self.units, "unit-twice", f"{e.job} {e.unit} is bound while it is bound")
        requests = {role.name: role.request for role in workload.roles}
        unit = BookedUnit(
            e.job,
            job.uid,
            e.unit,
            len(e.bindings) > 1,
            {b.run: b for b in e.bindings},
            {b.run: requests[b.role] for b in e.bindings},
            now_s,
        )
        self._check_whole(workload, e)
        for run, binding in unit.bindings.items():
            must(run not in self.runs, "run-twice", f"run {run} of {e.job} was there before")
            where = binding.node
            must(where in self.ready and where not in self.closed, "closed-node", f"{run} is bound to {where}")
            self.runs.add(run)
            self.unit_of_run[run] = unit
        tenant, held = job.tenant, self._held[job.tenant]
        before = dict(held)
        self.units[job.uid, e.unit] = unit
        self._count(unit, 1)
        self._check_apart(workload, unit)
        for resource, most in self._quota.get(tenant, {}).items():
            kept = held[resource] <= max(most, before.get(resource, 0))  # a quota may be set below what is held
            must(kept, "quota", f"{tenant} holds {held[resource]} {resource} of {most}")

    def _UnitStopped(self, e: ev.UnitStopped, record: Record, now_s: float) -> None:  # noqa: N802
        unit = self.units[self.jobs[e.job].uid, e.unit]
        unit.stopped = True
        self.may_stop |= unit.bindings.keys()

    def _RunReported(self, e: ev.RunReported, record: Record, now_s: float) -> None:  # noqa: N802
        unit = self.unit_of_run[e.run]
        must(e.run not in unit.over, "said-after-end", f"{e.run} is {e.phase} after its end")
        if e.phase == EXITED:
            unit.over.add(e.run)
            self.may_stop.add(e.run)

    def _UnitReleased(self, e: ev.UnitReleased, record: Record, now_s: float) -> None:  # noqa: N802
        unit = self.units.pop((self.jobs[e.job].uid, e.unit))
        open_runs = unit.bindings.keys() - unit.over
        must(not open_runs, "freed-early", f"{e.job} {e.unit} is released before {sorted(open_runs)} ended")
        for run in unit.bindings:
            del self.unit_of_run[run]
        self._count(unit, -1)

    def _JobEnded(self, e: ev.JobEnded, record: Record, now_s: float) -> None:  # noqa: N802
        job = self.jobs[e.job]
        bound = [unit.key for unit in self.units.values() if unit.uid == job.uid]
        must(not bound, "ended-early", f"{e.job} ended while {bound} are bound")
        job.ended = True
        if e.phase == "Deleted":
            del self.jobs[e.job]

    def _JobForgotten(self, e: ev.JobForgotten, record: Record, now_s: float) -> None:  # noqa: N802
        must(self.jobs.pop(e.job).ended, "forgotten-early", f"{e.job} is forgotten while it lives")

    # -- sums --------------------------------------------------------------------------------------

    def _count(self, unit: BookedUnit, sign: int) -> None:
        held = self._held[unit.job.partition("/")[0]]
        for run, binding in unit.bindings.items():
            request, where = unit.requests[run], self.plot_of(binding.node)
            rack, gpus = where.racks[binding.node], numbers(binding.gpu_mask)
            must(len(gpus) == request.gpus, "wrong-devices", f"{run} gets {len(gpus)} GPUs of {request.gpus}")
            self._load.take(binding.node, rack, gpus, request, sign)
            held["gpu_milli"] += sign * len(gpus) * request.gpu_milli
            held["cpu_milli"] += sign * request.cpu_milli
            held["memory_bytes"] += sign * request.memory_bytes
            if sign > 0:
                self._load.check(binding.node, rack, where.rack_power_w, f"as of {self.position}")

    def _check_whole(self, workload: Workload, e: ev.UnitBound) -> None:
        """Raise Violation unless a binding is of a whole gang, or of the one replica that it says."""
        if not workload.gang:
            slots = [b.slot for b in e.bindings]
            role = next(r for r in workload.roles if r.name == e.unit.rpartition("-")[0])
            whole = [e.unit, *(f"{e.unit}.{part}" for part in range(1, role.nodes))]
            must(slots == whole, "split", f"{e.job} {e.unit} is bound as {slots}")
            return
        for role in workload.roles:
            ranks = sorted(b.rank for b in e.bindings if b.role == role.name)
            must(ranks == list(range(len(ranks))), "split", f"{e.job} is bound with ranks {ranks} of {role.name}")
            must(len(ranks) in role.sizes(), "split", f"{e.job} is bound with {len(ranks)} of {role.name}")

    def _check_apart(self, workload: Workload, bound: BookedUnit) -> None:
        """Raise Violation if a unit just bound breaks a required spread over its job's replicas."""
        for apart in workload.apart:
            if not apart.required:
                continue
            nodes = [b.node for u in self.units.values() if u.uid == bound.uid for b in u.bindings.values()]
            new = {self._domain(b.node, apart.level) for b in bound.bindings.values()}
            for domain, times in Counter(self._domain(node, apart.level) for node in nodes).items():
                kept = domain not in new or times <= apart.max_per_domain
                must(kept, "spread", f"{workload.id} has {times} replicas in {domain}")

    def _domain(self, node: str, level: str) -> str:
        return node if level == "place.node" else self.plot_of(node).racks[node]
