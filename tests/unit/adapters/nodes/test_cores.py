import os

import pytest

from plenum.adapters.nodes.cores import NumaNode, choose_cpus, numa_nodes, parse_cpu_list

NODES = (NumaNode(number=0, cpus=frozenset(range(4))), NumaNode(number=2, cpus=frozenset(range(4, 8))))


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", {0, 1, 2, 3, 8}), ("\n", set()), ("5", {5}), ("0-1,4-5", {0, 1, 4, 5})]
)
def test_cpu_lists(text, cpus) -> None:
    assert parse_cpu_list(text) == cpus


def test_numa_nodes_without_usable_cpus_are_left_out(tmp_path) -> None:
    cpu = min(os.sched_getaffinity(0))
    for number, text in ((10, str(cpu)), (2, f"{cpu}\n"), (1, "\n"), (3, "99999")):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(text)
    assert [node.number for node in numa_nodes(tmp_path)] == [2, 10]
    assert numa_nodes(tmp_path / "missing") == ()


@pytest.mark.parametrize(
    ("nodes", "cpu_milli", "taken", "cpus"),
    [
        (NODES[:1], 2000, (), (0, 1)),
        (NODES[:1], 2000, (0,), (1, 2)),
        (NODES, 6000, (), (0, 1, 2, 3, 4, 5)),
        (NODES[:1], 500, (), (0, 1, 2, 3)),
        (NODES[:1], 2000, (0, 1, 2), (0, 1, 2, 3)),
        ((), 2000, (), ()),
    ],
)
def test_whole_cpus_are_its_own_where_there_are_enough(nodes, cpu_milli, taken, cpus) -> None:
    assert choose_cpus(nodes, cpu_milli, taken) == cpus
