"""What is running where, as arrays: the snapshot that every decision starts from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import InvariantError
from plenum.model.fleet import Fleet, frozen
from plenum.model.workload import Workload

_ROW_TYPES: dict[str, Any] = {
    "workload": np.int32,
    "role": np.int16,
    "rank": np.int32,
    "node": np.int32,
    "gpu_mask": np.uint64,
    "nic_mask": np.uint64,
    "mig_mask": np.uint8,
    "numa_mask": np.uint8,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Placed replicas, one a row, as struct-of-arrays (P rows).

    Parameters
    ----------
    workload
        (P,) int32 index into a tuple of workloads that the owner of the rows holds.
    role, rank
        (P,) index of the role, and number of the replica within it.
    node
        (P,) int32.
    gpu_mask, nic_mask
        (P,) uint64, bit i: the node's GPU or NIC with index i.
    mig_mask
        (P,) uint8, memory eighths taken of the one GPU in ``gpu_mask``; 0: no MIG.
    numa_mask
        (P,) uint8, NUMA nodes whose cores the replica holds for itself, in equal parts; 0: its cores float over the node.
    """

    workload: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    role: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    rank: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    node: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    gpu_mask: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    nic_mask: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    mig_mask: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    numa_mask: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __post_init__(self) -> None:
        sizes: set[int] = set()
        for name, dtype in _ROW_TYPES.items():
            array = frozen(np.asarray(getattr(self, name), dtype))
            object.__setattr__(self, name, array)
            sizes.add(len(array))
        if len(sizes) != 1:
            raise InvariantError(f"rows of unequal length: {sizes}")

    def __len__(self) -> int:
        return len(self.node)

    def __getitem__(self, which: Any) -> Rows:
        return Rows(**{name: np.atleast_1d(getattr(self, name)[which]) for name in _ROW_TYPES})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _ROW_TYPES
        )

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name).tobytes() for name in _ROW_TYPES))

    @staticmethod
    def joined(parts: list[Rows] | tuple[Rows, ...]) -> Rows:
        """Return the rows of several, one after another."""
        if not parts:
            return Rows()
        return Rows(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in _ROW_TYPES})

    def owned_by(self, workload: int) -> Rows:
        """Return the same rows with another workload index."""
        return replace(self, workload=np.full(len(self), workload, np.int32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A fleet and what runs on it, at one position of the log.

    Parameters
    ----------
    running
        Workloads with at least one placed replica; ``rows.workload`` indexes them.
    """

    fleet: Fleet
    running: tuple[Workload, ...] = ()
    rows: Rows = field(default_factory=Rows)
    position: int = 0

    def without(self, ids: frozenset[str]) -> View:
        """Return the view as it would be had these workloads ended."""
        keep = [i for i, w in enumerate(self.running) if w.id not in ids]
        new_index = np.full(len(self.running), -1, np.int32)
        new_index[keep] = np.arange(len(keep), dtype=np.int32)
        kept = self.rows[new_index[self.rows.workload] >= 0]
        rows = replace(kept, workload=new_index[kept.workload])
        return View(fleet=self.fleet, running=tuple(self.running[i] for i in keep), rows=rows, position=self.position)

    def with_placed(self, placed: list[tuple[Workload, Rows]]) -> View:
        """Return the view after some workloads were placed."""
        first = len(self.running)
        parts = [self.rows, *(rows.owned_by(first + i) for i, (_, rows) in enumerate(placed))]
        return View(
            fleet=self.fleet,
            running=self.running + tuple(w for w, _ in placed),
            rows=Rows.joined(parts),
            position=self.position,
        )
