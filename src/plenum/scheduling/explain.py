"""Why a workload waits, who is in the way, and what would let it start.

Every "starts if" is the outcome of a placement tried on a copy of the engine with one thing changed: what it says would happen is
computed by the code that makes it happen. Which domains come closest, and what a node lacks, is read off the same counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import UNLIMITED
from plenum.model.fleet import GPU, GPU_MILLI, LEVEL, LEVELS, Health
from plenum.model.plan import Blocker, Counterfactual, Gap, Placement, Reason
from plenum.model.units import counted, show
from plenum.model.workload import Parallelism, Request, Role, Workload
from plenum.placement import Engine

MAX_SHORT = 3
"""Domains named as coming closest."""

MAX_DOMAINS_CLEARED = 2
"""Domains for which a smallest set of blockers is searched."""

MAX_PRUNED = 12
"""Largest set of blockers that is shown to be minimal member by member; a larger one is not read that closely."""

MAX_ALONE = 4
"""Workloads of each domain tried as the only blocker, those on its cheapest nodes first."""

MAX_BLOCKERS = 1_000
"""Largest set of blockers given at all: that thousands would have to end helps nobody."""

KINDS_OF_NODES = {"process": "real host", "simulated": "imitated node"}
"""Traits that follow from whether something runs or is imitated. Nobody wrote them, so they are not what anything waits for: they say
which nodes count at all."""

MAX_NAMED = 3
"""Names written out in a sentence."""


def explain(engine: Engine, workload: Workload) -> Reason:
    """Explain why a workload cannot start on an engine's state.

    Parameters
    ----------
    engine
        Not changed.
    workload
        Not running.

    Returns
    -------
    Reason
        ``code`` ``ready`` if it would start right now; ``never.*`` if it cannot start even on the empty fleet; else ``wait.*``.
    """
    live = engine.fork()
    if _starts(live, workload) is not None:
        return Reason(
            workload=workload.id, code="ready", constraint="", sentence=f"{workload.id} fits: it would start now."
        )
    empty = engine.emptied()
    ideal = _starts(empty, workload)
    if ideal is None:
        whole = _in_service(engine)
        repaired = None if whole is None else _starts(whole, workload)
        if whole is not None and repaired is not None:
            return _out_of_service(engine, workload, repaired)
        return _never(whole or empty, workload)
    return _waits(engine, live, empty, workload, ideal)


# -- trials -----------------------------------------------------------------------------------------


def _starts(engine: Engine, workload: Workload, without: tuple[str, ...] = ()) -> Placement | None:
    """Try a placement after some workloads ended; the engine is as before afterwards."""
    with engine.trial():
        engine.release(*without)
        outcome = engine.place(workload)
    return outcome if isinstance(outcome, Placement) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Change:
    """One thing asked for less strictly, or one limit lifted: what to place, and on which engine (None: the one at hand)."""

    code: str
    constraint: str
    change: str
    workload: Workload
    engine: Engine | None = None

    def tried(self, engine: Engine) -> Placement | None:
        """Place the workload as changed."""
        return _starts(self.engine or engine, self.workload)


def _relaxations(workload: Workload) -> Iterator[_Change]:
    """Yield the workload with one constraint relaxed at a time."""
    for i, wish in enumerate(workload.together):
        if wish.required:
            soft = tuple(replace(t, required=False) if j == i else t for j, t in enumerate(workload.together))
            blocks = f" in blocks of {wish.block}" if wish.block else ""
            yield _Change(
                code="together",
                constraint=f"together within {wish.level}{blocks}",
                change=f"{wish.level} is preferred instead of required",
                workload=replace(workload, together=soft),
            )
    for i, wish in enumerate(workload.apart):
        if wish.required:
            soft_apart = tuple(replace(a, required=False) if j == i else a for j, a in enumerate(workload.apart))
            yield _Change(
                code="apart",
                constraint=f"at most {wish.max_per_domain} per {wish.level}",
                change=f"spreading over {wish.level} is preferred instead of required",
                workload=replace(workload, apart=soft_apart),
            )
    for code, change, fields in (
        ("models", "any GPU model will do", {"gpu_models": ()}),
        ("hbm", "GPUs with less memory will do", {"hbm_bytes": 0}),
        ("aligned", "GPUs, NICs and cores need not be aligned", {"aligned": ""}),
    ):
        if any(getattr(role.request, name) != value for role in workload.roles for name, value in fields.items()):
            roles = tuple(replace(role, request=replace(role.request, **fields)) for role in workload.roles)
            yield _Change(
                code=code, constraint=next(iter(fields)), change=change, workload=replace(workload, roles=roles)
            )

    own = [tuple(t for t in role.request.traits if t in KINDS_OF_NODES) for role in workload.roles]
    if any(role.request.traits != kept for role, kept in zip(workload.roles, own, strict=True)):
        requests = [replace(role.request, traits=kept) for role, kept in zip(workload.roles, own, strict=True)]
        changed = _with_requests(workload, requests)
        yield _Change(code="traits", constraint="traits", change="no trait is required", workload=changed)


def _kind_of(engine: Engine, request: Request) -> tuple[str, NDArray[np.bool_]]:
    """Return what the nodes are called that count for a request, and (N,) which those are."""
    fleet = engine.cluster.fleet
    for trait, word in KINDS_OF_NODES.items():
        if trait in request.traits:
            has = trait in fleet.traits
            return word, fleet.node_traits[:, fleet.traits.index(trait)] if has else np.zeros(engine.cluster.n, bool)
    return "node", np.ones(engine.cluster.n, bool)


def _lifted(engine: Engine, workload: Workload) -> Iterator[_Change]:
    """Yield the engine with one of the tenant's caps, or the budgets of one resource above the nodes, lifted."""
    for cap in engine.caps_of(workload.tenant):
        other = engine.fork()
        other.policy = replace(engine.policy, caps=tuple(c for c in engine.policy.caps if c is not cap))
        amount = (
            counted(f"{cap.amount / GPU:g}", "GPU")
            if cap.resource == GPU_MILLI
            else _so_much(show(cap.amount, cap.resource), cap.resource)
        )
        limit = f"the cap of {amount} per {cap.level} for {workload.tenant}"
        yield _Change(code="cap", constraint=limit, change=f"{limit} is lifted", workload=workload, engine=other)
    nodes = engine.cluster.nodes
    shapes = [engine.shapes.intern(role.request) for role in workload.roles]
    for column in np.unique(nodes.shared_column).tolist():
        if not engine.shapes.arrays.need[shapes, column].any():
            continue
        free = np.where(nodes.shared_column == column, UNLIMITED, nodes.shared_capacity)
        other = engine.fork(cluster=replace(engine.cluster, nodes=nodes._replace(shared_capacity=free)))
        resource = engine.cluster.columns[column]
        limit = f"the {_word(resource)} budget"
        yield _Change(
            code="budget", constraint=limit, change=f"{limit} of its domains is lifted", workload=workload, engine=other
        )


def _lighter(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """Yield (resource, the workload asking for none of it)."""
    requests = [role.request for role in workload.roles]
    for name in ("cpu_milli", "memory_bytes", "nics"):
        if any(getattr(r, name) for r in requests):
            yield name, _with_requests(workload, [replace(r, **{name: 0}) for r in requests])
    for name in dict.fromkeys(resource for r in requests for resource, _ in r.extra):
        yield (
            name,
            _with_requests(workload, [replace(r, extra=tuple(e for e in r.extra if e[0] != name)) for r in requests]),
        )


def _with_requests(workload: Workload, requests: list[Request]) -> Workload:
    roles = tuple(replace(role, request=request) for role, request in zip(workload.roles, requests, strict=True))
    return replace(workload, roles=roles)


# -- out of service ---------------------------------------------------------------------------------


def _in_service(engine: Engine) -> Engine | None:
    """The empty fleet with every cordon lifted and every node healthy; None where that changes nothing."""
    if engine.cluster.schedulable.all():
        return None
    whole = replace(engine.cluster, schedulable=np.ones(engine.cluster.n, bool))
    return engine.fork(empty=True, cluster=whole)


def _out_of_service(engine: Engine, workload: Workload, repaired: Placement) -> Reason:
    fleet = engine.cluster.fleet
    out = np.unique(repaired.rows.node[~engine.cluster.schedulable[repaired.rows.node]])
    names = tuple(fleet.node_name(int(n)) for n in out)
    verb, noun = ("is", "a node") if len(names) == 1 else ("are", "nodes")
    back = f"{_named(names)} {verb} back in service"
    return Reason(
        workload=workload.id,
        code="wait.health",
        constraint="health",
        sentence=f"{workload.id} waits for {noun} out of service: on this fleet it could start if {back}.",
        counterfactuals=(
            Counterfactual(change=f"{back}", starts=True, sentence=f"could start on the empty fleet if {back}"),
        ),
    )


# -- never ------------------------------------------------------------------------------------------


def _never(empty: Engine, workload: Workload) -> Reason:
    """Name the constraint that even the empty fleet cannot meet."""
    for role in workload.roles:
        finding = _no_node(empty, role)
        if finding is not None:
            return _impossible(workload, *finding)
    for role in workload.roles:
        held = int(empty.counts(empty.shapes.intern(role.request), role.replicas).sum())
        fewest = role.sizes()[-1] if workload.gang else 1
        if held < fewest:
            return _impossible(
                workload,
                "capacity",
                "replicas",
                f"the whole fleet holds {held} of its {fewest} replicas of {_asked(role.request)}",
            )
    for change in (*_relaxations(workload), *_lifted(empty, workload)):
        if change.tried(empty) is not None:
            proof = _largest(empty, workload, change)
            if proof:
                return _impossible(workload, change.code, change.constraint, proof)
            return _not_found(
                workload, change.code, change.constraint, f"no place was found that keeps {change.constraint}"
            )
    return _not_found(workload, "combination", "", "no place was found that meets all its constraints together")


def _not_found(workload: Workload, code: str, constraint: str, because: str) -> Reason:
    """A refusal by a search that is complete on small fleets only (see placement.complete): short of a proof."""
    sentence = f"{workload.id} cannot start on this fleet, even empty, as far as was searched: {because}."
    return Reason(workload=workload.id, code=f"never.{code}", constraint=constraint, sentence=sentence)


def _impossible(workload: Workload, code: str, constraint: str, because: str) -> Reason:
    sentence = f"{workload.id} can never start on this fleet: {because}."
    return Reason(workload=workload.id, code=f"never.{code}", constraint=constraint, sentence=sentence)


def _no_node(empty: Engine, role: Role) -> tuple[str, str, str] | None:
    """Say why no node of the empty fleet can take one replica; None if one can."""
    request, cluster = role.request, empty.cluster
    if empty.counts(empty.shapes.intern(request), 1).any():
        return None
    fleet = cluster.fleet
    word, counting = _kind_of(empty, request)
    if not counting.any():
        return "traits", "traits", f"it has no {word}"
    usable = cluster.schedulable & counting
    if not usable.any():
        return "health", "", f"every {word} is cordoned or unhealthy"
    gpus = np.where(usable, cluster.gpu_ok.sum(axis=1), 0)
    if gpus.max() < request.gpus:
        most = f"the largest has {gpus.max()}" if gpus.max() else "none has any"
        return "gpus", "gpus", f"no {word} has {counted(request.gpus, 'GPU')} ({most})"
    for trait in request.traits:
        if trait not in fleet.traits:
            return (
                "traits",
                "traits",
                f"no {word} has the trait {trait} (there are: {', '.join(fleet.traits) or 'none'})",
            )
    gpu_models = sorted({fleet.models[m] for m in np.unique(cluster.nodes.model[usable]) if m >= 0})
    if request.gpus and not any(map(request.accepts, gpu_models)):
        return (
            "models",
            "gpu_models",
            f"no {word} has a GPU of model {' or '.join(request.gpu_models)} (there are: {', '.join(gpu_models)})",
        )
    if request.gpus and request.hbm_bytes:
        most = int(np.where(usable & (gpus > 0), cluster.hbm_bytes, 0).max())
        if most < request.hbm_bytes:
            return (
                "hbm",
                "hbm_bytes",
                f"no GPU has {show(request.hbm_bytes, 'hbm_bytes')} of memory (the largest has {show(most, 'hbm_bytes')})",
            )
    asked = {"cpu_milli": request.cpu_milli, "memory_bytes": request.memory_bytes, **dict(request.extra)}
    for resource, amount in asked.items():
        most = (
            int(np.where(usable, cluster.capacity[:, cluster.columns.index(resource)], 0).max())
            if resource in cluster.columns
            else 0
        )
        if amount > most:
            what = f"the most is {show(most, resource)}" if most else "none has any"
            return (
                "resource",
                resource,
                f"no {word} has {_so_much(show(amount, resource), resource)} ({what})",
            )
    nics = np.where(usable, cluster.nic_ok.sum(axis=1), 0)
    if nics.max(initial=0) < request.nics:
        return "nics", "nics", f"no {word} has {request.nics} NICs (the most is {nics.max(initial=0)})"
    if request.aligned and empty.counts(empty.shapes.intern(replace(request, aligned="")), 1).any():
        return "aligned", "aligned", f"no {word} can align {_asked(request)} ({request.aligned})"
    return "combination", "request", f"no single {word} has all that one replica asks for ({_asked(request)})"


def _asked(request: Request) -> str:
    """One replica's request in a few words: ``8 GPUs, 32 cores``."""
    parts = []
    if request.mig:
        parts.append(f"a {request.mig} MIG slice")
    elif request.gpus and request.gpu_milli < GPU:
        parts.append(f"{request.gpu_milli / GPU:g} GPU")
    elif request.gpus:
        parts.append(counted(request.gpus, "GPU"))
    if request.cpu_milli:
        parts.append(_so_much(show(request.cpu_milli, "cpu_milli"), "cpu_milli"))
    if request.memory_bytes:
        parts.append(show(request.memory_bytes, "memory_bytes"))
    if request.nics:
        parts.append(counted(request.nics, "NIC"))
    parts += [_so_much(show(amount, name), name) for name, amount in request.extra]
    return ", ".join(parts) or "nothing"


def _largest(empty: Engine, workload: Workload, change: _Change) -> str:
    """A proof that a required level cannot be kept: no domain of it is large enough; empty where that is not the reason."""
    if change.code != "together":
        return ""
    wish = next(t for t in workload.together if change.constraint.startswith(f"together within {t.level}"))
    level = LEVEL[wish.level]
    if not empty.partitions.exists(level):
        some = len(empty.cluster.level_domains[level]) > 0
        problem = f"no node lies wholly inside one {wish.level}" if some else f"the fleet has no {wish.level} domains"
        return f"{wish.level} is required and {problem}"
    role = workload.roles[0]
    largest = int(_held(empty, workload, role, (level,)).max(initial=0))
    need = wish.block or role.sizes()[-1]
    if largest >= need:
        return ""
    return (
        f"no {wish.level} holds {need} replicas of {_asked(role.request)} even when empty (the largest holds {largest})"
    )


# -- waits ------------------------------------------------------------------------------------------


def _waits(engine: Engine, live: Engine, empty: Engine, workload: Workload, ideal: Placement) -> Reason:
    helped = [(change, change.tried(live)) for change in (*_relaxations(workload), *_lifted(live, workload))]
    what_ifs = [_what_if(change, outcome, ideal) for change, outcome in helped]
    role = max(workload.roles, key=lambda r: r.request.total_gpu_milli)
    resource = _scarce(live, workload, role)
    binding = next((change for change, outcome in helped if outcome is not None), None)
    levels = tuple(LEVEL[t.level] for t in workload.together if t.required and not t.block)
    short = _gaps(live, workload, role, levels, resource)
    if binding is not None and binding.code == "budget":
        short = _budget_gaps(live, role, binding)
    short = tuple(gap for gap in short if gap.free < gap.needed)
    ending = _smallest_ending(engine, live, empty, workload, role, levels)
    blockers = _blockers(live, ending, resource)
    if ending:
        what_ifs.append(
            Counterfactual(
                change=f"{', '.join(ending)} end{'s' if len(ending) == 1 else ''}",
                starts=True,
                sentence=f"starts if {_named(ending)} end{'s' if len(ending) == 1 else ''}",
            )
        )
    what_ifs += [w for w in (_uncordoned(live, workload), _smaller(live, workload, levels)) if w is not None]
    code = f"wait.{binding.code}" if binding else f"wait.{'gpus' if resource == 'gpus' else 'resource'}"
    constraint = binding.constraint if binding else resource
    if binding is None and resource == "gpus" and not _helped_by_gpus(live, workload):
        code, constraint = "wait.resource", "several resources at once"
    return Reason(
        workload=workload.id,
        code=code,
        constraint=constraint,
        sentence=_sentence(workload, constraint, resource, short, ending),
        short=short,
        blockers=blockers,
        counterfactuals=tuple(what_ifs),
    )


def _sentence(
    workload: Workload, constraint: str, resource: str, short: tuple[Gap, ...], ending: tuple[str, ...]
) -> str:
    lead = f"{workload.id} waits because of {constraint}"
    if constraint == resource:
        lead = f"{workload.id} waits for {_word(resource)}"
    if short:
        have, need = (show(v, short[0].resource) for v in (short[0].free, short[0].needed))
        lead += f": {short[0].domain} comes closest, with room for {have} of {_so_much(need, short[0].resource)}"
    return f"{lead}; it starts when {_named(ending)} end{'s' if len(ending) == 1 else ''}." if ending else f"{lead}."


def _word(resource: str) -> str:
    """Name a resource for people."""
    words = {"gpus": "GPUs", "cpu_milli": "cores", "memory_bytes": "memory", "nics": "NICs", "gpu_milli": "GPU"}
    return words.get(resource, resource.rsplit("_", 1)[0])


def _so_much(amount: str, resource: str) -> str:
    """Write an amount with the name of what it is of."""
    word = _word(resource)
    return counted(amount, word[:-1]) if word.endswith("s") else f"{amount} {word}"


def _named(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return names[0]
    shown = names if len(names) <= MAX_NAMED + 1 else (*names[:MAX_NAMED], f"{len(names) - MAX_NAMED} others")
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _what_if(change: _Change, outcome: Placement | None, ideal: Placement) -> Counterfactual:
    if outcome is None:
        return Counterfactual(change=change.change, starts=False, sentence=f"still waits if {change.change}")
    if outcome.cost is None or ideal.cost is None or ideal.cost.step_s == 0:
        return Counterfactual(change=change.change, starts=True, sentence=f"starts if {change.change}")
    ratio = outcome.cost.step_s / ideal.cost.step_s
    return Counterfactual(
        change=change.change,
        starts=True,
        sentence=f"starts if {change.change}, at {ratio:.2g}x communication cost",
        relative_cost=ratio,
    )


def _scarce(live: Engine, workload: Workload, role: Role) -> str:
    """The resource that keeps most replicas out: the one whose absence from the request makes most room."""
    held = int(live.counts(live.shapes.intern(role.request), role.replicas).sum())
    best, most = "gpus" if role.request.gpus else "cpu_milli", held
    for resource, lighter in _lighter(workload):
        request = next(r.request for r in lighter.roles if r.name == role.name)
        room = int(live.counts(live.shapes.intern(request), role.replicas).sum())
        if room > most and room >= role.sizes()[-1]:
            best, most = resource, room
    return best


def _held(engine: Engine, workload: Workload, role: Role, levels: tuple[int, ...]) -> NDArray[np.int64]:
    """Replicas of a role that each domain of the levels can hold."""
    partition = engine.partitions.of(levels)
    if len(partition.order) == 0:
        return np.zeros(0, np.int64)
    count = engine.counts(engine.shapes.intern(role.request), role.replicas)
    return np.add.reduceat(count[partition.order], partition.start[:-1], dtype=np.int64)


def _helped_by_gpus(live: Engine, workload: Workload) -> bool:
    """Whether the workload would start if it asked for no GPU."""
    plain = {"gpus": 0, "gpu_milli": GPU, "mig": "", "nics": 0, "aligned": ""}
    without = _with_requests(
        replace(workload, parallelism=Parallelism()), [replace(r.request, **plain) for r in workload.roles]
    )
    return _starts(live, without) is not None


def _gaps(live: Engine, workload: Workload, role: Role, levels: tuple[int, ...], resource: str) -> tuple[Gap, ...]:
    """The domains that come closest, and what each is short of."""
    held = _held(live, workload, role, levels)
    partition = live.partitions.of(levels)
    each = _amount(role.request, resource)
    word, counting = _kind_of(live, role.request)
    gaps = []
    for group in np.argsort(-held, kind="stable")[:MAX_SHORT].tolist():
        nodes = partition.order[partition.start[group] : partition.start[group + 1]]
        gaps.append(
            Gap(
                domain=_domain_name(live, levels, int(nodes[0]))
                or ("the whole fleet" if counting.all() else f"what there is of {word}s"),
                resource=resource,
                needed=(role.sizes()[-1] if workload.gang else 1) * each,
                free=int(held[group]) * each,
                capacity=_capacity(live, nodes[counting[nodes]], resource),
            )
        )
    return tuple(gaps)


def _budget_gaps(live: Engine, role: Role, binding: _Change) -> tuple[Gap, ...]:
    """The budgets that bind, those with most left first, against what one replica needs."""
    nodes, cluster = live.cluster.nodes, live.cluster
    lifted = binding.engine.cluster.nodes.shared_capacity if binding.engine else nodes.shared_capacity
    which = np.flatnonzero(lifted != nodes.shared_capacity)
    left = nodes.shared_capacity[which] - live.state.shared_used[which]
    column = int(nodes.shared_column[which[0]])
    each = int(live.shapes.arrays.need[live.shapes.intern(role.request), column])
    if each < 0:  # follows from the watts of a GPU
        each = int(nodes.power_w.max(initial=0)) * role.request.total_gpu_milli // GPU
    return tuple(
        Gap(
            domain=cluster.fleet.domain_path(int(cluster.shared_domain[which[b]])),
            resource=cluster.columns[column],
            needed=each,
            free=int(left[b]),
            capacity=int(nodes.shared_capacity[which[b]]),
        )
        for b in np.argsort(-left, kind="stable")[:MAX_SHORT].tolist()
    )


def _amount(request: Request, resource: str) -> int:
    if resource == "gpus":
        return max(request.gpus, 1)
    return dict(request.extra).get(resource) or int(getattr(request, resource, 0))


def _capacity(live: Engine, nodes: NDArray[np.integer], resource: str) -> int:
    cluster = live.cluster
    if resource in ("gpus", "nics"):
        return int((cluster.gpu_ok if resource == "gpus" else cluster.nic_ok)[nodes].sum())
    amounts = cluster.capacity[nodes, cluster.columns.index(resource)]
    return int(amounts[amounts < UNLIMITED].sum())


def _domain_name(live: Engine, levels: tuple[int, ...], node: int) -> str:
    cluster = live.cluster
    names = [
        f"{LEVELS[level]} {cluster.fleet.domain_name[cluster.level_domains[level][cluster.level_domain[level, node]]]}"
        for level in levels
    ]
    return ", ".join(names)


# -- who is in the way ------------------------------------------------------------------------------


def _smallest_ending(
    engine: Engine, live: Engine, empty: Engine, workload: Workload, role: Role, levels: tuple[int, ...]
) -> tuple[str, ...]:
    """A small set of running workloads whose end lets this one start: clear the cheapest nodes of the closest domains, then prune.

    Finding the smallest set is a set-cover problem; this is the greedy answer, and if it is small every member is shown to be needed.
    """
    shape, size = live.shapes.intern(role.request), role.sizes()[-1] if workload.gang else 1
    room, most = live.counts(shape, size), empty.counts(shape, size)
    held = _held(live, workload, role, levels)
    partition = live.partitions.of(levels)
    best: tuple[str, ...] = ()
    roomy = np.where(_held(empty, workload, role, levels) >= size, held, -1)
    for group in np.argsort(-roomy, kind="stable")[:MAX_DOMAINS_CLEARED].tolist():
        nodes = _cheapest_first(engine, partition.order[partition.start[group] : partition.start[group + 1]].tolist())
        order = list(dict.fromkeys(name for n in nodes for name in engine.on_node(n)))
        gained = np.cumsum(most[nodes].astype(np.int64) - room[nodes])
        cleared = nodes[: int(np.searchsorted(gained, size - held[group])) + 1]
        guess = len(dict.fromkeys(name for n in cleared for name in engine.on_node(n)))
        alone = [name for name in order[:MAX_ALONE] if guess > 1 and _starts(live, workload, (name,)) is not None]
        ending = alone[:1] or _prefix_that_helps(live, workload, order, guess)
        if ending:
            ending = _pruned(live, workload, ending)
        if ending and (not best or len(ending) < len(best)):
            best = tuple(ending)
    return best if len(best) <= MAX_BLOCKERS else ()


def _prefix_that_helps(live: Engine, workload: Workload, order: list[str], guess: int) -> list[str]:
    """The shortest prefix of ``order`` whose end lets the workload start, by bisection from a guess; empty if all of it does not."""
    low, high = 0, guess
    if _starts(live, workload, tuple(order[:guess])) is None:
        low, high = guess, len(order)
        if _starts(live, workload, tuple(order)) is None:
            return []
    elif guess > MAX_PRUNED:
        return order[:guess]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _starts(live, workload, tuple(order[:middle])) is not None else (middle, high)
    return order[:high]


def _cheapest_first(engine: Engine, nodes: list[int]) -> list[int]:
    """Nodes with the fewest and least important workloads first."""

    def cost(n: int) -> tuple[int, int, int]:
        names = engine.on_node(n)
        return len(names), max((engine.running[name][0].priority for name in names), default=0), n

    return sorted(nodes, key=cost)


def _pruned(live: Engine, workload: Workload, ending: list[str]) -> list[str]:
    for name in ending[:-1] if len(ending) <= MAX_PRUNED else ():
        fewer = tuple(other for other in ending if other != name)
        if _starts(live, workload, fewer) is not None:
            ending = list(fewer)
    return ending


def _blockers(live: Engine, ending: tuple[str, ...], resource: str) -> tuple[Blocker, ...]:
    blockers = []
    for name in ending:
        workload, rows = live.running[name]
        requests = [workload.roles[r].request for r in rows.role.tolist()]
        nodes = list(dict.fromkeys(rows.node.tolist()))
        where = live.cluster.fleet.node_name(nodes[0]) + (f" and {len(nodes) - 1} more nodes" if len(nodes) > 1 else "")
        # One that holds none of what is scarce is in the way by what it does hold.
        for held in (resource, "gpus", "cpu_milli", "memory_bytes"):
            amount = sum(r.gpus if held == "gpus" else _amount(r, held) for r in requests)
            if amount:
                blockers.append(
                    Blocker(workload=name, tenant=workload.tenant, domain=where, resource=held, amount=amount)
                )
                break
    return tuple(blockers)


# -- what else would help ---------------------------------------------------------------------------


def _uncordoned(live: Engine, workload: Workload) -> Counterfactual | None:
    fleet = live.cluster.fleet
    cordoned = np.flatnonzero(fleet.node_cordoned & (fleet.node_health == Health.HEALTHY))
    if len(cordoned) == 0:
        return None
    open_cluster = replace(live.cluster, schedulable=fleet.node_health == Health.HEALTHY)
    outcome = _starts(live.fork(cluster=open_cluster), workload)
    if outcome is None:
        return None
    used = np.intersect1d(np.unique(outcome.rows.node), cordoned)
    names = tuple(fleet.node_name(int(n)) for n in used)
    verb = "is" if len(names) == 1 else "are"
    return Counterfactual(
        change=f"uncordon {', '.join(names)}", starts=True, sentence=f"starts if {_named(names)} {verb} uncordoned"
    )


def _smaller(live: Engine, workload: Workload, levels: tuple[int, ...]) -> Counterfactual | None:
    """The largest gang that would start now, where one would: what the roomiest domain holds, or else by bisection below that."""
    if not workload.gang or len(workload.roles) != 1:
        return None
    role = workload.roles[0]
    step = max((t.block for t in workload.together if t.block), default=1)
    held = int(_held(live, workload, role, levels).max(initial=0))
    low, high = 0, min(held, role.sizes()[-1] - 1) // step + 1
    if high > 1 and _starts(live, _resized(workload, (high - 1) * step)) is not None:
        low = high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _starts(live, _resized(workload, middle * step)) is not None else (low, middle)
    if low == 0:
        return None
    return Counterfactual(
        change=f"{low * step} replicas",
        starts=True,
        sentence=f"starts now with {low * step} of its {role.replicas} replicas",
    )


def _resized(workload: Workload, replicas: int) -> Workload:
    role = replace(workload.roles[0], replicas=replicas, min_replicas=0)
    return replace(workload, roles=(role,), parallelism=Parallelism())
