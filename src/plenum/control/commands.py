"""What people and agents may ask for, decided against a state: facts to write, or a refusal.

Each function returns a :class:`Command`; nothing happens until :meth:`Command.decide` is given the state, and deciding changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plenum.control import events as ev
from plenum.control.endpoints.events import KeyRevoked
from plenum.control.records import DELETED, ENDED, Job
from plenum.control.state import State
from plenum.model.errors import FieldError, PlenumError
from plenum.model.process import Process
from plenum.model.workload import Workload
from plenum.ports.policy import NOTHING, Policy

MAX_LIVE_JOBS = 100_000
"""Live jobs of all tenants together."""

MAX_UNITS = 2_000
"""Independent replicas of one job."""

MAX_TOKENS = 10_000
MAX_TOKENS_EACH = 200
"""Of one user or agent, so that nobody takes those of all."""

MAX_USERS = 10_000
MAX_TENANTS = 10_000
MAX_EXPERIMENTS = 1_000
"""Of all tenants together: every gateway holds them."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
ROLES = ("operator", "admin", "member", "viewer")


class AbsentError(PlenumError):
    """There is no such resource, or it is not yours to see."""

    code = "resource.absent"


class ChangedError(PlenumError):
    """The resource is not at the version that the request was made for."""

    code = "resource.changed"


class TakenError(PlenumError):
    """The name is taken, or the resource is in a state that does not allow this now."""

    code = "resource.conflict"


class LimitError(PlenumError):
    """A limit on how many there may be is reached."""

    code = "limit.reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Something asked for.

    Parameters
    ----------
    subject
        What it is about; of commands about the same thing one is decided at a time.
    actor
        Who asks.
    key, digest
        A client's idempotency key (scoped to the actor) and what identifies its request; empty: none.
    also
        Further subjects that it waits for, and that it claims where a limit is counted.
    alone
        It may bear on any subject, so it is written in a batch of its own.
    """

    subject: str
    run: Callable[[State, float], Sequence[ev.Event]]
    actor: str = "control"
    trace: str = ""
    key: str = ""
    digest: str = ""
    also: tuple[str, ...] = ()
    alone: bool = True

    def decide(self, state: State, now: float) -> Sequence[ev.Event]:
        """Return the facts to write; none: it is so already.

        Raises
        ------
        PlenumError
            It cannot be done; says why.
        """
        return self.run(state, now)

    def by(self, actor: str, *, trace: str = "", key: str = "", digest: str = "") -> Command:
        """Return the command with who asks for it."""
        return replace(self, actor=actor, trace=trace, key=key, digest=digest)


def check_name(name: str, field: str = "metadata.name") -> None:
    """Raise FieldError unless a name can stand in an address: small letters, digits, ``-`` and ``.``, at most 63."""
    if not _NAME.fullmatch(name):
        raise FieldError(
            field,
            f"{name[:70]!r} is not a name: 1 to 63 small letters, digits, '-' or '.', beginning and ending with a letter or digit",
        )


def check_at(version: int, if_version: int | None, what: str, *, asked: int | None = None) -> None:
    """Raise unless a resource is at a version; of a job, unless nothing was asked of it since, whatever became of it meanwhile."""
    if if_version is not None and not (version if asked is None else asked) <= if_version <= version:
        if not version:
            raise ChangedError(f"{what} does not exist (any more), and the request is for its version {if_version}")
        if not if_version:
            raise ChangedError(f"{what} exists already, at version {version}, and the request is for a new one")
        raise ChangedError(f"{what} is at version {version}, not {if_version}; read it again and repeat the change")


# -- tenants, users, tokens -------------------------------------------------------------------------


def apply_tenant(
    name: str,
    quota: dict[str, int],
    max_jobs: int = 0,
    labels: dict[str, str] | None = None,
    policy: Policy = NOTHING,
    *,
    if_version: int | None = None,
) -> Command:
    """Make a tenant or change it."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        check_name(name)
        old = state.tenants.get(name)
        check_at(old.version if old else 0, if_version, f"tenant {name}")
        if old is None and len(state.tenants) >= MAX_TENANTS:
            raise LimitError(f"there are {MAX_TENANTS:,} tenants already; delete one first")
        event = ev.TenantApplied(name=name, quota=quota, max_jobs=max_jobs, labels=labels or {}, policy=policy)
        if old and (old.quota, old.max_jobs, old.labels, old.policy) == (quota, max_jobs, event.labels, policy):
            return ()
        if policy.experiments != (old.policy if old else NOTHING).experiments:
            _check_experiments(name, policy, state)
        return (event,)

    return Command(subject=f"tenant/{name}", run=run)


def _check_experiments(tenant: str, policy: Policy, state: State) -> None:
    """Raise unless every model that a tenant's experiments ask is one of the tenant's."""
    others = sum(len(found.policy.experiments) for found in state.tenants.values() if found.name != tenant)
    if others + len(policy.experiments) > MAX_EXPERIMENTS:
        raise LimitError(f"tenants have {others:,} experiments, and there may be {MAX_EXPERIMENTS:,}; end some first")
    names = names_served(state, tenant)
    for i, experiment in enumerate(policy.experiments):
        at = f"spec.experiments[{i}]"
        asked = {f"{at}.arms[{k}].model": arm.model or experiment.model for k, arm in enumerate(experiment.arms)}
        if experiment.judge is not None:
            asked[f"{at}.judge.model"] = experiment.judge.model
        for field, model in asked.items():
            if model not in names:
                there = f"there is {', '.join(sorted(names)[:20])}" if names else "there is none yet"
                raise FieldError(field, f"no endpoint of {tenant} serves {model!r}; {there}: apply the endpoint first")


def names_served(state: State, tenant: str) -> set[str]:
    """Return what a tenant's endpoints are asked for by: their models and adapters."""
    own = [found.spec for found in state.endpoints.values() if found.tenant == tenant and not found.stop]
    return {spec.model_name for spec in own} | {adapter for spec in own for adapter, _ in spec.adapters}


def delete_tenant(name: str, *, if_version: int | None = None) -> Command:
    """Remove a tenant that has no live jobs."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        tenant = state.tenants.get(name)
        if tenant is None:
            raise AbsentError(f"there is no tenant {name}")
        check_at(tenant.version, if_version, f"tenant {name}")
        if live := sum(1 for job in state.live if job.startswith(f"{name}/")):
            raise TakenError(f"tenant {name} has {live} live jobs; delete them first")
        if served := [e for e in state.endpoints if e.startswith(f"{name}/")]:
            raise TakenError(f"tenant {name} has {len(served)} endpoints, {served[0]} for one; delete them first")
        return (
            *(KeyRevoked(id=k.key.id, of_tenant=name) for k in state.keys.values() if k.key.tenant == name),
            *(ev.JobForgotten(job=job) for job in state.ended if job.startswith(f"{name}/")),
            ev.TenantDeleted(name=name),
        )

    return Command(subject=f"tenant/{name}", run=run)


def apply_user(name: str, grants: Sequence[ev.Grant], *, if_version: int | None = None) -> Command:
    """Make a user or change what it may do."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        check_name(name)
        for i, grant in enumerate(grants):
            if grant.role not in ROLES:
                raise FieldError(
                    f"grants[{i}].role", f"there is no role {grant.role!r}; the roles are {', '.join(ROLES)}"
                )
            if (grant.role == "operator") != (grant.tenant == "*"):
                raise FieldError(f"grants[{i}]", "operator goes with tenant '*', every other role with one tenant")
            if grant.tenant != "*" and grant.tenant not in state.tenants:
                raise FieldError(f"grants[{i}].tenant", f"there is no tenant {grant.tenant!r}; make it first")
        old = state.users.get(name)
        check_at(old.version if old else 0, if_version, f"user {name}")
        if old is None and len(state.users) >= MAX_USERS:
            raise LimitError(f"there are {MAX_USERS:,} users already; delete one first")
        wanted = tuple(sorted(set(grants)))
        return () if old and old.grants == wanted else (ev.UserApplied(name=name, grants=wanted),)

    return Command(subject=f"user/{name}", run=run)


def delete_user(name: str, *, if_version: int | None = None) -> Command:
    """Remove a user and its tokens."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        user = state.users.get(name)
        if user is None:
            raise AbsentError(f"there is no user {name}")
        check_at(user.version, if_version, f"user {name}")
        return (ev.UserDeleted(name=name),)

    return Command(subject=f"user/{name}", run=run)


def issue_token(
    token_id: str, user: str, secret_hash: str, *, kind: str = "user", expires_at: float = 0.0, note: str = ""
) -> Command:
    """Hand out a token; the caller made the secret and keeps only its hash."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        if kind == "user" and user not in state.users:
            raise FieldError("user", f"there is no user {user!r}; make it first")
        if len(state.tokens) >= MAX_TOKENS:
            raise LimitError(f"there are {MAX_TOKENS:,} tokens already; revoke some first")
        if user and sum(1 for t in state.tokens.values() if (t.kind, t.user) == (kind, user)) >= MAX_TOKENS_EACH:
            raise LimitError(f"{user} has {MAX_TOKENS_EACH} tokens already; revoke some first, expired ones among them")
        return (ev.TokenIssued(id=token_id, user=user, hash=secret_hash, kind=kind, expires_at=expires_at, note=note),)

    return Command(subject=f"token/{token_id}", run=run)


def revoke_token(token_id: str) -> Command:
    """End a token's validity."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        if token_id not in state.tokens:
            raise AbsentError(f"there is no token {token_id}")
        return (ev.TokenRevoked(id=token_id),)

    return Command(subject=f"token/{token_id}", run=run)


def refused(
    verb: str, path: str, code: str, sentence: str, *, tenant: str = "", source: str = "", times: int = 1
) -> Command:
    """Note a refusal for the audit."""
    event = ev.Refused(
        verb=verb, path=path[:300], code=code, sentence=sentence[:500], source=source, times=times, in_tenant=tenant
    )
    return Command(subject=f"refusals/{id(event)}", run=lambda state, now: (event,), alone=False)


# -- hardware ---------------------------------------------------------------------------------------


def apply_fleet(
    name: str,
    manifest: str,
    nodes: Sequence[ev.NodeFacts],
    *,
    driver: str = "simulated",
    agent: str = "",
    address: str = "127.0.0.1",
    if_version: int | None = None,
) -> Command:
    """Describe hardware, or describe it anew; nodes that go must be empty."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        check_name(name)
        old = state.fleets.get(name)
        check_at(old.version if old else 0, if_version, f"fleet {name}")
        event = ev.FleetApplied(
            name=name,
            manifest=manifest,
            driver=driver,
            agent=agent or f"simulated/{name}",
            address=address,
            nodes=tuple(nodes),
            noted=ev.NOTED,
        )
        if old and (old.driver, old.agent) != (event.driver, event.agent):
            raise TakenError(f"fleet {name} is served by {old.agent}; delete it first to serve it by {event.agent}")
        for facts in nodes:
            known = state.nodes.get(facts.name)
            if known is not None and known.fleet != name:
                raise FieldError("spec", f"node {facts.name} belongs to fleet {known.fleet}; give it another name")
            if known is not None and facts.gpus < known.facts.gpus and state.by_node.get(facts.name):
                raise TakenError(f"node {facts.name} would have fewer GPUs and has work on it; drain it first")
        going = set(old.nodes if old else ()) - {facts.name for facts in nodes}
        if busy := sorted(n for n in going if state.by_node.get(n)):
            raise TakenError(f"node {busy[0]} would go and has work on it; drain it first")
        if old and (old.manifest, old.address) == (manifest, address):
            return ()
        return (event,)

    return Command(subject="fleets", run=run)


def delete_fleet(name: str, *, if_version: int | None = None) -> Command:
    """Take hardware out; nothing may run on it."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        fleet = state.fleets.get(name)
        if fleet is None:
            raise AbsentError(f"there is no fleet {name}")
        check_at(fleet.version, if_version, f"fleet {name}")
        if busy := [n for n in fleet.nodes if state.by_node.get(n)]:
            raise TakenError(
                f"{len(busy)} nodes of fleet {name} have work on them, {busy[0]} for one; drain them first"
            )
        return (ev.FleetDeleted(name=name),)

    return Command(subject="fleets", run=run)


def cordon(node: str, on: bool, *, drain: bool = False, why: str = "", if_version: int | None = None) -> Command:
    """Keep new work off a node (``drain``: and move away what is there), or let it on again."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        known = state.nodes.get(node)
        if known is None:
            raise AbsentError(f"there is no node {node}")
        check_at(known.version, if_version, f"node {node}")
        if known.cordoned == on and known.draining == (on and drain):
            return ()
        return (ev.NodeCordoned(node=node, cordoned=on, drain=drain, why=why),)

    return Command(subject=f"node/{node}", run=run)


# -- jobs -------------------------------------------------------------------------------------------


def apply_job(
    workload: Workload, process: Process, manifest: dict[str, Any], *, if_version: int | None = None
) -> Command:
    """Ask for a job, or for a change of one; a job that ended is asked for again if it changed."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        job = state.jobs.get(workload.id)
        what = f"{workload.kind.value} {workload.id}"
        check_at(job.version if job else 0, if_version, what, asked=job.asked if job else None)
        if not workload.gang and workload.replicas > MAX_UNITS:
            raise FieldError(
                "spec.replicas",
                f"a {workload.kind.value} has at most {MAX_UNITS:,} replicas, not {workload.replicas:,}",
            )
        for role in workload.roles:
            # A run is named after its role, and its files and folders after the run.
            check_name(role.name, "spec.roles.name")
        wanted = labelled(workload, process, now if job is None else job.workload.submitted_s)
        if job is None:
            return (_submitted(state, wanted, process, manifest),)
        _not_owned(job)
        if job.workload.kind is not workload.kind:
            raise TakenError(f"{workload.id} is a {job.workload.kind.value}; delete it first, or choose another name")
        if job.stop:
            raise TakenError(f"{workload.id} is being deleted; apply it again once it is gone")
        if job.manifest == manifest and (job.workload, job.process) == (wanted, process):
            return ()
        if job.phase in ENDED:
            again = labelled(workload, process, now)
            return (ev.JobForgotten(job=job.id), _submitted(state, again, process, manifest))
        return (_change(job, wanted, process, manifest),)

    return Command(subject=f"job/{workload.id}", run=run, also=(f"tenant/{workload.tenant}",), alone=False)


def _submitted(state: State, workload: Workload, process: Process, manifest: dict[str, Any]) -> ev.Event:
    check_name(workload.name)
    tenant = state.tenants.get(workload.tenant)
    if tenant is None:
        raise FieldError("metadata.tenant", f"there is no tenant {workload.tenant!r}; an operator makes it first")
    if workload.id in state.endpoints:
        raise TakenError(f"{workload.id} is the endpoint of a model; delete it first, or choose another name")
    if len(state.live) >= MAX_LIVE_JOBS:
        raise LimitError(f"there are {MAX_LIVE_JOBS:,} live jobs, the most this control plane takes; try again later")
    if tenant.max_jobs and sum(1 for job in state.live if job.startswith(f"{tenant.name}/")) >= tenant.max_jobs:
        raise LimitError(f"tenant {tenant.name} has {tenant.max_jobs} live jobs, its limit; wait for one to end")
    return ev.JobSubmitted(job=workload.id, workload=workload, process=process, manifest=manifest)


def _not_owned(job: Job) -> None:
    if job.owner:
        raise TakenError(f"{job.id} holds replicas of the endpoint {job.owner}; change or delete that instead")


def labelled(workload: Workload, process: Process, submitted_s: float) -> Workload:
    """Return a workload that is steered to nodes that run processes, or if it is an imitation to simulated ones."""
    trait = "simulated" if process.imitated else "process"
    roles = tuple(
        replace(role, request=replace(role.request, traits=(*role.request.traits, trait))) for role in workload.roles
    )
    return replace(workload, roles=roles, submitted_s=submitted_s)


def _change(job: Job, workload: Workload, process: Process, manifest: dict[str, Any]) -> ev.Event:
    same = replace(workload, priority=job.workload.priority) == job.workload and process == job.process
    if not same and job.before is not None:
        raise TakenError(f"{job.id} is still changing to its generation {job.generation}; try again when that is done")
    return ev.JobChanged(job=job.id, workload=workload, process=process, manifest=manifest, restart=not same)


def delete_job(job_id: str, *, if_version: int | None = None) -> Command:
    """Stop a job and remove it; one that ended is removed at once."""

    def run(state: State, now: float) -> Sequence[ev.Event]:
        job = state.jobs.get(job_id)
        if job is None:
            raise AbsentError(f"there is no job {job_id}")
        check_at(job.version, if_version, job_id, asked=job.asked)
        _not_owned(job)
        if job.phase in ENDED:
            return (ev.JobEnded(job=job_id, phase=DELETED, message=f"deleted after it had {job.phase.lower()}"),)
        return () if job.stop else (ev.JobStopRequested(job=job_id, why="deleted"),)

    return Command(subject=f"job/{job_id}", run=run, alone=False)
