"""What the plan allows a process, and what is noted where the host does not permit to enforce it."""

import os

import pytest


def test_a_process_keeps_to_the_cores_of_its_numa_nodes(node) -> None:
    node.python("r", "import os; print(sorted(os.sched_getaffinity(0)))", numa=(0,))
    node.finish("r")
    allowed = node.driver._numa[0].cpus
    assert node.text("r").strip() == str(sorted(allowed))
    notes = node.state("r")["notes"]
    assert f"CPUs {sorted(allowed)}: set" in notes
    assert any(note.startswith("memory of NUMA nodes [0]") for note in notes)


def test_whole_cores_are_given_to_one_run_each(node) -> None:
    cores = min(len(node.driver._numa[0].cpus), 3)
    for i in range(cores):
        node.python(f"r{i}", "import os, time; print(*os.sched_getaffinity(0), flush=True); time.sleep(600)",
                    numa=(0,), cpu_milli=1000, slot=f"w-{i}")  # fmt: skip
    seen = [node.await_text(f"r{i}", "\n").split() for i in range(cores)]
    assert all(len(cpus) == 1 for cpus in seen)
    assert len({cpus[0] for cpus in seen}) == cores


def test_what_holds_no_numa_node_floats(node) -> None:
    node.python("r", "import os; print(sorted(os.sched_getaffinity(0)))", cpu_milli=1000)
    node.finish("r")
    assert node.text("r").strip() == str(sorted(os.sched_getaffinity(0)))


def test_nice_core_files_and_oom_score_are_set(node) -> None:
    code = (
        "import os, resource;"
        "print(os.getpriority(os.PRIO_PROCESS, 0), resource.getrlimit(resource.RLIMIT_CORE), open('/proc/self/oom_score_adj').read())"
    )
    node.python("r", code, nice=7)
    node.finish("r")
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 7, 19)
    assert node.text("r").split() == [str(nice), "(0,", "0)", "500"]


def test_memory_is_limited_by_rlimit_where_there_is_no_cgroup(node) -> None:
    node.options = {"cgroup": ""}
    node.python("more", "x = bytearray(300 << 20)", memory_bytes=200 << 20)
    node.python("less", "x = bytearray(100 << 20)", memory_bytes=200 << 20, slot="w-1")
    assert node.finish("more").exit_code == 1
    assert "MemoryError" in node.text("more", "stderr")
    assert node.finish("less").exit_code == 0
    assert "memory limit by rlimit: set" in node.state("more")["notes"]


def test_with_gpus_an_rlimit_is_left_out_and_that_is_noted(node) -> None:
    node.options = {"cgroup": ""}
    node.python("r", "x = bytearray(300 << 20)", memory_bytes=200 << 20, gpus=(0,))
    assert node.finish("r").exit_code == 0
    assert [note for note in node.state("r")["notes"] if note.startswith("memory limit: none")]


@pytest.fixture
def group(tmp_path):
    """A stand-in for a run's control group: a folder with the files that the kernel would show."""
    group = tmp_path / "group" / "run-r"
    group.mkdir(parents=True)
    for name in ("memory.max", "memory.oom.group", "memory.swap.max", "cgroup.procs"):
        (group / name).touch()
    return group


def test_memory_is_limited_by_cgroup_where_that_is_permitted(node, group) -> None:
    node.options = {"cgroup": str(group.parent)}
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    node.python("r", "x = bytearray(300 << 20)", memory_bytes=200 << 20)
    end = node.finish("r")
    assert (end.exit_code, end.cause) == (0, "")  # nobody enforces it here, and no rlimit was set beside it
    assert (group / "memory.max").read_text() == str(200 << 20)
    assert (group / "cgroup.procs").read_text() == "0"
    assert "memory limit by cgroup: set" in node.state("r")["notes"]


def test_a_kill_for_want_of_memory_is_told(node, group) -> None:
    node.options = {"cgroup": str(group.parent)}
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    node.start("r", "sh", "-c", "kill -9 $$", memory_bytes=200 << 20)
    end = node.finish("r")
    assert (end.exit_code, end.cause) == (137, "out-of-memory")
    assert "209,715,200 bytes" in end.message


def test_an_rlimit_stands_in_for_a_cgroup_that_is_refused(node, tmp_path) -> None:
    (tmp_path / "file").touch()
    node.options = {"cgroup": str(tmp_path / "file")}
    node.python("r", "x = bytearray(300 << 20)", memory_bytes=200 << 20)
    assert node.finish("r").exit_code == 1
    notes = node.state("r")["notes"]
    assert "memory limit by rlimit: set" in notes
    assert any("cgroup" in note and "not permitted" in note for note in notes)
