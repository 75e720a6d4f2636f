"""What a process finds around it: environment, folders, input."""

import json

SHOW = "import os, json; print(json.dumps(dict(os.environ)), flush=True)"


def environment(node, run: str = "r", **fields) -> dict[str, str]:
    node.python(run, SHOW, **fields)
    assert node.finish(run).exit_code == 0, node.text(run, "stderr")
    return json.loads(node.text(run))


def test_the_environment_is_small_and_keeps_no_secret_of_the_driver(node, monkeypatch) -> None:
    monkeypatch.setenv("PLENUM_TOKEN", "secret")
    monkeypatch.setenv("DATABASE_URL", "secret")
    env = environment(node)
    assert "secret" not in env.values()
    assert {name for name in env if not name.startswith("PLENUM_")} <= {
        *("PATH", "HOME", "LANG", "TZ", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LC_CTYPE"),
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "NNODES"),
        *("ROLE_NAME", "ROLE_RANK"),
    }
    assert env["HOME"] == str(node.folder / "work" / "7-w-0")


def test_a_process_sees_the_gpus_of_its_plan_and_no_other(node) -> None:
    assert environment(node, "none")["CUDA_VISIBLE_DEVICES"] == ""
    env = environment(node, "two", gpus=(1, 3))
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("1,3", "PCI_BUS_ID")


def test_a_gang_is_told_how_to_meet(node) -> None:
    env = environment(
        node, global_rank=5, world_size=8, local_rank=1, local_world_size=4, node_rank=1, nodes=2,
        master_addr="127.0.0.9", master_port=29500,
    )  # fmt: skip
    assert {name: env[name] for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")} == {
        "MASTER_ADDR": "127.0.0.9",
        "MASTER_PORT": "29500",
        "RANK": "5",
        "WORLD_SIZE": "8",
    }
    assert (env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"], env["GROUP_RANK"], env["NNODES"]) == ("1", "4", "1", "2")
    assert (env["OMPI_COMM_WORLD_RANK"], env["PMI_SIZE"]) == ("5", "8")


def test_one_process_alone_is_not_told_of_mpi(node) -> None:
    assert not [name for name in environment(node) if name.startswith(("OMPI", "PMI", "MASTER"))]


def test_the_job_may_set_variables_but_not_those_of_the_plan(node) -> None:
    own = (("PATH", "/opt/bin"), ("LANG", "de_DE.UTF-8"), ("CUDA_VISIBLE_DEVICES", "0,1,2"), ("OMP_NUM_THREADS", "9"))
    env = environment(node, env=own, cpu_milli=4000, attempt=3, trace="ab" * 16)
    assert (env["PATH"], env["LANG"], env["CUDA_VISIBLE_DEVICES"]) == ("/opt/bin", "de_DE.UTF-8", "")
    assert env["OMP_NUM_THREADS"] == "9"
    assert (env["PLENUM_ATTEMPT"], env["PLENUM_RUN"], env["PLENUM_JOB"]) == ("3", "r", "t/j")
    assert env["TRACEPARENT"] == f"00-{'ab' * 16}-{'ab' * 8}-01"


def test_threads_follow_the_cpus_given(node) -> None:
    assert environment(node, cpu_milli=2500)["OMP_NUM_THREADS"] == "2"


def test_the_driver_can_be_given_another_base(node) -> None:
    node.options = {"environment": {"PATH": "/nowhere", "SITE": "lab"}}
    env = environment(node)
    assert (env["PATH"], env["SITE"]) == ("/nowhere", "lab")
    assert "LANG" not in env


def test_the_working_folder_outlives_attempts_and_belongs_to_one_slot(node) -> None:
    code = "import os; print(sorted(os.listdir())); open('checkpoint', 'w').close()"
    for run, slot in (("a1", "w-0"), ("a2", "w-0"), ("b1", "w-1")):
        node.python(run, code, slot=slot)
        node.finish(run)
    assert [node.text(run).strip() for run in ("a1", "a2", "b1")] == ["[]", "['checkpoint']", "[]"]


def test_checkpoints_are_shared_by_the_replicas_of_a_job(node, tmp_path) -> None:
    node.options = {"checkpoint_root": tmp_path / "shared"}
    code = (
        "import os; p = os.environ['PLENUM_CHECKPOINT_DIR']; print(sorted(os.listdir(p))); open(p + '/x', 'w').close()"
    )
    for run, slot, uid in (("a", "w-0", 7), ("b", "w-1", 7), ("c", "w-0", 8)):
        node.python(run, code, slot=slot, uid=uid)
        node.finish(run)
    assert [node.text(run).strip() for run in "abc"] == ["[]", "['x']", "[]"]
    assert (tmp_path / "shared" / "7" / "x").exists()


def test_a_job_can_choose_where_it_starts(node, tmp_path) -> None:
    node.start("r", "pwd", working_dir=str(tmp_path))
    node.finish("r")
    assert node.text("r").strip() == str(tmp_path)


def test_where_and_what_cannot_be_started_is_said(node, tmp_path) -> None:
    node.start("folder", "pwd", working_dir=str(tmp_path / "missing"))
    node.start("program", "no-such-program")
    node.start("denied", str(tmp_path))
    assert node.finish("folder").message == f"it cannot start in '{tmp_path}/missing': No such file or directory"
    assert node.finish("program").message == "'no-such-program' cannot be started: No such file or directory"
    assert node.finish("denied").message == f"'{tmp_path}' cannot be started: Permission denied"


def test_input_is_empty_and_no_other_file_is_open(node) -> None:
    node.python("r", "import os; print(os.read(0, 1), sorted(os.listdir('/proc/self/fd')))")
    node.finish("r")
    assert node.text("r").strip() == "b'' ['0', '1', '2', '3']"  # 3: the listing itself


def test_signals_are_as_in_any_fresh_process(node) -> None:
    node.start("r", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    node.finish("r")
    ignored = [int(line.split()[1], 16) for line in node.text("r").splitlines()]
    assert [bits & (1 << 31) - 1 for bits in ignored] == [0, 0]  # above are two that the C library keeps to itself
