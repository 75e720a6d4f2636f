"""Replay of jobs that arrive, wait, run and end: an event at a time on a virtual clock.

The queue is ordered by (priority, submission, number). At every event the jobs are offered to the placer in that order:

``fifo``
    The first job that does not fit holds back everything behind it.
``backfill``
    What does not fit is passed by, as in most Kubernetes queues, until the job at the head has waited
    ``patience_s``; from then on nothing overtakes it, so that no job starves.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from plenum.model import GPU, FieldError, Kind, Placement, Reason, Request, Role, Together, Workload
from plenum.model.fleet import MAX_GPUS_PER_NODE, frozen
from plenum.sim.trace import JobTrace

Discipline = Literal["fifo", "backfill"]
DISCIPLINES: tuple[str, ...] = get_args(Discipline)
PATIENCE_S = 24 * 3600.0
FRAGMENT_SAMPLES = 200
"""Points in time at which the fragmentation is measured: it costs a pass over the nodes."""

GPU_CLASSES = (("1", 1, 1), ("2-4", 2, 4), ("5-8", 5, 8), (">8", 9, 2**31 - 1))
"""(label, least, most GPUs): the classes of the Philly study (Jeon et al., USENIX ATC 2019)."""


class JobPlacer(Protocol):
    """Places and releases whole workloads; the engine does, and so do the fakes of the tests."""

    def place(self, workload: Workload) -> Placement | Reason:
        """Place a workload, or say why not."""
        ...

    def release(self, workload_id: str, /) -> object:
        """Give back what a workload holds."""
        ...

    @property
    def free_gpu_milli(self) -> int:
        """Milli-GPU that nobody holds."""
        ...

    def fragmented_gpu_milli(self) -> float:
        """Return the free milli-GPU that the typical mix cannot use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Waiting times of one class of jobs, in seconds."""

    gpus: str
    jobs: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobReplay:
    """What came of one replay of J jobs.

    Parameters
    ----------
    start_s
        (J,) float64, when each job started; nan: never, because the fleet cannot hold it even empty.
    time_s, busy_gpu_milli
        (E,) steps: from ``time_s[i]`` on, so much is held.
    waiting
        (E,) bool, whether any job waits from ``time_s[i]`` on.
    fragmented_gpu_percent
        Free milli-GPU of no use to the typical mix, in percent of the fleet, mean over evenly spaced points in time while jobs
        are still being submitted.
    """

    trace: JobTrace
    capacity_gpu_milli: int
    start_s: NDArray[np.float64]
    time_s: NDArray[np.float64]
    busy_gpu_milli: NDArray[np.float64]
    waiting: NDArray[np.bool_]
    fragmented_gpu_percent: float

    def __post_init__(self) -> None:
        for name in ("start_s", "time_s", "busy_gpu_milli", "waiting"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @property
    def never_count(self) -> int:
        """Jobs that the fleet cannot hold."""
        return int(np.count_nonzero(np.isnan(self.start_s)))

    @property
    def makespan_s(self) -> float:
        """From the first submission to the last end."""
        return float(self.time_s[-1])

    @property
    def utilisation_percent(self) -> float:
        """Mean GPUs held, in percent of the fleet, while jobs are still being submitted."""
        end = float(self.trace.submit_s[-1])
        return float(self.utilisation(np.array([0.0, end]))[0]) if end > 0 else 0.0

    @property
    def idle_while_waiting_percent(self) -> float:
        """Mean GPUs that nobody holds although a job waits, in percent of the fleet, over the same time."""
        end = float(self.trace.submit_s[-1])
        lasts_s = np.diff(np.minimum(self.time_s, end))
        idle = np.where(self.waiting, self.capacity_gpu_milli - self.busy_gpu_milli, 0)[:-1]
        return 100.0 * float(idle @ lasts_s) / (self.capacity_gpu_milli * end) if end > 0 else 0.0

    def utilisation(self, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean GPUs held between consecutive times (B + 1,), in percent of the fleet (B,)."""
        held = np.concatenate([[0.0], np.cumsum(self.busy_gpu_milli[:-1] * np.diff(self.time_s))])
        between = np.diff(np.interp(edges_s, self.time_s, held)) / np.diff(edges_s)
        return 100.0 * between / self.capacity_gpu_milli

    def waits(self) -> list[Waits]:
        """Return the waiting times by GPU-count class, all jobs last; classes without a job are left out."""
        wait_s = self.start_s - self.trace.submit_s
        known = ~np.isnan(wait_s)
        rows = []
        for label, least, most in (*GPU_CLASSES, ("all", 0, 2**31 - 1)):
            of_class = wait_s[known & (self.trace.gpus >= least) & (self.trace.gpus <= most)]
            if len(of_class):
                p50, p95, p99 = np.percentile(of_class, (50, 95, 99)).tolist()
                mean = float(of_class.mean())
                rows.append(Waits(gpus=label, jobs=len(of_class), mean_s=mean, p50_s=p50, p95_s=p95, p99_s=p99))
        return rows


def gang_roles(gpus: int, gpus_per_node: int) -> tuple[Role, ...]:
    """Split a job into replicas: full nodes, and one more for what is left over.

    The trace says how many GPUs a job had, not how they lay; full nodes are what people ask for.
    """
    full, rest = divmod(gpus, gpus_per_node)
    roles = []
    if full:
        roles.append(Role(name="worker", replicas=full, request=Request(gpus=gpus_per_node)))
    if rest:
        roles.append(Role(name="rest" if full else "worker", request=Request(gpus=rest)))
    return tuple(roles)


def request_frequencies(trace: JobTrace, gpus_per_node: int) -> tuple[tuple[Request, int], ...]:
    """Count the replicas of a trace by request: all that a policy may know of the future."""
    counts: dict[Request, int] = {}
    for gpus, jobs in trace.size_counts().items():
        for role in gang_roles(gpus, gpus_per_node):
            counts[role.request] = counts.get(role.request, 0) + jobs * role.replicas
    return tuple(counts.items())


def replay_jobs(
    trace: JobTrace,
    placer: JobPlacer,
    *,
    gpus_per_node: int,
    discipline: Discipline = "backfill",
    patience_s: float = PATIENCE_S,
    together: tuple[Together, ...] = (),
    on_event: Callable[[int, int], None] = lambda done, total: None,
) -> JobReplay:
    """Run every job of a trace to its end.

    Parameters
    ----------
    placer
        Over an empty fleet: what is free at the start is its capacity.
    gpus_per_node
        Largest replica a job is split into, see :func:`gang_roles`.
    together
        Constraints put on every job of several replicas, for example a preferred leaf.
    on_event
        Told (jobs ended, jobs in all) after each event.

    Raises
    ------
    FieldError
        No such discipline, or a size of node that no fleet has.
    """
    if discipline not in DISCIPLINES:
        raise FieldError("queue", f"there is no queue {discipline!r}; choose one of {', '.join(DISCIPLINES)}")
    if not 1 <= gpus_per_node <= MAX_GPUS_PER_NODE:
        raise FieldError("gpus_per_node", f"must be from 1 to {MAX_GPUS_PER_NODE}, not {gpus_per_node}")
    run = _Run(
        trace=trace,
        placer=placer,
        roles={gpus: gang_roles(gpus, gpus_per_node) for gpus in trace.size_counts()},
        together=together,
        strict_after_s=0.0 if discipline == "fifo" else patience_s,
    )
    fragments: list[float] = []
    capacity_gpu_milli = placer.free_gpu_milli
    times, busy, waiting = [0.0], [0.0], [False]
    sample_every_s = float(trace.submit_s[-1]) / FRAGMENT_SAMPLES
    while (now := run.next_event_s()) is not None:
        while len(fragments) < FRAGMENT_SAMPLES and sample_every_s * (len(fragments) + 1) <= now:
            fragments.append(placer.fragmented_gpu_milli())
        run.step(now)
        times.append(now)
        busy.append(float(capacity_gpu_milli - placer.free_gpu_milli))
        waiting.append(run.waiting)
        on_event(run.ended, len(trace))
    return JobReplay(
        trace=trace,
        capacity_gpu_milli=capacity_gpu_milli,
        start_s=run.start_s,
        time_s=np.array(times),
        busy_gpu_milli=np.array(busy),
        waiting=np.array(waiting),
        fragmented_gpu_percent=100.0 * float(np.mean(fragments)) / capacity_gpu_milli if fragments else 0.0,
    )


@dataclass(slots=True, kw_only=True)
class _Run:
    """The state between events.

    Jobs of equal size are interchangeable but for their order, so each size has a queue of its own and only the heads are
    offered: an event costs as many attempts as there are sizes, however long the queue.
    """

    trace: JobTrace
    placer: JobPlacer
    roles: dict[int, tuple[Role, ...]]
    together: tuple[Together, ...]
    strict_after_s: float
    start_s: NDArray[np.float64] = field(init=False)
    ended: int = 0
    _submitted: int = 0
    _ends: list[tuple[float, int]] = field(default_factory=list)
    _queue: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """GPUs to a heap of (-priority, job): jobs are numbered by submission."""
    _blocked: set[int] = field(default_factory=set)
    """Sizes that did not fit and cannot until something ends."""
    _never: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start_s = np.full(len(self.trace), np.nan)

    def next_event_s(self) -> float | None:
        """Return when something next ends or arrives; None: all is done."""
        ends = [self._ends[0][0]] if self._ends else []
        if self._submitted < len(self.trace):
            ends.append(float(self.trace.submit_s[self._submitted]))
        return min(ends, default=None)

    @property
    def waiting(self) -> bool:
        """Whether any job waits."""
        return any(self._queue.values())

    def step(self, now: float) -> None:
        """Let everything that ends now end, everything that arrives arrive, and start what fits."""
        while self._ends and self._ends[0][0] <= now:
            _, job = heapq.heappop(self._ends)
            self.placer.release(f"{self.trace.tenant[job]}/job-{job}")
            self._blocked.clear()
            self.ended += 1
        while self._submitted < len(self.trace) and self.trace.submit_s[self._submitted] <= now:
            self._arrive(self._submitted)
            self._submitted += 1
        self._start(now)

    def _arrive(self, job: int) -> None:
        gpus = int(self.trace.gpus[job])
        if gpus in self._never:
            self.ended += 1
        else:
            heapq.heappush(self._queue.setdefault(gpus, []), (-int(self.trace.priority[job]), job))

    def _start(self, now: float) -> None:
        heads = [(queue[0], gpus) for gpus, queue in self._queue.items() if queue]
        heapq.heapify(heads)
        while heads:
            (_, job), gpus = heads[0]
            if gpus not in self._blocked and self._place(gpus, job, now):
                heapq.heappop(self._queue[gpus])
                heapq.heappop(heads)
                if self._queue[gpus]:
                    heapq.heappush(heads, (self._queue[gpus][0], gpus))
                continue
            heapq.heappop(heads)
            if gpus in self._never:
                self.ended += len(self._queue.pop(gpus))
                continue
            self._blocked.add(gpus)
            if now - self.trace.submit_s[job] >= self.strict_after_s:
                return

    def _place(self, gpus: int, job: int, now: float) -> bool:
        if gpus * GPU > self.placer.free_gpu_milli and self._ends:
            return False
        roles = self.roles[gpus]
        gang = sum(role.replicas for role in roles) > 1
        answer = self.placer.place(
            Workload(
                name=f"job-{job}",
                tenant=self.trace.tenant[job],
                kind=Kind.TRAINING_JOB if gang else Kind.TASK,
                priority=int(self.trace.priority[job]),
                submitted_s=float(self.trace.submit_s[job]),
                roles=roles,
                together=self.together if gang else (),
            )
        )
        if isinstance(answer, Reason):
            # With nothing running, nothing can end that would make room.
            if not self._ends or answer.code.startswith("never."):
                self._never.add(gpus)
            return False
        self.start_s[job] = now
        heapq.heappush(self._ends, (now + float(self.trace.duration_s[job]), job))
        return True
