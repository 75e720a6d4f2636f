from types import SimpleNamespace

import numpy as np

from plenum.graph.build import Device, FleetBuilder
from plenum.model import DeviceKind, Request
from plenum.sim.arrivals import replay_arrivals
from plenum.sim.trace import Arrivals, ArrivalTrace


class PoolPlacer:
    """One pool of milli-GPU; everything in it is usable, so nothing is fragmented but what is left."""

    def __init__(self, gpu_milli: int) -> None:
        self.free = gpu_milli
        self.demand: list[int] = []

    def shape_ids(self, requests):
        self.demand = [request.total_gpu_milli for request in requests]
        return np.arange(len(self.demand), dtype=np.int32)

    def place_stream(self, shape):
        node = np.full(len(shape), -1, np.int32)
        for i, s in enumerate(shape):
            if self.demand[s] <= self.free:
                self.free -= self.demand[s]
                node[i] = 0
        return SimpleNamespace(node=node)

    def fragmented_gpu_milli(self) -> float:
        return float(self.free)


def trace_of(pods, order, gpus=4):
    builder = FleetBuilder("one")
    builder.node("n0", devices=[Device(kind=DeviceKind.GPU)] * gpus)
    arrivals = Arrivals(order=np.array(order, np.int32), node_rank=np.zeros(1, np.int32))
    return ArrivalTrace.of_pods("test", builder.build(), pods, {7: arrivals})


HALF, THREE, NONE = Request(gpus=1, gpu_milli=500), Request(gpus=3), Request()


def test_allocated_is_what_arrived_less_what_failed() -> None:
    trace = trace_of([HALF, THREE, NONE], [0, 1, 1, 2, 0])
    replay = replay_arrivals(trace, trace.arrivals[7], PoolPlacer(4000))
    assert replay.node.tolist() == [0, 0, -1, 0, 0]
    assert replay.failed_count == 1
    assert replay.allocated_gpu_percent == 100.0
    assert replay.arrived_gpu_milli[-1] - 3000 == replay.allocated_gpu_milli[-1]
    assert replay.fragmented_gpu_percent == 0.0


def test_curve_starts_empty_and_ends_with_the_last_arrival() -> None:
    trace = trace_of([HALF], [0] * 10)
    replay = replay_arrivals(trace, trace.arrivals[7], PoolPlacer(4000), samples=5)
    assert replay.arrived_gpu_milli.tolist() == [0, 1000, 2000, 3000, 4000, 5000]
    assert replay.allocated_gpu_milli.tolist() == [0, 1000, 2000, 3000, 4000, 4000]
    assert replay.fragmented_gpu_milli.tolist() == [4000, 3000, 2000, 1000, 0, 0]


def test_progress_ends_at_all_arrivals() -> None:
    trace = trace_of([HALF], [0] * 10)
    seen: list[tuple[int, int]] = []
    replay_arrivals(trace, trace.arrivals[7], PoolPlacer(4000), samples=3, on_sample=lambda *at: seen.append(at))
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


def test_equal_pods_share_a_request_and_are_counted() -> None:
    trace = trace_of([HALF, THREE, HALF, NONE, HALF], [0])
    assert trace.frequencies == ((HALF, 3), (THREE, 1), (NONE, 1))
    assert trace.request_of.tolist() == [0, 1, 0, 2, 0]


def test_a_trace_without_any_gpu_demand_still_has_both_ends() -> None:
    trace = trace_of([NONE], [0, 0, 0])
    replay = replay_arrivals(trace, trace.arrivals[7], PoolPlacer(4000))
    assert replay.failed_count == 0
    assert replay.arrived_gpu_milli.tolist() == [0, 0]
