"""FGD straight from its definition, with NumPy and without any memory of the last decision: the baseline for scoring.

Every decision computes, on every node, the fragmentation of every typical shape before and after each possible placement.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from plenum.model import CPU, MEMORY, Fleet, Request
from plenum.sim.trace import Arrivals, ArrivalTrace

COVERAGE = 0.95


class PlainFgd:
    """Places pods on a fleet of plain nodes, one after another."""

    def __init__(self, trace: ArrivalTrace, arrivals: Arrivals) -> None:
        fleet = trace.fleet
        n = fleet.n_nodes
        self.requests = trace.requests
        self.rank = np.asarray(arrivals.node_rank)
        self.cpu, self.memory = _budgets(fleet, CPU), _budgets(fleet, MEMORY)
        self.residual = np.zeros((n, 8), np.int64)
        self.model = np.full(n, "", object)
        for node, model in zip(fleet.device_node.tolist(), fleet.device_model.tolist(), strict=True):
            self.residual[node, np.argmax(self.residual[node] == 0)] = 1000
            self.model[node] = fleet.models[model]
        self.typical = _typical_mix(trace.frequencies)

    def place(self, request: Request) -> int:
        """Return the node that a pod goes to, and take it; -1: none fits."""
        gpus, milli = request.gpus, request.gpu_milli
        allowed = self._allowed(request) & (self.cpu >= request.cpu_milli) & (self.memory >= request.memory_bytes)
        cpu_after = self.cpu - request.cpu_milli
        before = self._fragment(self.residual, self.cpu)
        if gpus == 1 and milli < 1000:
            options = [self._with(g, milli) for g in range(8)]
            fits = [allowed & (self.residual[:, g] >= milli) for g in range(8)]
        else:
            options, fits = [self._with_whole(gpus)], [allowed & ((self.residual == 1000).sum(axis=1) >= gpus)]
        scores = np.full((len(options), len(self.cpu)), -1, np.int64)
        for i, (after, fit) in enumerate(zip(options, fits, strict=True)):
            drop = before - self._fragment(after, cpu_after)
            scores[i, fit] = (100.0 / (1.0 + np.exp(-drop[fit] / 1000.0))).astype(np.int64)
        best = scores.max(axis=0)
        if best.max() < 0:
            return -1
        node = int(min(np.flatnonzero(best == best.max()), key=lambda n: self.rank[n]))
        self.residual[node] = options[int(np.argmax(scores[:, node]))][node]
        self.cpu[node] -= request.cpu_milli
        self.memory[node] -= request.memory_bytes
        return node

    def _allowed(self, request: Request) -> np.ndarray:
        if not request.gpu_models:
            return np.ones(len(self.cpu), bool)
        return np.isin(self.model, list(request.gpu_models))

    def _with(self, g: int, milli: int) -> np.ndarray:
        after = self.residual.copy()
        after[:, g] -= milli
        return after

    def _with_whole(self, gpus: int) -> np.ndarray:
        free = self.residual == 1000
        return np.where(free & (np.cumsum(free, axis=1) <= gpus), 0, self.residual)

    def _fragment(self, residual: np.ndarray, cpu: np.ndarray) -> np.ndarray:
        """(N,) F_n(M) in milli-GPU."""
        total = np.zeros(len(cpu), np.int64)
        everything = residual.sum(axis=1)
        for request, count in self.typical:
            enough = residual >= request.gpu_milli
            usable = enough.sum(axis=1) >= request.gpus
            usable &= self._allowed(request) & (cpu >= request.cpu_milli) & (request.gpus > 0)
            total += count * np.where(usable, np.where(enough, 0, residual).sum(axis=1), everything)
        return total / sum(count for _, count in self.typical)


def _budgets(fleet: Fleet, resource: str) -> np.ndarray:
    """(N,) what each node owns of a resource."""
    of_domain = np.zeros(len(fleet.domain_name), np.int64)
    which = fleet.budget_resource == fleet.resources.index(resource)
    of_domain[fleet.budget_domain[which]] = fleet.budget_capacity[which]
    return of_domain[fleet.node_domain]


def _typical_mix(frequencies: tuple[tuple[Request, int], ...]) -> list[tuple[Request, int]]:
    """The most frequent (cpu, milli, number, models) that cover 95 % of the pods; ties: the larger first."""
    count: Counter[tuple[int, int, int, tuple[str, ...]]] = Counter()
    for r, times in frequencies:
        count[r.cpu_milli, r.gpu_milli if r.gpus else 0, r.gpus, tuple(sorted(r.gpu_models))] += times
    need, covered, typical = COVERAGE * sum(count.values()), 0, []
    for key in sorted(count, key=lambda key: (count[key], key), reverse=True):
        if covered >= need:
            break
        cpu_milli, milli, gpus, models = key
        shape = Request(cpu_milli=cpu_milli, gpus=gpus, gpu_milli=milli or 1000, gpu_models=models)
        typical.append((shape, count[key]))
        covered += count[key]
    return typical
