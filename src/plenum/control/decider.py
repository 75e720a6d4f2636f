"""The decision: which waiting units are bound where. The state at a position of the log decides it, and nothing else does.

The engine is kept from one decision to the next and brought in line with the state before each; a decision asked about later
builds its own from the state of then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from plenum.control import events as ev
from plenum.control.records import ENDED, FleetRecord, Job, Run, Unit
from plenum.control.state import State
from plenum.control.units import amounts_of, may_start, run_name, sized, unit_id, unit_keys, unit_workload
from plenum.graph.join import joined, with_trait
from plenum.model.fleet import CPU, GPU_MILLI, MEMORY, Fleet, Health
from plenum.model.plan import Placement, Reason
from plenum.model.units import show, unit_of
from plenum.model.view import Rows, View
from plenum.model.workload import Request, Workload
from plenum.placement import DEFAULT, Engine, Policy
from plenum.placement.beside import place_beside
from plenum.placement.engine import frequencies_of

MAX_CONSIDERED = 4_096
"""Jobs tried in one decision, the most urgent first."""

MAX_BOUND = 128
"""Units bound by one decision; the others follow in the next, so that a flood does not hold up everything else."""

MAX_MIX = 64
"""Distinct requests that scores are learned from, the most frequent first."""

_TRAIT = {"simulated": "simulated", "agent": "process"}
"""Trait of a driver's nodes, which jobs ask for by what they run (see commands.apply_job)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided on the inputs at a position.

    Parameters
    ----------
    bound
        A binding a unit, in the order of decision.
    reasons
        For each job considered that is left waiting, wholly or in part.
    more
        Whether a limit cut the decision short.
    """

    inputs: int
    now: float
    policy: str
    considered: tuple[str, ...] = ()
    bound: tuple[ev.UnitBound, ...] = ()
    reasons: tuple[Reason, ...] = ()
    more: bool = False


@dataclass(slots=True)
class Decider:
    """Decides on states of one log.

    Parameters
    ----------
    read_fleet
        Reads a Fleet manifest.
    """

    read_fleet: Callable[[str], Fleet]
    policy: Policy = DEFAULT
    _engine: Engine | None = None
    _built_for: tuple[int, int] = (-1, -1)
    _fleets: dict[tuple[str, int], Fleet] = field(default_factory=dict)
    _node: dict[str, int] = field(default_factory=dict)
    _knows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Unit to (uid, attempt) that the engine holds."""

    def decide(self, state: State, now: float) -> Decision | None:
        """Return a decision on what waits; None: nothing that waits may start now, or there is no hardware.

        Parameters
        ----------
        now
            Seconds since the epoch; units with a later ``not_before`` are left out.
        """
        waiting = waiting_jobs(state, now)
        if not waiting:
            return None
        engine = self.engine(state)
        if engine is None:
            return None
        deciding = _Deciding(state, engine, self._names(), now)
        decision = deciding.run(waiting)
        self._knows.update(deciding.placed)
        state.rebound.update(dict.fromkeys(deciding.placed))  # to be seen again, in case that they are not carried out
        return decision

    def reset(self) -> None:
        """Forget the engine: what was decided last was not carried out, or not by us."""
        self._engine = None

    def engine(self, state: State) -> Engine | None:
        """Return the engine over what is bound at the state's position; None: there are no nodes."""
        if not state.nodes:
            return None
        key = (state.fleet_version, hash(state.mix))
        if self._engine is None or self._built_for != key:
            self._engine, self._built_for = self._build(state), key
        else:
            self._follow(self._engine, state)
        return self._engine

    def fleet(self, state: State) -> Fleet:
        """Return all hardware as one fleet, with what is out of service marked so."""
        kept = {(f.name, f.version): f for f in state.fleets.values()}
        self._fleets = {key: self._fleets.get(key) or self._read(record) for key, record in kept.items()}
        whole = joined([self._fleets[key] for key in sorted(kept)])
        names = [whole.node_name(n) for n in range(whole.n_nodes)]
        nodes = [state.nodes[name] for name in names]
        self._node = {name: n for n, name in enumerate(names)}
        down = np.array([node.phase != "Ready" for node in nodes], np.bool_)
        cordoned = np.array([node.cordoned for node in nodes], np.bool_)
        health = np.where(down, Health.DOWN, whole.node_health).astype(np.uint8)
        return whole.replaced(node_health=health, node_cordoned=whole.node_cordoned | cordoned)

    def _read(self, record: FleetRecord) -> Fleet:
        return with_trait(self.read_fleet(record.manifest), _TRAIT[record.driver])

    def _names(self) -> list[str]:
        return list(self._node)

    def _build(self, state: State) -> Engine:
        fleet = self.fleet(state)
        bound = [_bound_unit(state, name) for name in state.bound]
        bound.sort(key=lambda pair: (pair[0].uid, pair[1].key))
        workloads = tuple(unit_workload(job.bound_as(unit)[0], unit.key) for job, unit in bound)
        rows = [self._rows(job, unit).owned_by(i) for i, (job, unit) in enumerate(bound)]
        self._knows = dict(state.bound)
        state.rebound.clear()
        view = View(fleet=fleet, running=workloads, rows=Rows.joined(rows), position=state.position)
        return Engine(view, self.policy, frequencies=state.mix)

    def _follow(self, engine: Engine, state: State) -> None:
        """Bring the engine in line with what is bound."""
        changed = [name for name in state.rebound if self._knows.get(name) != state.bound.get(name)]
        engine.release(*sorted(name for name in changed if name in self._knows))
        for name in sorted(name for name in changed if name in state.bound):
            job, unit = _bound_unit(state, name)
            engine.record(unit_workload(job.bound_as(unit)[0], unit.key), self._rows(job, unit))
        for name in changed:
            if name in state.bound:
                self._knows[name] = state.bound[name]
            else:
                del self._knows[name]
        state.rebound.clear()

    def _rows(self, job: Job, unit: Unit) -> Rows:
        runs = _ordered(job, unit)
        order = _role_order(job.bound_as(unit)[0])
        alone = bool(unit.key)
        return Rows(
            workload=np.zeros(len(runs), np.int32),
            role=np.array([0 if alone else order[r.role] for r in runs], np.int16),
            rank=np.array([r.part if alone else r.rank for r in runs], np.int32),
            node=np.array([self._node[r.node] for r in runs], np.int32),
            gpu_mask=np.array([r.gpu_mask for r in runs], np.uint64),
            nic_mask=np.array([r.nic_mask for r in runs], np.uint64),
            mig_mask=np.array([r.mig_mask for r in runs], np.uint8),
            numa_mask=np.array([r.numa_mask for r in runs], np.uint8),
        )


def learned_mix(state: State, now: float) -> tuple[tuple[Request, int], ...] | None:
    """Return the mix of requests to learn scores from, if jobs that wait ask for something that the present one does not know."""
    known = {request for request, _ in state.mix}
    waiting = waiting_jobs(state, now)[:MAX_CONSIDERED]
    if len(known) >= MAX_MIX or all(role.request in known for job in waiting for role in job.workload.roles):
        return None
    mix = frequencies_of(state.jobs[job].workload for job in state.live)
    return tuple(sorted(mix, key=lambda pair: -pair[1])[:MAX_MIX])


def waiting_jobs(state: State, now: float) -> list[Job]:
    """Return the jobs with units that may start now, most urgent first, at most so many."""
    found = [job for job_id in state.waiting if _may_start(job := state.jobs[job_id], now)]
    # A gang that was made smaller comes first: what it gave up is for others, the rest is not.
    found.sort(key=lambda job: (not job.shrink_to, -job.workload.priority, job.workload.submitted_s, job.id))
    return found


def next_start(state: State, now: float) -> float | None:
    """Return the time at which the next unit has waited out its backoff; None: none is waiting one out."""
    times = [
        unit.not_before
        for job_id in state.waiting
        for unit in state.jobs[job_id].units.values()
        if unit.phase == "waiting" and not may_start(unit, now)
    ]
    return min(times, default=None)


def rejections(state: State, decision: Decision) -> dict[tuple[str, str], str]:
    """Return the bindings of a decision that the state has overtaken, and why; all others may be carried out.

    Devices cannot have been taken meanwhile, as decisions alone take them and there is one at a time.
    """
    found = {}
    for bound in decision.bound:
        why = _overtaken(state, bound)
        if why:
            found[bound.job, bound.unit] = why
    return found


def _overtaken(state: State, bound: ev.UnitBound) -> str:
    job = state.jobs.get(bound.job)
    if job is None or job.phase in ENDED or job.stop:
        return "the job is gone or going"
    unit = job.units.get(bound.unit)
    if unit is None or job.generation != bound.generation:
        return "the job was changed"
    if unit.phase != "waiting" or unit.attempt + 1 != bound.attempt:
        return "the unit does not wait any more"
    if job.uid != int(bound.bindings[0].run.partition("-")[0]):
        return "the job is another of the same name"
    for binding in bound.bindings:
        node = state.nodes.get(binding.node)
        if node is None or not node.schedulable:
            return f"node {binding.node} takes no work any more"
    return ""


# -- one decision -----------------------------------------------------------------------------------


class _Deciding:
    """The variables of one decision."""

    def __init__(self, state: State, engine: Engine, names: list[str], now: float) -> None:
        self._state, self._engine, self._names, self._now = state, engine, names, now
        self._bound: list[ev.UnitBound] = []
        self._reasons: list[Reason] = []
        self._considered: list[str] = []
        self._cut = False
        self.placed: dict[str, tuple[int, int]] = {}
        self._refused: set[tuple[object, ...]] = set()
        self._used = {tenant: dict(used) for tenant, used in state.usage.items()}

    def run(self, waiting: list[Job]) -> Decision:
        self._cut = len(waiting) > MAX_CONSIDERED
        for job in waiting[:MAX_CONSIDERED]:
            if self._is_full():
                break
            self._considered.append(job.id)
            self._consider(job)
        return Decision(
            inputs=self._state.position,
            now=self._now,
            policy=self._engine.policy.name,
            considered=tuple(self._considered),
            bound=tuple(self._bound),
            reasons=tuple(self._reasons),
            more=self._cut,
        )

    def _is_full(self) -> bool:
        """Whether as much is bound as one decision may bind; the rest is left to the next."""
        if len(self._bound) < MAX_BOUND:
            return False
        self._cut = True
        return True

    def _consider(self, job: Job) -> None:
        # In the order of the workload: that of the dictionary depends on where the state came from.
        keys = [key for key in unit_keys(job.workload) if may_start(job.units[key], self._now)]
        outcome = self._gang(job) if keys == [""] else self._replicas(job, keys)
        if outcome is not None:
            self._reasons.append(outcome)

    def _gang(self, job: Job) -> Reason | None:
        wanted = self._within_quota(job)
        if isinstance(wanted, Reason):
            return wanted
        kind = _sameness(wanted)
        if kind in self._refused:
            return _as_before(wanted)
        outcome = self._engine.place(wanted)
        if isinstance(outcome, Reason):
            self._refused.add(kind)
            return outcome
        slots = [(job.workload.roles[r].name, int(k), 0) for r, k in _role_and_rank(outcome.rows)]
        self._bind(job, "", outcome, outcome.rows, slots)
        return None

    def _replicas(self, job: Job, keys: list[str]) -> Reason | None:
        """Place independent replicas: all that wait at once where none runs and something ties them, else one beside the others."""
        # What ties the nodes of a replica to one another does not tie replicas.
        tied = bool(job.workload.together or job.workload.apart) and all(r.nodes == 1 for r in job.workload.roles)
        if tied and len(keys) == len(job.units) > 1 and self._over_quota(job, job.workload) is None:
            return self._together(job)
        siblings = [rows for u in job.units.values() if u.phase == "bound" for rows in [self._held(job, u.key)]]
        short: dict[str, Reason] = {}
        for key in keys:
            role, _, rank = key.rpartition("-")
            if role in short:
                continue  # its replicas are alike
            if self._is_full():
                return None
            replica = unit_workload(job.workload, key)
            kind = (*_sameness(replica), job.tenant, tied and job.id)
            reason = self._over_quota(job, replica)
            if reason is None and kind in self._refused:
                reason = _as_before(replica)
            if reason is None:
                outcome = place_beside(self._engine, replica, Rows.joined(siblings if tied else []))
                if isinstance(outcome, Placement):
                    siblings.append(outcome.rows)
                    slots = [(role, int(rank), part) for part in outcome.rows.rank.tolist()]
                    self._bind(job, key, outcome, outcome.rows, slots)
                    continue
                self._refused.add(kind)
                reason = outcome
            short[role] = reason
        return next((_in_part(job, reason, len(siblings)) for reason in short.values()), None)

    def _together(self, job: Job) -> Reason | None:
        """Place all replicas by one search, and hand each its own."""
        outcome = self._engine.place(job.workload)
        if isinstance(outcome, Reason):
            return outcome
        self._engine.release(job.id)
        for i, (r, rank) in enumerate(_role_and_rank(outcome.rows)):
            role = job.workload.roles[r].name
            key = f"{role}-{rank}"
            rows = replace(outcome.rows[i], role=np.zeros(1, np.int16), rank=np.zeros(1, np.int32))
            self._engine.record(unit_workload(job.workload, key), rows)
            self._bind(job, key, outcome, rows, [(role, rank, 0)])
        placed = len(outcome.rows)
        if placed < job.workload.replicas:
            return _in_part(job, _as_before(job.workload), placed)
        return None

    def _held(self, job: Job, key: str) -> Rows:
        return self._engine.running[unit_id(job, key)][1]

    def _bind(self, job: Job, key: str, placement: Placement, rows: Rows, slots: list[tuple[str, int, int]]) -> None:
        unit = job.units[key]
        domains = self._engine.cluster.fleet.domain_name
        attempt = unit.attempt + 1
        columns = (rows.node, rows.gpu_mask, rows.nic_mask, rows.mig_mask, rows.numa_mask)
        bindings = tuple(
            ev.Binding(
                run=run_name(self._state, job, attempt, ev.slot_of(role, rank, part)),
                role=role,
                rank=rank,
                part=part,
                node=self._names[node],
                gpu_mask=gpus,
                nic_mask=nics,
                mig_mask=mig,
                numa_mask=numa,
            )
            for (role, rank, part), node, gpus, nics, mig, numa in zip(
                slots, *(c.tolist() for c in columns), strict=True
            )
        )
        self._bound.append(
            ev.UnitBound(
                job=job.id,
                unit=key,
                attempt=attempt,
                generation=job.generation,
                decision=self._state.position,
                bindings=bindings,
                inside=tuple(f"{level} {domains[used[0]]}" for level, used in placement.levels if len(used) == 1),
                given_up=placement.degraded,
                relative_cost=placement.cost.relative if placement.cost else None,
            )
        )
        self.placed[unit_id(job, key)] = (job.uid, attempt)
        requests = {role.name: role.request for role in job.workload.roles}
        used = self._used.setdefault(job.tenant, {})
        for role, _, _ in slots:  # an elastic gang may be smaller than it would like to be
            for resource, amount in amounts_of(requests[role]):
                used[resource] = used.get(resource, 0) + amount

    # -- quotas ------------------------------------------------------------------------------------

    def _within_quota(self, job: Job) -> Workload | Reason:
        """Return a gang at its largest size that the tenant's quota allows, or why there is none."""
        over: Reason | None = None
        for smaller in sized(job.workload):
            if job.shrink_to and smaller.replicas > job.shrink_to:
                continue
            over = self._over_quota(job, smaller)
            if over is None:
                return smaller
        assert over is not None
        return over

    def _over_quota(self, job: Job, workload: Workload) -> Reason | None:
        """Return why a tenant's quota forbids a workload at its smallest acceptable size; None: it does not."""
        tenant = self._state.tenants.get(job.tenant)
        used = self._used.get(job.tenant, {})
        for resource, most in sorted((tenant.quota if tenant else {}).items()):
            wanted = _demand(workload).get(resource, 0)
            if wanted and used.get(resource, 0) + wanted > most:
                held = used.get(resource, 0)
                return Reason(
                    workload=workload.id,
                    code="quota.exceeded",
                    constraint=f"quota {resource}",
                    sentence=(
                        f"{workload.id} waits because of the quota of tenant {job.tenant}: it wants {_shown(resource, wanted)}, and "
                        f"{_shown(resource, held)} of {_shown(resource, most)} are in use."
                    ),
                )
        return None


def _shown(resource: str, amount: int) -> str:
    name = {GPU_MILLI: "GPUs", CPU: "cores", MEMORY: "of memory"}.get(resource, resource)
    return f"{show(amount, unit_of(resource))} {name}"


def _demand(workload: Workload) -> dict[str, int]:
    total: dict[str, int] = {}
    for role in workload.roles:
        for resource, amount in amounts_of(role.request):
            total[resource] = total.get(resource, 0) + role.replicas * role.nodes * amount
    return total


def _may_start(job: Job, now: float) -> bool:
    return any(may_start(unit, now) for unit in job.units.values())


def _bound_unit(state: State, name: str) -> tuple[Job, Unit]:
    job_id, _, key = name.partition("#")
    job = state.jobs[job_id]
    return job, job.units[key]


def _sameness(workload: Workload) -> tuple[object, ...]:
    """What decides whether a workload fits: two that agree in it fit or do not fit alike."""
    return (workload.roles, workload.together, workload.apart, workload.parallelism, workload.kind, workload.tenant)


def _as_before(workload: Workload) -> Reason:
    return Reason(
        workload=workload.id,
        code="wait.capacity",
        constraint="",
        sentence=f"{workload.id} waits: no place has room for it under its constraints now.",
    )


def _in_part(job: Job, reason: Reason, running: int) -> Reason:
    wanted = len(job.units)
    if not running or wanted == 1:
        return replace(reason, workload=job.id, sentence=reason.sentence.replace(reason.workload, job.id, 1))
    sentence = f"{job.id} has places for {running} of {wanted} replicas; {reason.sentence}"
    return replace(
        reason,
        workload=job.id,
        code="wait.partly" if reason.code.startswith("wait") else reason.code,
        sentence=sentence,
    )


def _role_order(workload: Workload) -> dict[str, int]:
    return {role.name: i for i, role in enumerate(workload.roles)}


def _ordered(job: Job, unit: Unit) -> list[Run]:
    order = _role_order(job.bound_as(unit)[0])
    return sorted(unit.runs.values(), key=lambda r: (order[r.role], r.rank, r.part))


def _role_and_rank(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.role.tolist(), rows.rank.tolist(), strict=True))
