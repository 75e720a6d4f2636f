"""Questions about the present: why something waits, what is in use."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from plenum.control.commands import AbsentError
from plenum.control.decider import Decider
from plenum.control.records import ENDED, Job, Unit
from plenum.control.state import State
from plenum.control.units import may_start, unit_id, unit_keys, unit_workload
from plenum.model.fleet import CPU, GPU, GPU_MILLI, MEMORY, POWER
from plenum.model.plan import Placement, Reason
from plenum.model.view import Rows
from plenum.model.workload import Kind, Parallelism
from plenum.placement import Engine
from plenum.placement.beside import place_beside
from plenum.scheduling.explain import explain


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a resource is held, and how much there is in service."""

    held: int
    total: int


class TenantUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant holds and has waiting."""

    name: str
    jobs: int
    running: int
    waiting: int
    held: dict[str, int]
    quota: dict[str, int]


class Utilisation(msgspec.Struct, frozen=True, kw_only=True):
    """What is in use at a position of the log.

    Parameters
    ----------
    resources
        By name, in base units; ``power_w`` counts what busy GPUs draw.
    oldest_wait_s
        How long the job that has waited longest has waited.
    """

    position: int
    at: float
    resources: dict[str, Share]
    jobs: dict[str, int]
    nodes: dict[str, int]
    waiting: int
    oldest_wait_s: float
    tenants: tuple[TenantUse, ...]


def explained(state: State, decider: Decider, job_id: str, now: float) -> Reason:
    """Say why a job waits; ``code`` is ``running`` or ``ended`` where it does not.

    Raises
    ------
    AbsentError
        There is no such job.
    """
    job = state.jobs.get(job_id)
    if job is None:
        raise AbsentError(f"there is no job {job_id}")
    waiting = [unit for unit in job.units.values() if unit.phase == "waiting"]
    if job.phase in ENDED:
        return _plain(job_id, "ended", f"{job_id} has ended: {job.phase}. {job.message}".strip())
    if job.stop or not waiting:
        doing = "is being stopped" if job.stop else "has all its places" if job.units else "has nothing to place"
        return _plain(job_id, "running", f"{job_id} {doing}; it waits for nothing.")
    soon = min(unit.not_before for unit in waiting)
    if not any(may_start(unit, now) for unit in waiting):
        return _plain(
            job_id,
            "wait.backoff",
            f"{job_id} waits {soon - now:.0f} s before its next attempt, as attempts before it failed.",
        )
    engine = decider.engine(state)
    if engine is None:
        return _plain(
            job_id, "wait.no-nodes", f"{job_id} waits: there are no nodes; apply a Fleet or let an agent join."
        )
    reason = _explained_whole(engine, job) if len(waiting) == len(job.units) else _explained_rest(engine, job, waiting)
    said = job.waiting
    if said is not None and said.code == "quota.exceeded" and not reason.code.startswith("never"):
        return Reason(workload=job_id, code=said.code, constraint=said.constraint, sentence=said.sentence)
    return reason


def _explained_whole(engine: Engine, job: Job) -> Reason:
    reason = _explained_one(engine, job, unit_keys(job.workload)[0])
    if reason.code.startswith("never") and not job.process.imitated and "simulated" in engine.cluster.fleet.traits:
        hint = (
            "Engines run on real hosts only, not on imitated nodes: let one join (plenum agent), or try the model with engine: emulated."
            if job.owner
            else "Commands run on real hosts only, not on imitated nodes; give run.simulate instead of a command to imitate it."
        )
        return replace(reason, sentence=f"{reason.sentence} {hint}")
    return reason


def _explained_one(engine: Engine, job: Job, key: str) -> Reason:
    """Explain why a job cannot start; of replicas over several nodes, why one of them cannot: its nodes are what is placed together."""
    if all(role.nodes == 1 for role in job.workload.roles):
        return explain(engine, job.workload)
    replica = unit_workload(job.workload, key)
    reason = explain(engine, replica)
    sentence = reason.sentence.replace(replica.id, job.id).replace("replicas", "nodes")
    return replace(
        reason,
        workload=job.id,
        sentence=f"{sentence} A replica takes {replica.replicas} nodes, all or none.",
        counterfactuals=tuple(c for c in reason.counterfactuals if not c.change.endswith(" replicas")),
    )


def _explained_rest(engine: Engine, job: Job, waiting: list[Unit]) -> Reason:
    """Say why some replicas wait while others run: tried beside those, and if it does not fit, as if all had to find their places anew."""
    bound = [unit_id(job, unit.key) for unit in job.units.values() if unit.phase == "bound"]
    replica = unit_workload(job.workload, waiting[0].key)
    siblings = Rows.joined([engine.running[name][1] for name in bound])
    count = f"{len(bound)} of {len(job.units)} replicas of {job.id} have places"
    with engine.trial():
        if isinstance(place_beside(engine, replica, siblings), Placement):
            return _plain(job.id, "ready", f"{count}; the next fits: it would start now.")
    if replica.gang:
        with engine.trial():
            engine.release(*bound)
            rest = _explained_one(engine, job, waiting[0].key)
        if rest.code == "ready":
            nodes = f"the {replica.replicas} nodes of another"
            return _plain(job.id, "wait.partly", f"{count}; there is no place for {nodes} beside them.")
        return replace(rest, code="wait.partly", sentence=f"{count}. {rest.sentence}")
    roles = tuple(replace(role, min_replicas=0, step=1) for role in job.workload.roles)
    whole = replace(job.workload, kind=Kind.TRAINING_JOB, roles=roles, parallelism=Parallelism())
    with engine.trial():
        engine.release(*bound)
        reason = explain(engine, whole)
    if reason.code == "ready":
        return _plain(
            job.id, "wait.partly", f"{count}; there is no place for another beside them under its constraints."
        )
    rest = reason.sentence.removeprefix(f"{job.id} ")
    return replace(reason, code="wait.partly", sentence=f"{count}. All {job.workload.replicas} together: {rest}")


def _plain(job_id: str, code: str, sentence: str) -> Reason:
    return Reason(workload=job_id, code=code, constraint="", sentence=sentence)


def utilisation(state: State, now: float) -> Utilisation:
    """Return what is in use, by whom, and what waits; O(nodes + live jobs + runs)."""
    ready = [node for node in state.nodes.values() if node.phase == "Ready"]
    total = {
        GPU_MILLI: sum(GPU * node.facts.gpus for node in ready),
        CPU: sum(node.facts.cpu_milli for node in ready),
        MEMORY: sum(node.facts.memory_bytes for node in ready),
        POWER: sum(node.facts.gpus * node.facts.power_w for node in ready),
    }
    held = {name: sum(used.get(name, 0) for used in state.usage.values()) for name in (GPU_MILLI, CPU, MEMORY)}
    held[POWER] = sum(
        node.facts.power_w * _busy_gpus(state, node.name) for node in ready if node.facts.gpus and node.facts.power_w
    )
    live = [state.jobs[job] for job in state.live]
    waits = [now - state.jobs[job].submitted_at for job in state.waiting]
    return Utilisation(
        position=state.position,
        at=now,
        resources={name: Share(held=held[name], total=total[name]) for name in total},
        jobs=_counted([job.phase for job in state.jobs.values()]),
        nodes=_counted(["Cordoned" if n.cordoned and n.phase == "Ready" else n.phase for n in state.nodes.values()]),
        waiting=len(waits),
        oldest_wait_s=max(waits, default=0.0),
        tenants=tuple(
            TenantUse(
                name=tenant.name,
                jobs=sum(1 for job in live if job.tenant == tenant.name),
                running=sum(1 for job in live if job.tenant == tenant.name and job.phase == "Running"),
                waiting=sum(1 for job in state.waiting if job.startswith(f"{tenant.name}/")),
                held={k: v for k, v in sorted(state.usage.get(tenant.name, {}).items()) if v},
                quota=tenant.quota,
            )
            for tenant in sorted(state.tenants.values(), key=lambda t: t.name)
        ),
    )


def _busy_gpus(state: State, node: str) -> int:
    mask = 0
    for run, (_, unit) in state.by_node.get(node, {}).items():
        mask |= unit.runs[run].gpu_mask
    return mask.bit_count()


def _counted(words: list[str]) -> dict[str, int]:
    return {word: words.count(word) for word in sorted(set(words))}
