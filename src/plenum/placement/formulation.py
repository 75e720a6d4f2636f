"""The constraint graph as integer variables for CP-SAT, and the way back from their values to rows.

Identical replicas are one *atom*: only their number on each node is a variable, never which is which. Whole GPUs and NICs of a
node that no constraint tells apart form a *cell* and are counted too; only GPUs that are shared or partitioned have variables of
their own. Free amounts come from the plain books of :mod:`plenum.placement.ledger`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from plenum.model.fleet import CPU, GPU
from plenum.model.view import Rows, View
from plenum.model.workload import MIG_SLICES, MIG_STARTS, Apart, Request, Together, Workload
from plenum.placement.check import tenant_usage
from plenum.placement.ledger import Ledger, Slot, amounts, share_of_cores

if TYPE_CHECKING:
    from plenum.placement.policies import Cap

Expression = Any
"""A variable or linear expression of CP-SAT, which is imported only where it is used."""

Cell = tuple[int | None, int | None]
"""NUMA node and PCIe switch, where the batch cares; devices of one cell are interchangeable."""

_ANYWHERE: Cell = (-1, -1)
"""Stands for all cells of a node at once: what is not aligned takes what the aligned leave."""

SOFT_SCALE = 1000
"""Preference weights are rounded to thousandths."""

_WIDE = 60
"""Bits that a sum may need; CP-SAT adds in 64."""


@dataclass(frozen=True, slots=True)
class Atom:
    """Replicas ``first`` up to ``last`` of a role, which no constraint tells apart."""

    workload: int
    role: int
    first: int
    last: int
    request: Request

    @property
    def size(self) -> int:
        """How many there are."""
        return self.last - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way for replicas of an atom to sit on a node, and how many do.

    Parameters
    ----------
    numa
        NUMA nodes that each of them holds; empty: not aligned.
    gpu, mig_mask
        The GPU they share, or its memory eighths that one of them takes; -1: whole GPUs or none.
    gpu_takes, nic_takes
        Devices drawn from each cell by all of them together.
    """

    count: Expression
    numa: tuple[int, ...]
    gpu: int = -1
    mig_mask: int = 0
    gpu_takes: tuple[tuple[Cell, Expression], ...] = ()
    nic_takes: tuple[tuple[Cell, Expression], ...] = ()


@dataclass(slots=True)
class _Node:
    """What a node has free, and what the options of all atoms take of it."""

    whole: dict[Cell, list[int]] = field(default_factory=lambda: defaultdict(list))
    shared_milli: dict[int, int] = field(default_factory=dict)
    mig_taken: dict[int, int] = field(default_factory=dict)
    nics: dict[Cell, list[int]] = field(default_factory=lambda: defaultdict(list))
    cell_of: dict[int, Cell] = field(default_factory=dict)
    gpu_uses: dict[Cell, list[Expression]] = field(default_factory=lambda: defaultdict(list))
    nic_uses: dict[Cell, list[Expression]] = field(default_factory=lambda: defaultdict(list))
    shares: dict[int, list[tuple[int, Expression]]] = field(default_factory=lambda: defaultdict(list))
    instances: dict[int, list[tuple[int, Expression]]] = field(default_factory=lambda: defaultdict(list))
    numa_uses: dict[int, list[tuple[int, Expression, int]]] = field(default_factory=lambda: defaultdict(list))
    opened: dict[int, Expression] = field(default_factory=dict)


class Formulation:
    """The model of one batch.

    Parameters
    ----------
    cp
        The module ``ortools.sat.python.cp_model``.
    pending
        W workloads, in the order that rows will index them.

    Attributes
    ----------
    model
        The CP-SAT model, without an objective.
    placed
        (W,) expressions: for a gang 1 if it is placed; otherwise the number of its replicas that are.
    soft
        Weighted expressions: what the preferences given up cost.
    """

    def __init__(self, cp: Any, view: View, pending: Sequence[Workload], caps: Iterable[Cap] = ()) -> None:
        self.model = cp.CpModel()
        self.view = view
        self.pending = tuple(pending)
        self.books = Ledger.of(view)
        self.atoms = [atom for w, workload in enumerate(pending) for atom in atoms_of(w, workload)]
        self.options: dict[tuple[int, int], list[Option]] = {}
        self.counts: dict[tuple[int, int], Expression] = {}
        self._limits: dict[tuple[int, int], int] = {}
        self.soft: list[tuple[int, Expression]] = []
        aligned = {atom.request.aligned for atom in self.atoms}
        self._by_numa, self._by_switch = bool(aligned - {""}), "pcie" in aligned
        self._nodes = [self._free(node) for node in range(view.fleet.n_nodes)]
        for a in range(len(self.atoms)):
            for node in range(view.fleet.n_nodes):
                self._seat(a, node)
        for node, here in enumerate(self._nodes):
            self._bound_devices(node, here)
        self._bound_budgets()
        self._bound_caps(caps)
        self._order_equal_nodes()
        self.placed = [self._sizes(w) for w in range(len(pending))]
        for w, workload in enumerate(pending):
            for together in workload.together:
                for group in self._groups(w, together.role, together.block):
                    self._together(group, together)
            for apart in workload.apart:
                for group in self._groups(w, apart.role, 0):
                    self._apart(group, apart)

    def total(self, a: int) -> Expression:
        """Return the number of an atom's replicas that are placed."""
        return _sum(self.counts[a, n] for n in range(len(self._nodes)) if (a, n) in self.counts)

    # -- seats ------------------------------------------------------------------------------------

    def _free(self, node: int) -> _Node:
        """Sort a node's healthy devices by what is left of them."""
        books, here = self.books, _Node()
        for g, slot in books.gpus[node].items():
            here.cell_of[g] = cell = self._cell(slot)
            use = books.gpu_use[node, g]
            if not slot.healthy:
                continue
            if use.mig_masks:
                here.mig_taken[g] = use.mig_mask
            elif use.plain_milli:
                here.shared_milli[g] = GPU - use.plain_milli
            else:
                here.whole[cell].append(g)
        for k, slot in books.nics[node].items():
            if slot.healthy and not books.nic_use[node, k]:
                here.nics[self._cell(slot)].append(k)
        return here

    def _cell(self, slot: Slot) -> Cell:
        return slot.numa if self._by_numa else None, slot.switch if self._by_switch else None

    def _seat(self, a: int, node: int) -> None:
        """Make the variables of one atom on one node, or none if it can never sit there."""
        atom, here = self.atoms[a], self._nodes[node]
        limit = self._most(atom, node)
        if limit <= 0:
            return
        options = [o for numa in self._numa_sets(atom.request, node) for o in self._ways(atom, here, numa, limit)]
        if not options:
            return
        self.options[a, node] = options
        self._limits[a, node] = limit
        self.counts[a, node] = _sum(option.count for option in options)
        for option in options:
            self._book(atom.request, here, option, limit)
            if len(option.numa) > 1:
                self.soft.append((len(option.numa) - 1, option.count))
        if len(options) > 1:
            self.model.add(self.counts[a, node] <= limit)

    def _most(self, atom: Atom, node: int) -> int:
        """Return how many replicas every budget above a node has room for, one by one."""
        workload = self.pending[atom.workload]
        name = workload.roles[atom.role].name
        levels = [c.level for c in (*workload.together, *workload.apart) if c.required and c.role in ("", name)]
        if self.books.may_host(atom.request, node):
            return 0
        if any(self.books.domain_at(node, level) is None for level in levels):
            return 0
        most = atom.size
        for resource, amount in amounts(atom.request, self.view.fleet, node).items():
            for domain in self.books.chain[node]:
                if amount and (domain, resource) in self.books.budget:
                    most = min(most, self._room(domain, resource) // amount)
        return most

    def _room(self, domain: int, resource: str) -> int:
        return max(0, self.books.budget[domain, resource] - self.books.used[domain, resource])

    def _numa_sets(self, request: Request, node: int) -> Iterator[tuple[int, ...]]:
        if not request.aligned:
            yield ()
            return
        domains = self.books.numa_domains[node]
        free = [self.books.budget.get((d, CPU), 0) - self.books.numa_held[d] for d in domains]
        for size in range(1, len(domains) + 1):
            part = share_of_cores(request, size)
            yield from combinations([q for q in range(len(domains)) if free[q] >= part], size)

    def _ways(self, atom: Atom, here: _Node, numa: tuple[int, ...], limit: int) -> Iterator[Option]:
        request = atom.request
        gpu_cells = [cell for cell in here.whole if not numa or cell[0] in numa]
        nic_cells = [cell for cell in here.nics if not numa or cell[0] in numa]
        if request.mig or request.total_gpu_milli % GPU:
            for gpu, mask, most in _parts(request, here, limit):
                cell = here.cell_of[gpu]
                if numa and cell[0] not in numa:
                    continue
                count = self.model.new_int_var(0, most, "")
                cells = [c for c in nic_cells if c == cell] if _paired(request) else nic_cells
                nics = self._draw(here.nics, cells, request, request.nics, count)
                if nics is not None and (not _paired(request) or cell[1] is not None):
                    yield Option(count=count, numa=numa, gpu=gpu, mig_mask=mask, nic_takes=nics)
            return
        count = self.model.new_int_var(0, limit, "")
        if _paired(request):
            gpu_cells = [cell for cell in gpu_cells if cell[1] is not None and cell in here.nics]
        gpus = self._draw(here.whole, gpu_cells, request, request.gpus, count)
        nics = gpus if _paired(request) else self._draw(here.nics, nic_cells, request, request.nics, count)
        if gpus is not None and nics is not None:
            yield Option(count=count, numa=numa, gpu_takes=gpus, nic_takes=nics)

    def _draw(
        self, pools: dict[Cell, list[int]], cells: list[Cell], request: Request, each: int, count: Expression
    ) -> tuple[tuple[Cell, Expression], ...] | None:
        """Return how many devices come from each cell, ``each`` a replica in all; None: there are too few."""
        if sum(len(pools[cell]) for cell in cells) < each:
            return None
        if each == 0:
            return ()
        if len(cells) == 1 or not request.aligned:
            return ((cells[0] if len(cells) == 1 else _ANYWHERE, each * count),)
        takes = [self.model.new_int_var(0, len(pools[cell]), "") for cell in cells]
        self.model.add(_sum(takes) == each * count)
        return tuple(zip(cells, takes, strict=True))

    def _book(self, request: Request, here: _Node, option: Option, limit: int) -> None:
        """Note what an option takes of its node's devices and inner cores."""
        for cell, take in option.gpu_takes:
            here.gpu_uses[cell].append(take)
        for cell, take in option.nic_takes:
            here.nic_uses[cell].append(take)
        if option.mig_mask:
            here.instances[option.gpu].append((option.mig_mask, option.count))
        elif option.gpu >= 0:
            here.shares[option.gpu].append((request.gpu_milli, option.count))
        for q in option.numa:
            here.numa_uses[q].append((share_of_cores(request, len(option.numa)), option.count, limit))

    # -- hard constraints --------------------------------------------------------------------------

    def _bound_devices(self, node: int, here: _Node) -> None:
        for gpu, free in here.shared_milli.items():
            self.model.add(_dot(here.shares[gpu]) <= free)
        for gpu in here.mig_taken:
            self._bound_eighths(here.instances[gpu], 1)
        for cell, gpus in here.whole.items():
            for gpu in gpus:
                if here.shares[gpu] or here.instances[gpu]:
                    here.opened[gpu] = self._open(here, gpu)
                    here.gpu_uses[cell].append(here.opened[gpu])
            loads = [_load(here, gpu) for gpu in gpus if gpu in here.opened]
            for fuller, emptier in pairwise(loads):
                self.model.add(fuller >= emptier)
        self._bound_cells(here.whole, here.gpu_uses)
        self._bound_cells(here.nics, here.nic_uses)
        for q, terms in here.numa_uses.items():
            domain = self.books.numa_domains[node][q]
            self._bound(terms, self.books.budget.get((domain, CPU), 0) - self.books.numa_held[domain])

    def _bound_cells(self, pools: dict[Cell, list[int]], uses: dict[Cell, list[Expression]]) -> None:
        """Keep each cell, and all together, to the devices there are."""
        for cell, devices in pools.items():
            self.model.add(_sum(uses[cell]) <= len(devices))
        if uses[_ANYWHERE]:
            self.model.add(_sum(use for cell in uses.values() for use in cell) <= sum(map(len, pools.values())))

    def _open(self, here: _Node, gpu: int) -> Expression:
        """Let a wholly free GPU be shared or partitioned, not both; return whether it is either."""
        share, mig = self.model.new_bool_var(""), self.model.new_bool_var("")
        self.model.add(_dot(here.shares[gpu]) <= GPU * share)
        self._bound_eighths(here.instances[gpu], mig)
        self.model.add(share + mig <= 1)
        return share + mig

    def _bound_eighths(self, instances: list[tuple[int, Expression]], most: Expression) -> None:
        for eighth in range(8):
            over = [count for mask, count in instances if mask >> eighth & 1]
            if over:
                self.model.add(_sum(over) <= most)

    def _bound_budgets(self) -> None:
        terms: dict[tuple[int, str], list[tuple[int, Expression, int]]] = defaultdict(list)
        for (a, node), count in self.counts.items():
            for resource, amount in amounts(self.atoms[a].request, self.view.fleet, node).items():
                for domain in self.books.chain[node]:
                    if amount and (domain, resource) in self.books.budget:
                        terms[domain, resource].append((amount, count, self._limits[a, node]))
        for (domain, resource), uses in terms.items():
            self._bound(uses, self._room(domain, resource))

    def _bound_caps(self, caps: Iterable[Cap]) -> None:
        for cap in caps:
            used = tenant_usage(self.view, self.books, cap)
            terms: dict[tuple[str, int], list[tuple[int, Expression, int]]] = defaultdict(list)
            for (a, node), count in self.counts.items():
                tenant = self.pending[self.atoms[a].workload].tenant
                domain = self.books.domain_at(node, cap.level)
                amount = amounts(self.atoms[a].request, self.view.fleet, node).get(cap.resource, 0)
                if domain is not None and amount and cap.tenant in ("", tenant):
                    terms[tenant, domain].append((amount, count, self._limits[a, node]))
            for key, uses in terms.items():
                self._bound(uses, max(0, cap.amount - used[key]))

    def _bound(self, terms: list[tuple[int, Expression, int]], room: int) -> None:
        """Keep a weighted sum of counts within a budget; ``terms`` are (amount, count, most).

        Amounts too large for 64-bit sums are rounded against us to a coarser unit, so that the answer stays safe.
        """
        total = sum(amount * most for amount, _, most in terms)
        if total <= room:
            return
        unit = gcd(*(amount for amount, _, _ in terms))
        unit <<= max(0, (total // unit).bit_length() - _WIDE)
        self.model.add(_dot([(-(-amount // unit), count) for amount, count, _ in terms]) <= room // unit)

    def _sizes(self, w: int) -> Expression:
        """Hold a gang together, at any of its sizes; let other replicas be placed one by one."""
        workload = self.pending[w]
        mine = [a for a, atom in enumerate(self.atoms) if atom.workload == w]
        if not workload.gang:
            for a in mine:
                # A required block is of use only as a whole; other replicas are placed one by one.
                if _is_block(workload, self.atoms[a]):
                    self.model.add(self.total(a) == self.atoms[a].size * self.model.new_bool_var(""))
                else:
                    self.model.add(self.total(a) <= self.atoms[a].size)
            return _sum(self.total(a) for a in mine)
        placed = self.model.new_bool_var("")
        for r, role in enumerate(workload.roles):
            sizes = role.sizes()
            chosen = [placed] if len(sizes) == 1 else [self.model.new_bool_var("") for _ in sizes]
            self.model.add(_sum(chosen) == placed)
            for a in mine:
                atom = self.atoms[a]
                if atom.role == r:
                    parts = [min(max(size - atom.first, 0), atom.size) for size in sizes]
                    self.model.add(self.total(a) == _dot(list(zip(parts, chosen, strict=True))))
        return placed

    def _groups(self, w: int, role_name: str, block: int) -> list[list[int]]:
        """Return the atoms that a constraint holds for, by block."""
        workload = self.pending[w]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for a, atom in enumerate(self.atoms):
            if atom.workload == w and role_name in ("", workload.roles[atom.role].name):
                groups[(atom.role, atom.first // block) if block else (0, 0)].append(a)
        return list(groups.values())

    def _by_domain(self, group: list[int], level: str) -> dict[int, list[tuple[int, int]]]:
        """Return the (atom, node) pairs in each domain of a level; a node outside any is a domain of its own, below 0."""
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for a, node in self.counts:
            if a in group:
                domain = self.books.domain_at(node, level)
                found[-1 - node if domain is None else domain].append((a, node))
        return found

    def _together(self, group: list[int], constraint: Together) -> None:
        """Allow one domain, or count those beyond the first."""
        domains = self._by_domain(group, constraint.level)
        if len(domains) < 2:
            return
        most = sum(self.atoms[a].size for a in group)
        used = []
        for pairs in domains.values():
            used.append(self.model.new_bool_var(""))
            self.model.add(_sum(self.counts[pair] for pair in pairs) <= most * used[-1])
        if constraint.required:
            self.model.add(_sum(used) <= 1)
        else:
            self._soften(constraint.weight, _sum(used) - 1, len(used))

    def _apart(self, group: list[int], constraint: Apart) -> None:
        """Limit the replicas in a domain, or count those beyond the limit."""
        most = sum(self.atoms[a].size for a in group)
        for domain, pairs in self._by_domain(group, constraint.level).items():
            here = _sum(self.counts[pair] for pair in pairs)
            if domain < 0 or most <= constraint.max_per_domain:
                continue
            if constraint.required:
                self.model.add(here <= constraint.max_per_domain)
            else:
                self._soften(constraint.weight, here - constraint.max_per_domain, most)

    def _soften(self, weight: float, excess: Expression, most: int) -> None:
        over = self.model.new_int_var(0, most, "")
        self.model.add(over >= excess)
        self.soft.append((max(1, round(weight * SOFT_SCALE)), over))

    def _order_equal_nodes(self) -> None:
        """Break ties: of two empty nodes alike in everything, the first is at least as loaded, in any one linear measure."""
        last: dict[object, int] = {}
        for node in range(len(self._nodes)):
            if (self.view.rows.node == node).any():
                continue
            alike = self._likeness(node)
            if alike in last:
                self.model.add(self._weight(last[alike]) >= self._weight(node))
            last[alike] = node

    def _weight(self, node: int) -> Expression:
        return _dot(
            [(len(self.atoms) - a, self.counts[a, node]) for a in range(len(self.atoms)) if (a, node) in self.counts]
        )

    def _likeness(self, node: int) -> object:
        """Return a key that two nodes share if swapping them changes nothing."""
        fleet, books = self.view.fleet, self.books
        own = int(fleet.node_domain[node])
        switches: dict[int | None, int] = {}

        def seats(slots: dict[int, Slot]) -> tuple:
            return tuple(
                (
                    g,
                    s.healthy,
                    s.model,
                    s.capacity,
                    s.numa,
                    None if s.switch is None else switches.setdefault(s.switch, len(switches)),
                )
                for g, s in sorted(slots.items())
            )

        return (
            tuple(d for d in books.chain[node] if d != own),
            tuple((r, books.budget.get((own, r))) for r in fleet.resources),
            tuple(books.budget.get((d, CPU)) for d in books.numa_domains[node]),
            (int(fleet.node_gpu_power_w[node]), int(fleet.node_health[node]), bool(fleet.node_cordoned[node])),
            tuple(fleet.node_traits[node].tolist()),
            seats(books.gpus[node]),
            seats(books.nics[node]),
        )

    # -- the way back --------------------------------------------------------------------------------

    def rows(self, value: Callable[[Expression], int]) -> list[Rows]:
        """Return the rows of each workload under an assignment of the variables, in (role, rank) order."""
        pools = [_Pools.of(here, value) for here in self._nodes]
        table: list[list[tuple]] = [[] for _ in self.pending]
        # The aligned choose first: others take whatever is left, from any cell.
        for a in sorted(range(len(self.atoms)), key=lambda a: not self.atoms[a].request.aligned):
            atom = self.atoms[a]
            rank = atom.first
            for node in range(len(self._nodes)):
                for option in self.options.get((a, node), ()):
                    for devices in pools[node].draw(atom.request, option, value):
                        table[atom.workload].append((atom.workload, atom.role, rank, node, *devices))
                        rank += 1
        return [_rows(entries) if entries else Rows() for entries in table]


@dataclass(slots=True)
class _Pools:
    """Devices of a node that are still to be handed out, by cell."""

    gpus: dict[Cell, list[int]]
    nics: dict[Cell, list[int]]

    @staticmethod
    def of(here: _Node, value: Callable[[Expression], int]) -> _Pools:
        closed = {gpu for gpu, opened in here.opened.items() if value(opened)}
        gpus = {cell: [g for g in members if g not in closed] for cell, members in here.whole.items()}
        return _Pools(gpus, {cell: list(members) for cell, members in here.nics.items()})

    def draw(
        self, request: Request, option: Option, value: Callable[[Expression], int]
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yield the (GPU, NIC, MIG, NUMA) sets of each replica of an option."""
        count = value(option.count)
        gpus = [_pop(self.gpus, cell) for cell, take in option.gpu_takes for _ in range(value(take))]
        nics = [_pop(self.nics, cell) for cell, take in option.nic_takes for _ in range(value(take))]
        numa_mask = _mask(option.numa)
        for i in range(count):
            mine = [option.gpu] if option.gpu >= 0 else gpus[i * request.gpus : (i + 1) * request.gpus]
            theirs = nics[i * request.nics : (i + 1) * request.nics]
            yield _mask(mine), _mask(theirs), option.mig_mask, numa_mask


def _pop(pools: dict[Cell, list[int]], cell: Cell) -> int:
    pool = min((p for p in pools.values() if p), key=lambda p: p[0]) if cell == _ANYWHERE else pools[cell]
    return pool.pop(0)


def atoms_of(w: int, workload: Workload) -> Iterator[Atom]:
    """Cut each role's ranks at the borders of every block that a constraint names."""
    for r, role in enumerate(workload.roles):
        cuts = {0, role.replicas}
        for constraint in workload.together:
            if constraint.block and constraint.role in ("", role.name):
                cuts |= set(range(0, role.replicas, constraint.block))
        borders = sorted(cuts)
        for first, last in pairwise(borders):
            yield Atom(w, r, first, last, role.request)


def _is_block(workload: Workload, atom: Atom) -> bool:
    name = workload.roles[atom.role].name
    return any(t.required and t.block and t.role in ("", name) for t in workload.together)


def _parts(request: Request, here: _Node, limit: int) -> Iterator[tuple[int, int, int]]:
    """Yield (GPU, MIG eighths, most replicas) for a share or a MIG instance, GPUs already opened first."""
    whole = sorted(gpu for gpus in here.whole.values() for gpu in gpus)
    if not request.mig:
        for gpu, free in [*here.shared_milli.items(), *((gpu, GPU) for gpu in whole)]:
            if free >= request.gpu_milli:
                yield gpu, 0, min(limit, free // request.gpu_milli)
        return
    one = (1 << MIG_SLICES[request.mig]) - 1
    for gpu, taken in [*here.mig_taken.items(), *((gpu, 0) for gpu in whole)]:
        for start in MIG_STARTS[request.mig]:
            if not taken & (one << start):
                yield gpu, one << start, 1


def _paired(request: Request) -> bool:
    return request.aligned == "pcie" and request.nics > 0


def _load(here: _Node, gpu: int) -> Expression:
    return _dot([*here.shares[gpu], *((mask.bit_count(), count) for mask, count in here.instances[gpu])])


def _sum(items: Iterable[Expression]) -> Expression:
    return sum(items, 0)


def _dot(terms: Iterable[tuple[int, Expression]]) -> Expression:
    return sum((amount * item for amount, item in terms), 0)


def _mask(members: Iterable[int]) -> int:
    return sum(1 << i for i in members)


def _rows(entries: list[tuple]) -> Rows:
    workload, role, rank, node, gpu_mask, nic_mask, mig_mask, numa_mask = zip(*sorted(entries), strict=True)
    return Rows(
        workload=np.array(workload, np.int32),
        role=np.array(role, np.int16),
        rank=np.array(rank, np.int32),
        node=np.array(node, np.int32),
        gpu_mask=np.array(gpu_mask, np.uint64),
        nic_mask=np.array(nic_mask, np.uint64),
        mig_mask=np.array(mig_mask, np.uint8),
        numa_mask=np.array(numa_mask, np.uint8),
    )
