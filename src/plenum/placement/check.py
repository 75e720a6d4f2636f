"""The checker: whether a plan keeps every promise, recomputed from the nouns alone.

It shares no code with the engine. It is slow and dull on purpose: tests hold every policy to it, and whoever distrusts a plan
can run it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from plenum.model.fleet import LEVELS
from plenum.model.plan import Plan
from plenum.model.view import Rows, View
from plenum.model.workload import MIG_SLICES, MIG_STARTS, Apart, Request, Role, Together, Workload
from plenum.placement.ledger import Ledger, Slot, amounts, members

if TYPE_CHECKING:
    from plenum.placement.policies import Cap, Policy


def view_violations(view: View) -> tuple[str, ...]:
    """Return everything that a view takes but does not have: budgets, devices and cores, as sentences.

    Health is no violation here: what runs on a node that has since failed runs on until something moves it.
    """
    books, nothing = Ledger.of(view), Ledger(view.fleet)
    return (*_device_faults(books), *_budget_faults(books, nothing))


def violations(view: View, plan: Plan, policy: Policy | None = None) -> tuple[str, ...]:
    """Return every promise that a plan breaks, as sentences; empty: none.

    Parameters
    ----------
    view
        What the plan was made for.
    policy
        Its caps are checked too.

    Returns
    -------
    tuple
        Budgets exceeded on any domain that the plan adds to, devices given twice or in the wrong state, illegal MIG
        instances, split gangs, broken required constraints, hosts that may not take the request, misalignment, exceeded
        caps, and pending workloads that are neither placed nor given a reason.
    """
    placed = _by_workload(plan)
    before = Ledger.of(view)
    found = [*_unanswered(plan, placed)]
    for workload, rows in placed.items():
        found += _workload_faults(before, workload, rows)
    # A row that names what is not there cannot be booked.
    if any("there is no" in sentence for sentence in found):
        return tuple(found)
    after = plan.applied_to(view)
    books = Ledger.of(after)
    found += _device_faults(books)
    found += _budget_faults(books, before)
    for cap in policy.caps if policy else ():
        found += _cap_faults(view, after, books, cap)
    return tuple(found)


# -- one workload -----------------------------------------------------------------------------------


def _by_workload(plan: Plan) -> dict[Workload, Rows]:
    parts: dict[Workload, list[Rows]] = defaultdict(list)
    for placement in plan.placements:
        parts[placement.workload].append(placement.rows)
    return {workload: Rows.joined(rows) for workload, rows in parts.items()}


def _unanswered(plan: Plan, placed: dict[Workload, Rows]) -> Iterator[str]:
    reasons = {reason.workload for reason in plan.reasons}
    pending = Counter(workload.id for workload in plan.pending)
    for workload in plan.pending:
        got = len(placed.get(workload, Rows()))
        if not got and workload.id not in reasons:
            yield f"{workload.id} is neither placed nor given a reason"
        if got and workload.gang and workload.id in reasons:
            yield f"{workload.id} is placed and given a reason at once"
    for workload in placed:
        if not pending[workload.id]:
            yield f"{workload.id} is placed but was not pending"
    for placement in plan.placements:
        for i in set(placement.rows.workload.tolist()):
            if not 0 <= i < len(plan.pending) or plan.pending[i] != placement.workload:
                yield f"{placement.workload.id}: its rows point at pending workload {i}"


def _workload_faults(books: Ledger, workload: Workload, rows: Rows) -> Iterator[str]:
    for i in range(len(rows)):
        for fault in _row_faults(books, workload, rows, i):
            yield f"{workload.id}: {fault}"
    ranks = Counter(zip(rows.role.tolist(), rows.rank.tolist(), strict=True))
    for (role, rank), times in ranks.items():
        if times > 1:
            yield f"{workload.id}: replica {rank} of role {role} is placed {times} times"
    if workload.gang:
        for r, role in enumerate(workload.roles):
            have = sum(1 for other, _ in ranks if other == r)
            if have not in role.sizes():
                yield f"{workload.id}: the gang is split: {have} of {_wanted(role)} replicas of {role.name}"
    for constraint in workload.together:
        if constraint.required:
            yield from (f"{workload.id}: {fault}" for fault in _together_faults(books, workload, rows, constraint))
    for constraint in workload.apart:
        if constraint.required:
            yield from (f"{workload.id}: {fault}" for fault in _apart_faults(books, workload, rows, constraint))


def _wanted(role: Role) -> str:
    return " or ".join(str(size) for size in role.sizes())


def _row_faults(books: Ledger, workload: Workload, rows: Rows, i: int) -> Iterator[str]:
    fleet = books.fleet
    role, node = int(rows.role[i]), int(rows.node[i])
    if not 0 <= role < len(workload.roles):
        yield f"there is no role {role}"
        return
    if not 0 <= node < fleet.n_nodes:
        yield f"there is no node {node}"
        return
    request = workload.roles[role].request
    name = f"replica {rows.rank[i]} on {fleet.node_name(node)}"
    if not 0 <= rows.rank[i] < workload.roles[role].replicas:
        yield f"there is no replica {rows.rank[i]} of role {role}"
    why = books.may_host(request, node)
    if why:
        yield f"{name}: the node {why}"
    gpus, nics = members(int(rows.gpu_mask[i])), members(int(rows.nic_mask[i]))
    for kind, wanted, given, slots in (
        ("GPU", request.gpus, gpus, books.gpus[node]),
        ("NIC", request.nics, nics, books.nics[node]),
    ):
        if len(given) != wanted:
            yield f"{name}: {len(given)} {kind}s instead of {wanted}"
        for g in given:
            if g not in slots:
                yield f"{name}: there is no {kind} {g}"
                return
            if not slots[g].healthy:
                yield f"{name}: {kind} {g} is not healthy"
    yield from (f"{name}: {fault}" for fault in _mig_faults(request, int(rows.mig_mask[i])))
    held = members(int(rows.numa_mask[i]))
    seats = [books.gpus[node][g] for g in gpus], [books.nics[node][k] for k in nics]
    for fault in _alignment_faults(request, held, len(books.numa_domains[node]), *seats):
        yield f"{name}: {fault}"


def _mig_faults(request: Request, mask: int) -> Iterator[str]:
    if not request.mig:
        if mask:
            yield "a MIG instance that was not asked for"
        return
    one = (1 << MIG_SLICES[request.mig]) - 1
    if mask not in [one << start for start in MIG_STARTS[request.mig]]:
        yield f"memory eighths {mask:#010b} are no legal {request.mig} instance"


def _alignment_faults(
    request: Request, held: list[int], numa_nodes: int, gpus: list[Slot], nics: list[Slot]
) -> Iterator[str]:
    if not request.aligned:
        if held:
            yield "holds NUMA nodes without being aligned"
        return
    if not held or held[-1] >= numa_nodes:
        yield f"is aligned, but holds NUMA nodes {held} of {numa_nodes}"
    elif any(slot.numa not in held for slot in (*gpus, *nics)):
        yield f"has a GPU or NIC outside its NUMA nodes {held}"
    if request.aligned == "pcie" and request.nics:
        ours, theirs = Counter(gpu.switch for gpu in gpus), Counter(nic.switch for nic in nics)
        if None in ours or ours != theirs:
            yield "has a GPU without a NIC of its own PCIe switch"


def _nodes_of(workload: Workload, rows: Rows, role_name: str) -> Iterator[tuple[int, int, int]]:
    """Yield (role, rank, node) of the replicas that a constraint holds for."""
    for role, rank, node in zip(rows.role.tolist(), rows.rank.tolist(), rows.node.tolist(), strict=True):
        if role_name in ("", workload.roles[role].name):
            yield role, rank, node


def _together_faults(books: Ledger, workload: Workload, rows: Rows, constraint: Together) -> Iterator[str]:
    groups: dict[tuple[int, int], list[int | None]] = defaultdict(list)
    for role, rank, node in _nodes_of(workload, rows, constraint.role):
        block = (role, rank // constraint.block) if constraint.block else (0, 0)
        groups[block].append(books.domain_at(node, constraint.level))
    for (_, block), domains in groups.items():
        if constraint.block and len(domains) != constraint.block:
            yield f"block {block} has {len(domains)} of its {constraint.block} replicas"
        if None in domains:
            yield f"block {block} is partly outside every {constraint.level}"
        elif len(set(domains)) > 1:
            yield f"block {block} is spread over {len(set(domains))} domains of {constraint.level}"


def _apart_faults(books: Ledger, workload: Workload, rows: Rows, constraint: Apart) -> Iterator[str]:
    counts = Counter(
        books.domain_at(node, constraint.level) for _, _, node in _nodes_of(workload, rows, constraint.role)
    )
    for domain, count in counts.items():
        if domain is None:
            yield f"{count} replicas are outside every {constraint.level}"
        elif count > constraint.max_per_domain:
            yield f"{count} replicas in {books.fleet.domain_path(domain)}; at most {constraint.max_per_domain} may be"


# -- the whole fleet --------------------------------------------------------------------------------


def _device_faults(books: Ledger) -> Iterator[str]:
    for (node, g), use in books.gpu_use.items():
        for fault in use.faults():
            yield f"GPU {g} of {books.fleet.node_name(node)} {fault}"
    for (node, k), times in books.nic_use.items():
        if times > 1:
            yield f"NIC {k} of {books.fleet.node_name(node)} is given {times} times"


def _budget_faults(books: Ledger, before: Ledger) -> Iterator[str]:
    """Yield budgets that are exceeded and were made worse; inner cores are held only by aligned replicas."""
    fleet = books.fleet
    for (domain, resource), capacity in books.budget.items():
        level = LEVELS[fleet.domain_level[domain]]
        if level == "place.pcie" or (level == "place.numa" and resource != "cpu_milli"):
            continue
        if level == "place.numa":
            now, then = books.numa_held[domain], before.numa_held[domain]
        else:
            now, then = books.used[domain, resource], before.used[domain, resource]
        if now > capacity and now > then:
            yield f"{fleet.domain_path(domain)} would use {now} {resource} of {capacity}"
    for domain, held in books.numa_held.items():
        if held and (domain, "cpu_milli") not in books.budget:
            yield f"{fleet.domain_path(domain)} would hold {held} cpu_milli of none"


def _cap_faults(before: View, after: View, books: Ledger, cap: Cap) -> Iterator[str]:
    then = tenant_usage(before, books, cap)
    for (tenant, domain), now in tenant_usage(after, books, cap).items():
        if now > cap.amount and now > then[tenant, domain]:
            where = books.fleet.domain_path(domain)
            yield f"{tenant} would use {now} {cap.resource} in {where}; the cap is {cap.amount}"


def tenant_usage(view: View, books: Ledger, cap: Cap) -> Counter[tuple[str, int]]:
    """Return what each capped tenant uses of the cap's resource in each domain of its level."""
    usage: Counter[tuple[str, int]] = Counter()
    for i in range(len(view.rows)):
        workload = view.running[view.rows.workload[i]]
        node = int(view.rows.node[i])
        domain = books.domain_at(node, cap.level)
        if cap.tenant in ("", workload.tenant) and domain is not None:
            request = workload.roles[view.rows.role[i]].request
            usage[workload.tenant, domain] += amounts(request, view.fleet, node).get(cap.resource, 0)
    return usage
