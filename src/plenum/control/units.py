"""What follows from a job, its units and what they run: names, sizes, what they hold, and orders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from plenum.control.events import (
    Binding,
)
from plenum.control.records import (
    Job,
    Run,
    Unit,
)
from plenum.model.fleet import CPU, GPU_MILLI, MEMORY
from plenum.model.workload import Kind, Parallelism, Request, Workload
from plenum.ports.nodes import EXITED, RUNNING, Assignment
from plenum.ports.store import TERM_GAP

if TYPE_CHECKING:
    from plenum.control.state import State


MAX_BACKOFF_S = 300.0
"""Longest wait before another attempt."""


UIDS_A_LOG = 10**12
"""Uids of one log; after a restore the same positions come again, and uids go on from the next multiple of this."""


FIRST_PORT, PORTS = 20_000, 10_000
"""Where rendezvous ports are taken from; a new attempt gets another."""


def unit_workload(whole: Workload, key: str) -> Workload:
    """Return what the engine places for a unit: the gang itself, or one replica, named ``name#slot``; with several nodes that is a gang."""
    if not key:
        return whole
    role = next(r for r in whole.roles if r.name == key.rpartition("-")[0])
    name = f"{whole.name}#{key}"
    if role.nodes > 1:
        nodes = replace(role, replicas=role.nodes, min_replicas=0, step=1, nodes=1)
        return replace(whole, name=name, kind=Kind.TRAINING_JOB, roles=(nodes,), apart=())
    return replace(
        whole,
        name=name,
        roles=(replace(role, replicas=1, min_replicas=0, step=1),),
        together=tuple(replace(c, block=0) for c in whole.together if c.role in ("", role.name)),
        apart=tuple(c for c in whole.apart if c.role in ("", role.name)),
    )


def sized(gang: Workload) -> Iterator[Workload]:
    """Yield a gang at each of its acceptable sizes, largest first; a smaller one without a way to split its model."""
    sizes = [role.sizes() for role in gang.roles]
    yield gang
    for k in range(1, max(len(s) for s in sizes)):
        roles = tuple(replace(role, replicas=s[min(k, len(s) - 1)]) for role, s in zip(gang.roles, sizes, strict=True))
        yield replace(gang, roles=roles, parallelism=Parallelism())


def unit_id(job: Job, key: str) -> str:
    """Return the name of a unit among all: ``tenant/name``, or ``tenant/name#slot`` for one replica of several."""
    return f"{job.id}#{key}" if key else job.id


def unit_keys(workload: Workload) -> list[str]:
    """Return the keys of a workload's units: ``""`` for a gang, else a slot a replica."""
    if workload.gang:
        return [""]
    return [f"{role.name}-{rank}" for role in workload.roles for rank in range(role.replicas)]


def is_wanted(job: Job, unit: Unit) -> bool:
    """Tell whether a unit has a place in its job as it is asked for now; not if the job has shrunk below it."""
    if not unit.key:
        return True
    name, _, rank = unit.key.rpartition("-")
    return any(role.name == name and int(rank) < role.replicas for role in job.workload.roles)


def may_start(unit: Unit, now: float) -> bool:
    """Tell whether a unit waits, and long enough; no wait is longer than the longest backoff, even if the clock was set back since."""
    return unit.phase == "waiting" and not now < unit.not_before <= now + MAX_BACKOFF_S


def held_by(job: Job, unit: Unit) -> dict[str, int]:
    """Return what a bound unit holds, by resource."""
    workload, _ = job.bound_as(unit)
    requests = {role.name: role.request for role in workload.roles}
    total: dict[str, int] = {}
    for run in unit.runs.values():
        for resource, amount in amounts_of(requests[run.role]):
            total[resource] = total.get(resource, 0) + amount
    return total


def amounts_of(request: Request) -> list[tuple[str, int]]:
    """Return what one replica takes, by resource, in base units; nothing of what it does not ask for."""
    amounts = (
        (GPU_MILLI, request.total_gpu_milli),
        (CPU, request.cpu_milli),
        (MEMORY, request.memory_bytes),
        *request.extra,
    )
    return [(resource, amount) for resource, amount in amounts if amount]


def assignments_of(state: State, job: Job, unit: Unit) -> list[Assignment]:
    """Return the runs of a bound unit as orders, ranks numbered for rendezvous."""
    workload, process = job.bound_as(unit)
    requests = {role.name: role.request for role in workload.roles}
    order = {role.name: i for i, role in enumerate(workload.roles)}
    runs = sorted(unit.runs.values(), key=lambda r: (order[r.role], r.rank, r.part))
    node_rank = {name: i for i, name in enumerate(dict.fromkeys(r.node for r in runs))}
    on_node = {name: [r.id for r in runs if r.node == name] for name in node_rank}
    address = {name: _address_of(state, name) for name in node_rank}
    # Those of several replicas may be on one host, and begin at the same time.
    port = FIRST_PORT + (job.uid * 31 + unit.attempt + (runs[0].rank * 1_009 if runs else 0)) % PORTS
    return [
        Assignment(
            run=run.id,
            job=job.id,
            uid=job.uid,
            tenant=job.tenant,
            node=run.node,
            slot=run.slot,
            attempt=unit.attempt,
            role=run.role,
            rank=run.rank,
            process=process,
            global_rank=i,
            world_size=len(runs),
            node_rank=node_rank[run.node],
            nodes=len(node_rank),
            local_rank=on_node[run.node].index(run.id),
            local_world_size=len(on_node[run.node]),
            address=address[run.node],
            master_addr=address[runs[0].node],
            master_port=port,
            gpus=members(run.gpu_mask),
            gpu_milli=requests[run.role].gpu_milli if run.gpu_mask else 0,
            numa=members(run.numa_mask),
            cpu_milli=requests[run.role].cpu_milli,
            memory_bytes=requests[run.role].memory_bytes,
            trace=job.trace,
            weights_digest=state.weights_of(job),
        )
        for i, run in enumerate(runs)
    ]


def _address_of(state: State, node: str) -> str:
    known = state.nodes.get(node)
    return "127.0.0.1" if known is None else state.fleets[known.fleet].address


def members(mask: int) -> tuple[int, ...]:
    """Return the numbers of the set bits, ascending."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def restorations(state: State) -> int:
    """Return how often the log was restored from a backup, by the terms; more after very many changes of leader, which does no harm."""
    return state.term // TERM_GAP


def submitted_position(job: Job) -> int:
    """Return the position of the record that a job began with."""
    return job.uid % UIDS_A_LOG


def may_drain(unit: Unit, why: str) -> bool:
    """Tell whether a replica over several nodes that is to end may still be answering: it is whole, and nothing has gone wrong."""
    runs = unit.runs.values()
    whole = any(run.part for run in runs) and all(run.phase == RUNNING for run in runs)
    return whole and why not in ("failed", "lost", "timeout")


def outlives(unit: Unit, run: Run) -> bool:
    """Tell whether a run goes on although its unit is to end: what the first node of its replica still answers, needs the others."""
    return unit.drains and run.part > 0 and run.phase != EXITED and _first(unit).phase == RUNNING


def _first(unit: Unit) -> Run:
    return next(run for run in unit.runs.values() if not run.part)


def run_name(state: State, job: Job, attempt: int, slot: str) -> str:
    """Return the name of a run: unique for ever, also where attempts of the same number were made after the backup that was restored."""
    restored = restorations(state)
    again = "" if restored == job.uid // UIDS_A_LOG else f".{restored}"
    return f"{job.uid}-{attempt}{again}-{slot}"


def run_of(binding: Binding) -> Run:
    """Return the run that a binding begins."""
    return Run(
        id=binding.run,
        role=binding.role,
        rank=binding.rank,
        part=binding.part,
        node=binding.node,
        gpu_mask=binding.gpu_mask,
        nic_mask=binding.nic_mask,
        mig_mask=binding.mig_mask,
        numa_mask=binding.numa_mask,
    )
