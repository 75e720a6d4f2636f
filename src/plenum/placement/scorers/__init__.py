"""One file a scorer: how good a node is for one replica, and which GPU a share takes there.

Way in: :data:`SCORERS` (name to number) and :func:`score_node`. A new scorer is a file with a compiled ``score``, a line in
the table and a line in the switch: compiled code can be cached only where the callee is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plenum.graph.cluster import CPU_COLUMN, MEMORY_COLUMN, Cluster
from plenum.graph.compiled import inner, small
from plenum.model.workload import Request
from plenum.placement.scorers import best_fit, dot_product, fgd, gpu_clustering, gpu_packing, plenum
from plenum.placement.scorers.fgd import Fragments, fragments
from plenum.placement.scorers.plenum import Worth, worth_tables

RANDOM, DOT_PRODUCT, GPU_CLUSTERING, GPU_PACKING, BEST_FIT, FGD, PLENUM = range(7)

SCORERS = {
    "random": RANDOM,
    "dot-product": DOT_PRODUCT,
    "gpu-clustering": GPU_CLUSTERING,
    "gpu-packing": GPU_PACKING,
    "best-fit": BEST_FIT,
    "fgd": FGD,
    "plenum": PLENUM,
}


class Tables(NamedTuple):
    """What scorers look up, learned from the frequencies of requests."""

    fragments: Fragments
    worth: Worth


def learned(cluster: Cluster, frequencies: Sequence[tuple[Request, int]]) -> Tables:
    """Return the tables for a cluster and how often each request was seen."""
    most = cluster.gpu_ok.shape[1]
    return Tables(fragments(cluster.fleet.models, frequencies, most), worth_tables(cluster, frequencies))


@small
def standing(scorer, nodes, state, n, tables):
    """What a scorer of differences makes of node n as it is; the same for every shape, so it is worked out once a change."""
    if scorer == FGD:
        return float(fgd.fragment(nodes, state, tables.fragments, n, state.free[n, CPU_COLUMN]))
    if scorer == PLENUM:
        return plenum.worth(nodes, state, tables.worth, n, state.free[n, CPU_COLUMN], state.free[n, MEMORY_COLUMN])
    return 0.0


@inner
def score_node(scorer, nodes, state, shapes, s, n, tables, before):
    """(score, GPU for a share or -1) of a node that fits; higher is better. ``before`` is the node's :func:`standing`."""
    if scorer == RANDOM:
        return 0.0, -1
    if scorer == BEST_FIT:
        return best_fit.score(nodes, state, shapes, s, n)
    if scorer == DOT_PRODUCT:
        return dot_product.score(nodes, state, shapes, s, n)
    if scorer == GPU_CLUSTERING:
        return gpu_clustering.score(nodes, state, shapes, s, n)
    if scorer == GPU_PACKING:
        return gpu_packing.score(nodes, state, shapes, s, n)
    if scorer == FGD:
        return fgd.score(nodes, state, shapes, s, n, tables.fragments, before)
    return plenum.score(nodes, state, shapes, s, n, tables.worth, before)
