"""Which CPUs a run gets."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

NUMA_FOLDER = Path("/sys/devices/system/node")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """A NUMA node that has CPUs.

    Parameters
    ----------
    number
        As the host counts; the fleet's descriptions count those with CPUs from 0, without gaps.
    """

    number: int
    cpus: frozenset[int]


def numa_nodes(folder: Path = NUMA_FOLDER) -> tuple[NumaNode, ...]:
    """Return the host's NUMA nodes that have CPUs this process may use, by number; empty where the host does not tell."""
    allowed = os.sched_getaffinity(0)
    nodes: list[NumaNode] = []
    for path in folder.glob("node[0-9]*/cpulist"):
        cpus = parse_cpu_list(path.read_text(encoding="ascii")) & allowed
        if cpus:
            nodes.append(NumaNode(number=int(path.parent.name[len("node") :]), cpus=frozenset(cpus)))
    return tuple(sorted(nodes, key=lambda node: node.number))


def parse_cpu_list(text: str) -> set[int]:
    """Return the CPUs that the kernel's notation names: ``0-3,8`` is 0, 1, 2, 3 and 8."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def choose_cpus(nodes: Sequence[NumaNode], cpu_milli: int, taken: Collection[int]) -> tuple[int, ...]:
    """Return the CPUs that a run is to be bound to.

    Parameters
    ----------
    nodes
        The NUMA nodes it was given.
    cpu_milli
        CPUs it was given, in thousandths.
    taken
        CPUs that others have for themselves.

    Returns
    -------
    tuple of int
        As many whole CPUs of its own as it was given, if there are that many; else all those of its NUMA nodes. Empty: any.
    """
    cpus = sorted(cpu for node in nodes for cpu in node.cpus)
    free = [cpu for cpu in cpus if cpu not in taken]
    wanted = cpu_milli // 1000
    return tuple(free[:wanted] if 0 < wanted <= len(free) else cpus)
