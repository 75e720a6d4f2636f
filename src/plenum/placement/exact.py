"""The exact solver: a small batch placed as well as can be, proven so or with the gap that is left (OR-Tools CP-SAT).

It maximises what is placed, highest priority first, and among equals gives up the fewest preferences. CP-SAT's deterministic
clock limits the search, so that the same view, batch and seed give the same plan on any machine. Stopped by its limit, it returns
the greedy plan where that is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Literal, NamedTuple

from plenum.model.errors import FieldError, MissingExtraError
from plenum.model.plan import Placement, Plan, Reason
from plenum.model.view import Rows, View
from plenum.model.workload import Workload
from plenum.placement.decision import place
from plenum.placement.formulation import Expression, Formulation, atoms_of
from plenum.placement.policies import DEFAULT, Policy

Objective = Literal["gpus", "replicas"]

MAX_CELLS = 200_000
"""Distinct sets of replicas times nodes that a batch may have; beyond, the model alone would take minutes to build."""

PROBING_SHARE = 0.1
"""Part of the limit that CP-SAT may spend on probing before it searches."""

REASON_LIMIT_S = 1.0
"""Limit on telling why one workload was left out."""

_SHORTEST_S = 1e-3


class _Measure(NamedTuple):
    """Something to have much of: milli-GPU or replicas of one priority.

    ``most`` is what arithmetic alone allows; ``decides`` tells the objective from a mere tie-break.
    """

    priority: int
    gpus: bool
    decides: bool
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
        ``optimality_gap`` is (bound - value) / bound of the objective, the widest over priorities; 0: proven optimal.

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
    measures = _measures(search.formulation, objective)
    bounds = [search.maximise(measure) for measure in measures]
    search.relax()
    found = [Placement(workload=w, rows=rows) for w, rows in zip(order, search.rows(), strict=True) if len(rows)]
    notes = "proven optimal" if search.proven else f"stopped at its limit of {time_limit_s:g} s"
    if not search.proven:
        greedy = place(view, order, policy or DEFAULT, now=inf)
        if _values(measures, greedy.placements) > _values(measures, found):
            found, notes = list(greedy.placements), f"{notes} behind the greedy plan, which this is"
    values = _values(measures, found)
    placed = {p.workload.id for p in found}
    return Plan(
        pending=order,
        placements=tuple(found),
        reasons=tuple(_reason(view, w, policy, seed, proven=search.proven) for w in order if w.id not in placed),
        policy="exact",
        optimality_gap=max(
            (max(0, b - v) / b for b, v, m in zip(bounds, values, measures, strict=True) if b and m.decides),
            default=0.0,
        ),
        notes=(notes,),
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

    def maximise(self, measure: _Measure) -> int:
        """Find the most of a measure, hold it from here on, and return its proven bound."""
        model = self.formulation.model
        if self._best is not None and self._best.value(measure.expression) == measure.most:
            model.add(measure.expression >= measure.most)
            return measure.most
        model.maximize(measure.expression)
        solver = self._solve()
        if solver is None:
            if self._best is not None:
                model.add(measure.expression >= self._best.value(measure.expression))
            return measure.most
        model.add(measure.expression >= round(solver.objective_value))
        return round(solver.best_objective_bound)

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
        solver.parameters.symmetry_level = 0  # equal nodes are ordered by the model itself
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
        gpus = _measure(formulation, priority, gpus=True, decides=True)
        by_gpus = objective == "gpus" and gpus.most > 0
        measures += [gpus] if by_gpus else []
        measures.append(_measure(formulation, priority, gpus=False, decides=not by_gpus))
    return measures


def _measure(formulation: Formulation, priority: int, *, gpus: bool, decides: bool) -> _Measure:
    terms = [
        (formulation.total(a), atom.size, atom.request.total_gpu_milli if gpus else 1)
        for a, atom in enumerate(formulation.atoms)
        if formulation.pending[atom.workload].priority == priority
    ]
    expression = sum(each * total for total, _, each in terms)
    return _Measure(priority, gpus, decides, expression, sum(each * size for _, size, each in terms))


def _values(measures: Sequence[_Measure], placements: Sequence[Placement]) -> list[int]:
    """Return what some placements are worth in each measure."""
    return [
        sum(
            p.workload.roles[r].request.total_gpu_milli if measure.gpus else 1
            for p in placements
            if p.workload.priority == measure.priority
            for r in p.rows.role.tolist()
        )
        for measure in measures
    ]


def _reason(view: View, workload: Workload, policy: Policy | None, seed: int, *, proven: bool) -> Reason:
    alone = feasible(view, workload, time_limit_s=REASON_LIMIT_S, seed=seed, policy=policy)
    if alone is None or (alone and not proven):
        code, sentence = "wait.unproven", "waits: no place was found within the time limit, and none was ruled out."
    elif alone:
        code, sentence = "wait.outbid", "waits: it fits alone, but then less would be placed of the batch as a whole."
    elif feasible(View(fleet=view.fleet), workload, time_limit_s=REASON_LIMIT_S, seed=seed, policy=policy) is False:
        code, sentence = "never.infeasible", "can never start on this fleet: proven, even with nothing else running."
    else:
        code, sentence = "wait.infeasible", "waits: proven, it cannot fit beside what runs now."
    return Reason(workload=workload.id, code=code, constraint="exact", sentence=f"{workload.id} {sentence}")


def _cp_sat() -> Any:
    try:
        from ortools.sat.python import cp_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "the exact solver needs OR-Tools, which is not installed; run: pip install 'plenum-os[exact]'"
        ) from error
    return cp_model
