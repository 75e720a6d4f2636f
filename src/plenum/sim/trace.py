"""What is replayed: arrivals that never depart, and jobs that do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.model import Fleet, Request
from plenum.model.fleet import frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrivals:
    """One order of arrival.

    Parameters
    ----------
    order
        (K,) int32, index of the pod that arrives; a pod may arrive again.
    node_rank
        (N,) int32, a permutation in the fleet's node order: equal scores go to the lowest rank.
    """

    order: NDArray[np.int32]
    node_rank: NDArray[np.int32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", frozen(self.order))
        object.__setattr__(self, "node_rank", frozen(self.node_rank))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrivalTrace:
    """A fleet and the pods that arrive on it: P pods of S distinct requests.

    Parameters
    ----------
    requests
        The S distinct requests, in order of first appearance.
    request_of
        (P,) int32, each pod's request.
    arrivals
        Seed to order.
    """

    name: str
    fleet: Fleet
    requests: tuple[Request, ...]
    request_of: NDArray[np.int32]
    arrivals: Mapping[int, Arrivals]

    def __post_init__(self) -> None:
        object.__setattr__(self, "request_of", frozen(self.request_of))

    @staticmethod
    def of_pods(name: str, fleet: Fleet, pods: list[Request], arrivals: Mapping[int, Arrivals]) -> ArrivalTrace:
        """Return the trace of a list of pods, equal requests shared."""
        index: dict[Request, int] = {}
        request_of = np.array([index.setdefault(pod, len(index)) for pod in pods], np.int32)
        return ArrivalTrace(name=name, fleet=fleet, requests=tuple(index), request_of=request_of, arrivals=arrivals)

    @property
    def frequencies(self) -> tuple[tuple[Request, int], ...]:
        """How many pods of the list ask for each request: all that a policy may know of the future."""
        counts = np.bincount(self.request_of, minlength=len(self.requests))
        return tuple((request, int(count)) for request, count in zip(self.requests, counts, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobTrace:
    """Jobs that arrive, run and end: J of them, by time of submission.

    Parameters
    ----------
    submit_s
        (J,) float64, seconds since the first submission, ascending.
    duration_s
        (J,) float64, above 0.
    gpus
        (J,) int32, whole GPUs of the whole job.
    tenant
        J names.
    priority
        (J,) int32, higher goes first.
    """

    name: str
    submit_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    gpus: NDArray[np.int32]
    tenant: tuple[str, ...]
    priority: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name in ("submit_s", "duration_s", "gpus", "priority"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.submit_s)

    def first(self, count: int) -> JobTrace:
        """Return the trace of the first ``count`` jobs."""
        return JobTrace(
            name=self.name,
            submit_s=self.submit_s[:count],
            duration_s=self.duration_s[:count],
            gpus=self.gpus[:count],
            tenant=self.tenant[:count],
            priority=self.priority[:count],
        )

    def size_counts(self) -> dict[int, int]:
        """Return how many jobs ask for each number of GPUs, by number."""
        return dict(sorted(Counter(self.gpus.tolist()).items()))
