"""Which kind of device each task of an agent's graph runs on: the cheapest assignment that keeps the promised latency.

Tasks (prefill, decode, tools) form a directed acyclic graph; each takes a time and a price on each kind of device, and an edge between
different kinds takes a transfer (Asgar, Nguyen and Katti, arXiv 2507.19635, section 3, with the latency as a hard limit). Exact, by
depth-first search with bounds. Way in: :func:`assign`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plenum.model.errors import FieldError

MAX_TASKS, MAX_DEVICES = 64, 64
MAX_NODES = 2_000_000
"""Partial assignments that the search looks at before it stops with the best one found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: ``runs`` has (seconds, price) by kind of device; ``after`` names the tasks whose results it needs; ``uses`` is what it
    takes of the capacity of its device.
    """

    name: str
    runs: Mapping[str, tuple[float, float]]
    after: tuple[str, ...] = ()
    uses: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentQuestion:
    """Tasks, transfers and limits.

    Parameters
    ----------
    tasks
        Each after those that it needs.
    transfers
        (from, to) kinds of device to (seconds, price) of one edge between them; a pair that is missing, or equal kinds, costs nothing.
    latency_s
        Promise for the longest path.
    capacity
        Of each kind of device; one that is missing has no limit.
    """

    tasks: Sequence[Task]
    transfers: Mapping[tuple[str, str], tuple[float, float]] = field(
        default_factory=dict[tuple[str, str], tuple[float, float]]
    )
    latency_s: float = math.inf
    capacity: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Kind of device by task, the seconds of the longest path, and the price; ``proven``: no better one exists."""

    device: Mapping[str, str]
    latency_s: float
    cost: float
    proven: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """No assignment keeps the promise: the least latency that any has within capacity (infinity: capacity alone forbids all)."""

    least_latency_s: float
    sentence: str


def assign(question: AssignmentQuestion, *, max_nodes: int = MAX_NODES) -> Assignment | Impossible:
    """Return the cheapest assignment within the promise; of equally cheap ones the fastest, then the first by name.

    Raises
    ------
    FieldError
        A graph that cannot be meant: no tasks, too many, needs that do not come before.
    """
    _check(question)
    found = _Search(question, max_nodes).run()
    if found:
        return found
    limit = f"{1000 * question.latency_s:g} ms"
    fastest = _Search(question, max_nodes, by_latency=True).run()
    if fastest is None:
        return Impossible(least_latency_s=math.inf, sentence="capacity does not hold all tasks on any kinds of device")
    return Impossible(
        least_latency_s=fastest.latency_s,
        sentence=f"no assignment takes {limit}; the fastest takes {1000 * fastest.latency_s:g} ms",
    )


def judge(question: AssignmentQuestion, device: Mapping[str, str]) -> Assignment:
    """Return latency and price of a given assignment, whether or not it keeps the promise."""
    _check(question)
    finish: dict[str, float] = {}
    cost = 0.0
    for task in question.tasks:
        seconds, price = _on(question, task, device[task.name], device, finish)
        finish[task.name] = seconds
        cost += price
    return Assignment(device=dict(device), latency_s=max(finish.values()), cost=cost, proven=False)


class _Search:
    """Depth first over tasks in order; a branch is left when even the cheapest rest is no better, or its fastest rest too late."""

    def __init__(self, question: AssignmentQuestion, max_nodes: int, *, by_latency: bool = False) -> None:
        self.question = question
        self.left = max_nodes
        self.by_latency = by_latency
        self.limit = math.inf if by_latency else question.latency_s
        tasks = question.tasks
        self.cheapest = [0.0] * (len(tasks) + 1)
        for i in range(len(tasks) - 1, -1, -1):
            self.cheapest[i] = self.cheapest[i + 1] + min(price for _, price in tasks[i].runs.values())
        self.tail = _tails(tasks)
        self.best: tuple[tuple[float, float], dict[str, str]] | None = None
        self.device: dict[str, str] = {}
        self.finish: dict[str, float] = {}
        self.used: dict[str, float] = {}

    def run(self) -> Assignment | None:
        self._go(0, 0.0)
        if self.best is None:
            return None
        told = judge(self.question, self.best[1])
        return Assignment(device=told.device, latency_s=told.latency_s, cost=told.cost, proven=self.left > 0)

    def _go(self, at: int, cost: float) -> None:
        tasks = self.question.tasks
        if at == len(tasks):
            latency = max(self.finish.values())
            key = (latency, cost) if self.by_latency else (cost, latency)
            if self.best is None or _less(key, self.best[0]):
                self.best = key, dict(self.device)
            return
        task = tasks[at]
        # Cheap (or quick) ones first: a good answer early cuts the rest.
        order = sorted(task.runs, key=lambda name: (task.runs[name][0 if self.by_latency else 1], name))
        for name in order:
            if self.left <= 0:
                return
            if self.used.get(name, 0.0) + task.uses > self.question.capacity.get(name, math.inf) * (1 + 1e-12):
                continue
            self.left -= 1
            finish, price = _on(self.question, task, name, self.device, self.finish)
            if self._hopeless(at, finish, cost + price):
                continue
            self.device[task.name], self.finish[task.name] = name, finish
            self.used[name] = self.used.get(name, 0.0) + task.uses
            self._go(at + 1, cost + price)
            self.used[name] -= task.uses
            del self.device[task.name], self.finish[task.name]

    def _hopeless(self, at: int, finish: float, cost: float) -> bool:
        latest = finish + self.tail[self.question.tasks[at].name]
        if latest > self.limit * (1 + 1e-9):
            return True
        if self.best is None:
            return False
        reached = latest if self.by_latency else cost + self.cheapest[at + 1]
        return reached > self.best[0][0] * (1 + 1e-12)


def _less(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether a pair comes first, sums that differ by rounding alone counting as equal."""
    if math.isclose(one[0], other[0], rel_tol=1e-12):
        return one[1] < other[1] and not math.isclose(one[1], other[1], rel_tol=1e-12)
    return one[0] < other[0]


def _on(
    question: AssignmentQuestion, task: Task, name: str, device: Mapping[str, str], finish: Mapping[str, float]
) -> tuple[float, float]:
    """Return when a task is done on a kind of device, and what it and its incoming transfers cost."""
    seconds, price = task.runs[name]
    start = 0.0
    for needed in task.after:
        moved_s, moved_price = (0.0, 0.0)
        if device[needed] != name:
            moved_s, moved_price = question.transfers.get((device[needed], name), (0.0, 0.0))
        start = max(start, finish[needed] + moved_s)
        price += moved_price
    return start + seconds, price


def _tails(tasks: Sequence[Task]) -> dict[str, float]:
    """Return by task the least seconds from its end to the end of everything that waits for it."""
    tail = dict.fromkeys((task.name for task in tasks), 0.0)
    for task in reversed(tasks):
        own = min(seconds for seconds, _ in task.runs.values())
        for needed in task.after:
            tail[needed] = max(tail[needed], own + tail[task.name])
    return tail


def _check(question: AssignmentQuestion) -> None:
    if not 1 <= len(question.tasks) <= MAX_TASKS:
        raise FieldError("tasks", f"must be 1 to {MAX_TASKS}, not {len(question.tasks)}")
    known: set[str] = set()
    for task in question.tasks:
        if task.name in known:
            raise FieldError("tasks", f"{task.name[:60]!r} is there twice")
        if missing := set(task.after) - known:
            raise FieldError("tasks", f"{task.name[:60]!r} needs {min(missing)[:60]!r}, which does not come before it")
        if not 1 <= len(task.runs) <= MAX_DEVICES or any(not (s >= 0 and p >= 0) for s, p in task.runs.values()):
            sentence = (
                f"{task.name[:60]!r} runs on 1 to {MAX_DEVICES} kinds of device, in times and at prices of at least 0"
            )
            raise FieldError("tasks", sentence)
        known.add(task.name)
