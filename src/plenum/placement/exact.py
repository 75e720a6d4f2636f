"""The exact solver: a small batch placed as well as can be, proven so or with the gap that is left (OR-Tools CP-SAT).

It maximises what is placed, highest priority first, and among equals gives up the fewest preferences. CP-SAT's deterministic
clock limits the search, so that the same view, batch and seed give the same plan on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from plenum.model.errors import FieldError, MissingExtraError
from plenum.model.plan import Placement, Plan, Reason
from plenum.model.view import Rows, View
from plenum.model.workload import Workload
from plenum.placement.formulation import Expression, Formulation, atoms_of

if TYPE_CHECKING:
    from plenum.placement.policies import Policy

Objective = Literal["gpus", "replicas"]

MAX_CELLS = 200_000
"""Distinct sets of replicas times nodes that a batch may have; beyond, the model alone would take minutes to build."""

PROBING_SHARE = 0.1
"""Part of the limit that CP-SAT may spend on probing before it searches."""

REASON_LIMIT_S = 1.0
"""Limit on telling why one workload was left out."""

_SHORTEST_S = 1e-3


class _Measure(NamedTuple):
    """Something to have much of, and the most of it that arithmetic allows."""

    expression: Expression
    most: int


def solve_exact(
    view: View,
    pending: Sequence[Workload],
    *,
    objective: Objective = "gpus",
    time_limit_s: float = 10.0,
    seed: int = 0,
    policy: Policy | None = None,
) -> Plan:
    """Place a batch as a whole.

    Parameters
    ----------
    pending
        In any order; the plan holds them by (priority, submitted, id).
    objective
        ``gpus``: the most milli-GPU, replicas breaking ties; ``replicas``: the most replicas. Higher priorities come first.
    time_limit_s
        Seconds of CP-SAT's deterministic clock, of the order of those of one core, for the whole batch; telling why a
        workload was left out takes up to :data:`REASON_LIMIT_S` each besides.
    policy
        Only its caps count here.

    Returns
    -------
    Plan
        ``optimality_gap`` is (bound - value) / bound of what is placed, the widest over priorities; 0: proven optimal.

    Raises
    ------
    FieldError
        The batch is larger than :data:`MAX_CELLS`, or there is no such objective.
    MissingExtraError
        OR-Tools is not installed.
    """
    if objective not in ("gpus", "replicas"):
        raise FieldError("objective", f"must be gpus or replicas, not {objective!r}")
    order = tuple(sorted(pending, key=lambda w: (-w.priority, w.submitted_s, w.id)))
    search = _Search(view, order, policy, time_limit_s, seed)
    gaps = [search.maximise(measure) for measure in _measures(search.formulation, objective)]
    search.relax()
    outcome = list(zip(order, search.rows(), strict=True))
    return Plan(
        pending=order,
        placements=tuple(Placement(workload=w, rows=rows) for w, rows in outcome if len(rows)),
        reasons=tuple(_reason(view, w, policy, seed, proven=search.proven) for w, rows in outcome if not len(rows)),
        policy="exact",
        optimality_gap=max(gaps, default=0.0),
        notes=("proven optimal" if search.proven else f"stopped at its limit of {time_limit_s:g} s",),
    )


def feasible(
    view: View, workload: Workload, *, time_limit_s: float = 10.0, seed: int = 0, policy: Policy | None = None
) -> bool | None:
    """Tell whether a gang fits at any of its sizes, or at least one replica of anything else; None: not known in time.

    Raises
    ------
    FieldError, MissingExtraError
        As :func:`solve_exact`.
    """
    return _Search(view, (workload,), policy, time_limit_s, seed).satisfy()


class _Search:
    """One formulation under a shared limit, with the best assignment found so far."""

    def __init__(
        self, view: View, pending: tuple[Workload, ...], policy: Policy | None, time_limit_s: float, seed: int
    ) -> None:
        self._cp = _cp_sat()
        cells = view.fleet.n_nodes * sum(1 for i, w in enumerate(pending) for _ in atoms_of(i, w))
        if cells > MAX_CELLS:
            raise FieldError(
                "pending",
                f"{cells:,} replica sets times nodes are too many for the exact solver, which takes {MAX_CELLS:,}; "
                "give it fewer workloads or a part of the fleet",
            )
        self.formulation = Formulation(self._cp, view, pending, policy.caps if policy else ())
        self.proven = True
        self._left_s = time_limit_s
        self._seed = seed
        self._best: Any = None

    def maximise(self, measure: _Measure) -> float:
        """Find the most of a measure, hold it from here on, and return the gap to its proven bound."""
        model = self.formulation.model
        if self._best is not None and self._best.value(measure.expression) == measure.most:
            model.add(measure.expression >= measure.most)
            return 0.0
        model.maximize(measure.expression)
        solver = self._solve()
        if solver is None:
            value, bound = self._best.value(measure.expression) if self._best else 0, measure.most
        else:
            value, bound = round(solver.objective_value), round(solver.best_objective_bound)
        model.add(measure.expression >= value)
        return (bound - value) / bound if bound else 0.0

    def relax(self) -> None:
        """Give up as few preferences as what is placed allows."""
        if self._best is not None and self.formulation.soft:
            self.formulation.model.minimize(sum(weight * broken for weight, broken in self.formulation.soft))
            self._solve()

    def satisfy(self) -> bool | None:
        """Tell whether anything of the first workload can be placed."""
        self.formulation.model.add(self.formulation.placed[0] >= 1)
        if self._solve() is not None:
            return True
        return False if self.proven else None

    def rows(self) -> list[Rows]:
        """Return the rows of the best assignment, a workload each."""
        if self._best is None:
            return [Rows()] * len(self.formulation.pending)
        return self.formulation.rows(self._best.value)

    def _solve(self) -> Any:
        """Run CP-SAT from the best assignment so far; keep and return what it finds, None if it finds nothing."""
        solver = self._cp.CpSolver()
        solver.parameters.num_workers = 1
        # One thread, but several strategies in turn: deterministic, and far better than any single one.
        solver.parameters.interleave_search = True
        solver.parameters.presolve_probing_deterministic_time_limit = PROBING_SHARE * max(self._left_s, _SHORTEST_S)
        solver.parameters.random_seed = self._seed
        solver.parameters.max_deterministic_time = max(self._left_s, _SHORTEST_S)
        self._hint()
        status = solver.solve(self.formulation.model)
        self._left_s -= solver.response_proto.deterministic_time
        self.proven &= status in (self._cp.OPTIMAL, self._cp.INFEASIBLE)
        if status not in (self._cp.OPTIMAL, self._cp.FEASIBLE):
            return None
        self._best = solver
        return solver

    def _hint(self) -> None:
        model = self.formulation.model
        model.clear_hints()
        if self._best is not None:
            for i, value in enumerate(self._best.response_proto.solution):
                model.add_hint(model.get_int_var_from_proto_index(i), value)


def _measures(formulation: Formulation, objective: Objective) -> list[_Measure]:
    """Return what to maximise, one after another."""
    measures = []
    for priority in sorted({w.priority for w in formulation.pending}, reverse=True):
        mine = [
            a for a, atom in enumerate(formulation.atoms) if formulation.pending[atom.workload].priority == priority
        ]
        if objective == "gpus":
            measures.append(_measure(formulation, mine, [formulation.atoms[a].request.total_gpu_milli for a in mine]))
        measures.append(_measure(formulation, mine, [1] * len(mine)))
    return [measure for measure in measures if measure.most]


def _measure(formulation: Formulation, atoms: list[int], worth: list[int]) -> _Measure:
    terms = list(zip(atoms, worth, strict=True))
    return _Measure(
        sum(each * formulation.total(a) for a, each in terms),
        sum(each * formulation.atoms[a].size for a, each in terms),
    )


def _reason(view: View, workload: Workload, policy: Policy | None, seed: int, *, proven: bool) -> Reason:
    alone = feasible(view, workload, time_limit_s=REASON_LIMIT_S, seed=seed, policy=policy)
    if alone is None or (alone and not proven):
        code, sentence = "wait.unproven", "No place was found within the time limit, and none was ruled out."
    elif alone:
        code, sentence = "wait.outbid", "It fits alone, but then less would be placed of the batch as a whole."
    elif feasible(View(fleet=view.fleet), workload, time_limit_s=REASON_LIMIT_S, seed=seed, policy=policy) is False:
        code, sentence = "never.infeasible", "Proven: it cannot fit this fleet even when nothing else runs."
    else:
        code, sentence = "wait.infeasible", "Proven: it cannot fit beside what runs now."
    return Reason(workload=workload.id, code=code, constraint="exact", sentence=sentence)


def _cp_sat() -> Any:
    try:
        from ortools.sat.python import cp_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "the exact solver needs OR-Tools, which is not installed; run: pip install 'plenum-os[exact]'"
        ) from error
    return cp_model
