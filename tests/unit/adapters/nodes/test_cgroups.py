from plenum.adapters.nodes.cgroups import can_limit_memory, is_delegated


def test_a_group_that_is_not_marked_is_left_alone(tmp_path) -> None:
    assert not is_delegated(tmp_path)


def test_memory_control_is_switched_on_where_it_can_be(tmp_path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    assert can_limit_memory(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_a_group_without_memory_control_is_of_no_use(tmp_path) -> None:
    assert not can_limit_memory(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    assert not can_limit_memory(tmp_path)
