"""An engine with a stopwatch: the simulation has no clock, and what is measured around decisions stays out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from plenum.model import Placement, Reason, Workload
    from plenum.placement import Engine
    from plenum.sim.arrivals import Placed


class TimedEngine:
    """An engine that notes how long it took to decide: what is measured around it stays out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.shape_ids = engine.shape_ids
        self.fragmented_gpu_milli = engine.fragmented_gpu_milli
        self.decisions = 0
        self.decision_s = 0.0

    @property
    def free_gpu_milli(self) -> int:
        """The engine's."""
        return self._engine.free_gpu_milli

    @property
    def decisions_per_s(self) -> float:
        """Of everything placed or refused so far."""
        return self.decisions / self.decision_s if self.decision_s > 0 else 0.0

    def place_stream(self, shape: NDArray[np.int32]) -> Placed:
        """Place a stream, timed."""
        started = time.perf_counter()
        placed = self._engine.place_stream(shape)
        self.decision_s += time.perf_counter() - started
        self.decisions += len(shape)
        return placed

    def release(self, workload_id: str, /) -> object:
        """Release a workload; not a decision."""
        return self._engine.release(workload_id)

    def place(self, workload: Workload) -> Placement | Reason:
        """Place a workload, timed."""
        started = time.perf_counter()
        answer = self._engine.place(workload)
        self.decision_s += time.perf_counter() - started
        self.decisions += 1
        return answer
