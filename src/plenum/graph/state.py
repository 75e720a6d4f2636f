"""What is free: mutable arrays over a cluster, and the compiled rules of what fits where and which devices it takes.

Everything that solvers believe about fitting is decided here, by :func:`fits`, :func:`fit_count`, :func:`assign` and
:func:`move`; the scorers and gang pickers only choose among what these allow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import CPU_COLUMN, POWER_COLUMN, Cluster
from plenum.graph.compiled import entry, inner, small
from plenum.graph.shapes import ShapeArrays
from plenum.model.errors import InvariantError
from plenum.model.fleet import GPU
from plenum.model.view import Rows, View

KINDS = 10
"""Kinds of GPU request that a node's affinity tells apart: 0 shared, k whole GPUs (9: nine or more)."""

_SLICE_STARTS = np.array([0b0111_1111, 0b0001_0101, 0b0001_0001, 0b0000_0001, 0b0000_0001], np.int64)
"""For each MIG profile, the set of memory eighths at which an instance may start (see model.workload.MIG_STARTS)."""


class StateArrays(NamedTuple):
    """What is free on N nodes; every array is written in place.

    ``gpu_free`` (N, G) milli-units, 0 for absent or unhealthy GPUs; ``mig`` (N, G) memory eighths taken by MIG instances;
    ``nic_free`` (N,) uint64 set; ``numa_free`` (N, Q) cores that nobody holds for itself; ``shared_used`` (S,);
    ``kinds`` (N, 10) replicas by GPU request; ``gpu_total`` (1,) free milli-GPU of the cluster.
    """

    free: NDArray[np.int64]
    gpu_free: NDArray[np.int32]
    mig: NDArray[np.uint8]
    nic_free: NDArray[np.uint64]
    numa_free: NDArray[np.int64]
    shared_used: NDArray[np.int64]
    kinds: NDArray[np.int32]
    gpu_total: NDArray[np.int64]


def empty_state(cluster: Cluster) -> StateArrays:
    """Return the state of a cluster with nothing on it."""
    gpu_free = np.where(cluster.gpu_ok, GPU, 0).astype(np.int32)
    return StateArrays(
        free=cluster.capacity.copy(),
        gpu_free=gpu_free,
        mig=np.zeros(gpu_free.shape, np.uint8),
        nic_free=cluster.nodes.nic_ok.copy(),
        numa_free=cluster.numa_cpu_milli.copy(),
        shared_used=np.zeros(len(cluster.nodes.shared_capacity), np.int64),
        kinds=np.zeros((cluster.n, KINDS), np.int32),
        gpu_total=np.array([gpu_free.sum(dtype=np.int64)]),
    )


def copy_state(state: StateArrays) -> StateArrays:
    """Return an independent copy."""
    return StateArrays._make(a.copy() for a in state)


def load_rows(
    cluster: Cluster, state: StateArrays, shapes: ShapeArrays, shape: NDArray[np.int32], rows: Rows, sign: int
) -> None:
    """Take (``sign`` 1) or give back (-1) placed replicas.

    Raises
    ------
    InvariantError
        A row takes a device that is not free, or gives one back that was not taken.
    """
    # One integer type throughout: each mixture would be compiled anew.
    bad = _load(
        cluster.nodes, state, shapes, shape.astype(np.int64), rows.node.astype(np.int64),
        rows.gpu_mask, rows.nic_mask, rows.mig_mask, rows.numa_mask, sign,
    )  # fmt: skip
    if bad >= 0:
        raise InvariantError(
            f"replica {bad} takes a device that is not free on node {cluster.fleet.node_name(int(rows.node[bad]))}"
        )


def state_of(cluster: Cluster, view: View, shapes: ShapeArrays, shape: NDArray[np.int32]) -> StateArrays:
    """Return the state of a view; ``shape`` (P,) is the shape id of each of its rows."""
    state = empty_state(cluster)
    load_rows(cluster, state, shapes, shape, view.rows, 1)
    return state


# -- compiled rules ---------------------------------------------------------------------------------


@small
def bit_count(bits):
    """Number of members of a set held as bits."""
    count = 0
    while bits:
        bits &= bits - np.uint64(1)
        count += 1
    return count


@inner
def mig_start(taken, profile, slices):
    """First memory eighth at which a MIG instance fits beside those taken; -1: none."""
    starts = _SLICE_STARTS[profile]
    for at in range(8):
        if starts >> at & 1 and at + slices <= 8 and not (taken >> at) & ((1 << slices) - 1):
            return at
    return -1


@inner
def gpu_takes(free, taken, milli, mig, profile):
    """Whether one GPU can take a share, a whole request or a MIG instance."""
    if mig:
        return (taken or free == 1000) and mig_start(taken, profile, mig) >= 0
    return not taken and free >= milli


@small
def watts(nodes, shapes, s, n):
    """Watts that one replica of shape s adds on node n."""
    explicit = shapes.need[s, POWER_COLUMN]
    if explicit >= 0:
        return explicit
    return (nodes.power_w[n] * shapes.gpus[s] * shapes.milli[s] + 999) // 1000


@inner
def demand(nodes, shapes, s, n, column):
    """Demand of shape s for a column on node n."""
    return watts(nodes, shapes, s, n) if column == POWER_COLUMN else shapes.need[s, column]


@inner
def shared_allow(nodes, state, shapes, s, n):
    """Whether the budgets above node n have room for one replica of shape s."""
    for k in range(nodes.shared.shape[1]):
        b = nodes.shared[n, k]
        if b < 0:
            break
        need = demand(nodes, shapes, s, n, np.int64(nodes.shared_column[b]))
        if need > 0 and state.shared_used[b] + need > nodes.shared_capacity[b]:
            return False
    return True


@inner
def numa_of(nodes, state, shapes, s, n):
    """NUMA nodes for an aligned replica as a set: the fewest that hold its GPUs, NICs and cores, best fit first; 0: none.

    Tries every set of one NUMA node, then of two, … in order of size: at most 2^8 sets, most often 2.
    """
    count = state.numa_free.shape[1]
    gpus, nics, cores = shapes.gpus[s], shapes.nics[s], shapes.need[s, CPU_COLUMN]
    best, best_size, best_left = 0, 99, 0
    for mask in range(1, 1 << count):
        size = 0
        for q in range(count):
            size += mask >> q & 1
        if size > best_size:
            continue
        left, ok = 0, True
        for q in range(count):
            if mask >> q & 1:
                # Cores are held in equal parts, rounded up, so that the parts can be given back from the set alone.
                ok = ok and state.numa_free[n, q] >= (cores + size - 1) // size
        if not ok:
            continue
        for g in range(nodes.gpu_count[n]):
            q = nodes.gpu_numa[n, g]
            if (
                q >= 0
                and mask >> q & 1
                and gpu_takes(
                    state.gpu_free[n, g], state.mig[n, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]
                )
            ):
                left += 1
        have = 0
        for k in range(nodes.nic_numa.shape[1]):
            q = nodes.nic_numa[n, k]
            if q >= 0 and mask >> q & 1 and state.nic_free[n] >> np.uint64(k) & np.uint64(1):
                have += 1
        if left < gpus or have < nics:
            continue
        if shapes.aligned[s] == 2 and nics and paired(nodes, state, shapes, s, n, mask) < gpus:
            continue
        if size < best_size or left < best_left:
            best, best_size, best_left = mask, size, left
    return best


@inner
def pair_of(nodes, state, n, g, nic_free):
    """Lowest free NIC under the same PCIe switch as GPU g; -1: none."""
    for k in range(nodes.nic_pcie.shape[1]):
        if (
            nodes.nic_pcie[n, k] >= 0
            and nodes.nic_pcie[n, k] == nodes.gpu_pcie[n, g]
            and nodes.nic_numa[n, k] == nodes.gpu_numa[n, g]
        ):
            if nic_free >> np.uint64(k) & np.uint64(1):
                return k
    return -1


@small
def paired(nodes, state, shapes, s, n, mask):
    """Free GPUs within a NUMA set that can each have a free NIC of their own switch."""
    nic_free, count = state.nic_free[n], 0
    for g in range(np.int64(nodes.gpu_count[n])):
        q = nodes.gpu_numa[n, g]
        if (
            q < 0
            or not mask >> q & 1
            or not gpu_takes(
                state.gpu_free[n, g], state.mig[n, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]
            )
        ):
            continue
        k = pair_of(nodes, state, n, g, nic_free)
        if k >= 0:
            nic_free ^= np.uint64(1) << np.uint64(k)
            count += 1
    return count


@inner
def fits(nodes, state, shapes, s, n):
    """Whether one replica of shape s fits node n, budgets above the node aside."""
    if not shapes.allowed[s, n]:
        return False
    for r in range(state.free.shape[1]):
        need = demand(nodes, shapes, s, n, r)
        if need > 0 and need > state.free[n, r]:
            return False
    gpus = shapes.gpus[s]
    if gpus:
        have = 0
        for g in range(nodes.gpu_count[n]):
            if gpu_takes(state.gpu_free[n, g], state.mig[n, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]):
                have += 1
        if have < gpus:
            return False
    if shapes.nics[s] and bit_count(state.nic_free[n]) < shapes.nics[s]:
        return False
    return shapes.aligned[s] == 0 or numa_of(nodes, state, shapes, s, n) > 0


@inner
def tightest(nodes, state, shapes, s, n, numa):
    """The GPU with the least left that takes shape s, lowest index among equals, within a NUMA set (0: anywhere)."""
    best = -1
    for g in range(np.int64(nodes.gpu_count[n])):
        q = nodes.gpu_numa[n, g]
        if numa and not (q >= 0 and numa >> q & 1):
            continue
        if shapes.aligned[s] == 2 and shapes.nics[s] and pair_of(nodes, state, n, g, state.nic_free[n]) < 0:
            continue
        if gpu_takes(state.gpu_free[n, g], state.mig[n, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]):
            if best < 0 or state.gpu_free[n, g] < state.gpu_free[n, best]:
                best = g
    return best


@inner
def assign(nodes, state, shapes, s, n, pick):
    """Devices for one replica that fits: (GPU set, NIC set, MIG eighths, NUMA set).

    ``pick`` is the GPU that a scorer chose for a share (-1: the tightest). Whole GPUs go lowest index first.
    """
    gpu_mask, nic_mask, mig_mask, numa = np.uint64(0), np.uint64(0), 0, 0
    one, gpus = np.uint64(1), shapes.gpus[s]
    if shapes.aligned[s]:
        numa = numa_of(nodes, state, shapes, s, n)
    if (gpus == 1 and shapes.milli[s] < 1000) or shapes.mig[s]:
        g = pick if pick >= 0 and numa == 0 else tightest(nodes, state, shapes, s, n, numa)
        gpu_mask = one << np.uint64(g)
        if shapes.mig[s]:
            at = mig_start(state.mig[n, g], shapes.mig_profile[s], shapes.mig[s])
            mig_mask = ((1 << shapes.mig[s]) - 1) << at
        gpus = 0
        if shapes.aligned[s] == 2 and shapes.nics[s]:
            k = pair_of(nodes, state, n, g, state.nic_free[n])
            if k >= 0:
                nic_mask |= one << np.uint64(k)
    for g in range(np.int64(nodes.gpu_count[n])):
        if gpus == 0:
            break
        q = nodes.gpu_numa[n, g]
        if state.gpu_free[n, g] < 1000 or (numa and not (q >= 0 and numa >> q & 1)):
            continue
        if shapes.aligned[s] == 2 and shapes.nics[s]:
            k = pair_of(nodes, state, n, g, state.nic_free[n] & ~nic_mask)
            if k < 0:
                continue
            nic_mask |= one << np.uint64(k)
        gpu_mask |= one << np.uint64(g)
        gpus -= 1
    left = shapes.nics[s] - bit_count(nic_mask)
    for k in range(nodes.nic_numa.shape[1]):
        bit = one << np.uint64(k)
        q = nodes.nic_numa[n, k]
        if left > 0 and state.nic_free[n] & ~nic_mask & bit and (numa == 0 or (q >= 0 and numa >> q & 1)):
            nic_mask |= bit
            left -= 1
    return gpu_mask, nic_mask, mig_mask, numa


@inner
def move(nodes, state, shapes, s, n, gpu_mask, nic_mask, mig_mask, numa, sign):
    """Take (sign 1) or give back (-1) one replica's devices and amounts; True unless a device was not its to take or give.

    Devices that are down stay at nothing free. Budgets may go below zero: they can shrink under what runs.
    """
    ok = True
    for r in range(state.free.shape[1]):
        state.free[n, r] -= sign * demand(nodes, shapes, s, n, r)
    for k in range(nodes.shared.shape[1]):
        b = nodes.shared[n, k]
        if b < 0:
            break
        state.shared_used[b] += sign * demand(nodes, shapes, s, n, np.int64(nodes.shared_column[b]))
    for g in range(nodes.gpu_count[n]):
        if gpu_mask >> np.uint64(g) & np.uint64(1) and nodes.gpu_ok[n, g]:
            state.gpu_free[n, g] -= sign * shapes.milli[s]
            state.gpu_total[0] -= sign * shapes.milli[s]
            ok = ok and 0 <= state.gpu_free[n, g] <= 1000
            if mig_mask:
                ok = ok and (sign < 0 or not state.mig[n, g] & mig_mask)
                state.mig[n, g] ^= np.uint8(mig_mask)
    healthy = nic_mask & nodes.nic_ok[n]
    if sign > 0:
        ok = ok and (state.nic_free[n] & healthy) == healthy
    state.nic_free[n] ^= healthy
    if numa:
        size = 0
        for q in range(state.numa_free.shape[1]):
            size += numa >> q & 1
        part = (shapes.need[s, CPU_COLUMN] + size - 1) // size
        for q in range(state.numa_free.shape[1]):
            if numa >> q & 1:
                state.numa_free[n, q] -= sign * part
    if shapes.gpus[s]:
        state.kinds[n, 0 if shapes.milli[s] < 1000 else min(shapes.gpus[s], KINDS - 1)] += sign
    return ok


@entry
def _load(nodes, state, shapes, shape, node, gpu_mask, nic_mask, mig_mask, numa_mask, sign):
    bad = -1
    for i in range(node.shape[0]):
        if (
            not move(
                nodes,
                state,
                shapes,
                shape[i],
                node[i],
                gpu_mask[i],
                nic_mask[i],
                np.int64(mig_mask[i]),
                np.int64(numa_mask[i]),
                sign,
            )
            and bad < 0
        ):
            bad = i
    return bad


@small
def fit_count(nodes, state, shapes, s, n, limit):
    """How many replicas of shape s node n can take, at most ``limit``; exact; budgets above the node aside."""
    if not fits(nodes, state, shapes, s, n):
        return 0
    count = limit
    for r in range(state.free.shape[1]):
        need = demand(nodes, shapes, s, n, r)
        if need > 0:
            count = min(count, state.free[n, r] // need)
    if shapes.nics[s]:
        count = min(count, bit_count(state.nic_free[n]) // shapes.nics[s])
    if shapes.aligned[s] or shapes.mig[s]:
        return min(count, _count_by_trial(nodes, state, shapes, s, n, count))
    if shapes.gpus[s]:
        slots = 0
        for g in range(nodes.gpu_count[n]):
            if not state.mig[n, g]:
                slots += state.gpu_free[n, g] // shapes.milli[s]
        count = min(count, slots // shapes.gpus[s])
    return count


@small
def _count_by_trial(nodes, state, shapes, s, n, limit):
    """Place replicas on the node one after another, count them, and take them away again.

    Aligned replicas of cores alone are first counted in bulk, as many on each NUMA node as it holds: a node can hold thousands.
    """
    cores, quick = shapes.need[s, CPU_COLUMN], np.zeros(state.numa_free.shape[1], np.int64)
    count = 0
    if shapes.gpus[s] == 0 and shapes.nics[s] == 0 and cores > 0 and fits(nodes, state, shapes, s, n):
        for q in range(quick.shape[0]):
            quick[q] = min(state.numa_free[n, q] // cores, limit - count)
            state.numa_free[n, q] -= quick[q] * cores
            count += quick[q]
    most = limit - count
    gpu_masks = np.zeros(most, np.uint64)
    nic_masks = np.zeros(most, np.uint64)
    mig_masks = np.zeros(most, np.int64)
    numas = np.zeros(most, np.int64)
    tried = 0
    while tried < most and fits(nodes, state, shapes, s, n):
        gpu_masks[tried], nic_masks[tried], mig_masks[tried], numas[tried] = assign(
            nodes, state, shapes, s, n, np.int64(-1)
        )
        move(
            nodes, state, shapes, s, n, gpu_masks[tried], nic_masks[tried], mig_masks[tried], numas[tried], np.int64(1)
        )
        tried += 1
    for i in range(tried):
        move(nodes, state, shapes, s, n, gpu_masks[i], nic_masks[i], mig_masks[i], numas[i], np.int64(-1))
    for q in range(quick.shape[0]):
        state.numa_free[n, q] += quick[q] * cores
    return count + tried
