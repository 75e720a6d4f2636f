"""Drivers and supervisors are killed; runs are found again, and none runs twice."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from plenum.adapters.nodes import shim
from plenum.adapters.nodes.local import FolderBusyError, FolderError, LocalDriver
from plenum.ports.nodes import AbsentLogsError, Fence, StaleOrderError

DRIVE = """
import os, signal, sys
from pathlib import Path
from plenum.adapters.nodes import local
from plenum.model.process import Process
from plenum.ports.nodes import Assignment, Fence

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, die_in, *command = sys.argv[1:]
driver = local.LocalDriver(Path(folder), "n0")
if die_in == "lease":
    driver.renew(1.0)
elif die_in == "write-down":
    os.rename = die
elif die_in:
    setattr(local.LocalDriver, die_in, die)
driver.start(
    Assignment(run="r", job="t/j", uid=7, tenant="t", node="n0", slot="w-0", attempt=1, role="w", rank=0,
               process=Process(command=tuple(command))),
    Fence(term=5, position=1),
)
die()
"""
COUNT = ("sh", "-c", "echo begun >> count; echo up; exec sleep 600")


def drive_and_die(folder: Path, *command: str, die_in: str = "") -> None:
    """Let another process start run ``r`` and be killed: right after, or in the middle."""
    done = subprocess.run([sys.executable, "-c", DRIVE, folder, die_in, *command], stderr=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def count(node) -> int:
    """Return how often the process of run ``r`` was begun."""
    path = node.folder / "work" / "7-w-0" / "count"
    return len(path.read_text().splitlines()) if path.exists() else 0


def is_running(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_run_is_adopted_when_its_driver_was_killed(node) -> None:
    drive_and_die(node.folder, *COUNT)
    node.await_text("r", "up")
    first = node.report("r")
    assert is_running(first.pid)
    node.reopen()
    assert node.driver.observe() == (first,)
    node.driver.stop("r", 10, Fence(term=5, position=2))
    end = node.finish("r")
    assert (end.exit_code, end.cause, end.started_at) == (143, "stopped", first.started_at)
    assert count(node) == 1


def test_the_end_of_a_run_is_told_to_the_next_driver(node) -> None:
    drive_and_die(node.folder, "sh", "-c", "sleep 0.1; echo done; exit 6")
    end = node.finish("r")
    assert (end.exit_code, end.cause, node.text("r")) == (6, "", "done\n")
    assert node.reopen().observe() == (end,)


def test_the_fence_outlives_the_driver(node) -> None:
    drive_and_die(node.folder, *COUNT)
    with pytest.raises(StaleOrderError):
        node.driver.stop("r", 0, Fence(term=4, position=99))
    node.driver.stop("r", 0, Fence(term=5, position=1))


@pytest.mark.parametrize("die_in", ["_spawn", "_look"])
def test_a_run_noted_down_but_not_begun_is_started_once(node, die_in) -> None:
    drive_and_die(node.folder, *COUNT, die_in=die_in)
    assert count(node) == 0
    node.await_text("r", "up")
    node.reopen()
    node.fence = Fence(term=5, position=1)
    node.start("r", *COUNT)
    assert node.report("r").phase == "running"
    assert count(node) == 1


def test_a_run_half_noted_down_was_never_ordered(node) -> None:
    drive_and_die(node.folder, *COUNT, die_in="write-down")
    assert node.driver.observe() == ()
    node.fence = Fence(term=5, position=1)
    node.start("r", *COUNT)
    node.await_text("r", "up")
    assert count(node) == 1


def test_supervisors_started_side_by_side_begin_one_process(node) -> None:
    """Whatever starts supervisors for a run, one takes its lock and the others find it begun."""
    node.start("r", "sh", "-c", "echo begun >> count")
    node.finish("r")
    folder = node.folder / "runs" / "r"
    with open(folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # what the supervisor expects of whoever starts it
        args = [sys.executable, "-I", "-S", "-B", shim.__file__, folder, str(lock.fileno())]
        subprocess.run(args, pass_fds=[lock.fileno()], check=True)
    with open(folder / "lock") as lock:
        node.until(lambda: _free(lock.fileno()))
    assert count(node) == 1


def test_starts_from_many_threads_begin_one_process(node) -> None:
    driver = node.driver
    threads = [threading.Thread(target=node.start, args=("r", *COUNT)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    node.await_text("r", "up")
    assert len(driver.observe()) == 1
    assert count(node) == 1


def test_a_run_whose_supervisor_was_killed_has_vanished_with_all_its_processes(node) -> None:
    code = (
        "import os, time\n"
        "pids = [os.getpid()]\n"
        "for detached, cleared in ((False, False), (True, False), (False, True)):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        if detached: os.setsid()\n"
        "        if cleared: os.execve('/bin/sleep', ['sleep', '600'], {})\n"
        "        time.sleep(600)\n"
        "    pids.append(pid)\n"
        "print(*pids, 'up', flush=True)\n"
        "time.sleep(600)\n"
    )
    node.python("r", code)
    pids = [int(pid) for pid in node.await_text("r", "up").split()[:-1]]
    assert all(is_running(pid) for pid in pids)
    node.close()
    os.kill(node.state("r")["shim_pid"], signal.SIGKILL)
    end = node.finish("r")
    assert (end.exit_code, end.cause) == (-1, "vanished")
    assert "supervisor was killed" in end.message
    assert not any(is_running(pid) for pid in pids)


def test_a_process_ends_with_its_supervisor_even_if_no_driver_is_there(node) -> None:
    node.start("r", *COUNT)
    node.await_text("r", "up")
    pid = node.report("r").pid
    node.close()
    os.kill(node.state("r")["shim_pid"], signal.SIGKILL)
    node.until(lambda: not is_running(pid))


def test_a_state_that_looks_unchanged_is_read_before_anything_is_concluded(node) -> None:
    """File times are coarse and inodes come back: two states written one after the other may look the same."""
    assert node.driver.nodes() == ("n0",)
    os.mkfifo(node.folder / "go")
    node.start("r", "sh", "-c", "echo up; read line < ../../go; exit 5")
    node.await_text("r", "up")
    assert node.report("r").phase == "running"
    (node.folder / "go").write_text("\n")
    node.until(lambda: node.state("r")["phase"] == "exited")
    status = (node.folder / "runs" / "r" / "state.json").stat()
    node.driver._live["r"]._stamp = (status.st_ino, status.st_mtime_ns)
    end = node.finish("r")
    assert (end.exit_code, end.cause) == (5, "")


def test_a_supervisor_killed_under_a_driver_at_work_is_noticed(node) -> None:
    node.start("r", *COUNT)
    node.await_text("r", "up")
    pid = node.report("r").pid
    os.kill(node.state("r")["shim_pid"], signal.SIGKILL)
    assert node.finish("r").cause == "vanished"
    assert not is_running(pid)
    node.start("r", *COUNT)
    assert node.report("r").cause == "vanished"
    assert count(node) == 1


def test_after_a_reboot_runs_have_vanished_and_no_stranger_is_killed(node) -> None:
    """The numbers in the state belong to other processes by now."""
    node.start("r", *COUNT)
    node.await_text("r", "up")
    node.close()
    state = node.state("r")
    os.kill(state["shim_pid"], signal.SIGKILL)
    with open(node.folder / "runs" / "r" / "lock") as lock:
        node.until(lambda: _free(lock.fileno()))
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        state |= {"boot": "another", "pid": stranger.pid, "pid_start": shim.start_ticks(stranger.pid)}
        (node.folder / "runs" / "r" / "state.json").write_text(json.dumps(state))
        (node.folder / "lease.json").write_text(json.dumps({"boot": "another", "until_s": 0.0}))
        end = node.finish("r")
        assert (end.cause, end.message) == ("vanished", "the host was restarted while it ran")
        assert stranger.poll() is None
        node.start("stale", "sleep", "600")  # as an order noted down before the host went down would be
        assert node.finish("stale").cause == "lease-lost"
        node.driver.renew(60.0)
        node.start("next", *COUNT)
        node.await_text("next", "up")
    finally:
        stranger.kill()
        stranger.wait()


def test_work_ends_when_its_driver_is_gone_and_the_lease_runs_out(node) -> None:
    drive_and_die(node.folder, *COUNT, die_in="lease")
    assert node.finish("r").cause == "lease-lost"


def test_a_stop_holds_when_the_driver_is_gone(node) -> None:
    node.start("r", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    node.await_text("r", "up")
    node.driver.stop("r", 0.3, node.fence, cause="preempted")
    node.close()
    node.until(lambda: node.state("r")["phase"] == "exited")
    end = node.report("r")
    assert (end.exit_code, end.cause) == (137, "preempted")


def test_closing_leaves_runs_alone(node) -> None:
    node.start("r", *COUNT)
    node.await_text("r", "up")
    pid = node.report("r").pid
    node.reopen()
    assert is_running(pid)
    assert node.report("r").phase == "running"


def test_a_folder_serves_one_driver(node) -> None:
    assert node.driver.nodes() == ("n0",)
    with pytest.raises(FolderBusyError, match="another driver"):
        LocalDriver(node.folder, "n0")


@pytest.mark.parametrize("name", ["..", ".", "../up", "a/b", "", ".hidden", "a\nb", "x" * 300, "ä"])
def test_names_that_are_no_plain_file_names_are_refused(node, name) -> None:
    node.driver.observe()
    before = sorted(path.relative_to(node.folder) for path in node.folder.rglob("*"))
    node.start(name, "true")
    end = node.finish(name)
    assert (end.exit_code, end.cause) == (-1, "start-failed")
    node.start("r", "true", slot=name)
    assert node.finish("r").cause == "start-failed"
    with pytest.raises(AbsentLogsError):
        node.driver.logs(name, "stdout", 0, 100)
    node.driver.stop(name, 0, node.fence)
    node.driver.forget([name, "r"], node.fence)
    assert node.driver.observe() == ()
    after = sorted(path.relative_to(node.folder) for path in node.folder.rglob("*"))
    assert set(after) - set(before) <= {Path("fence.json")}


def test_what_is_simulated_is_refused(node) -> None:
    node.start("r")
    assert "simulated" in node.finish("r").message


def test_a_link_in_place_of_a_working_folder_is_refused(node, tmp_path) -> None:
    (node.folder / "work").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (node.folder / "work" / "7-w-0").symlink_to(tmp_path / "elsewhere")
    node.start("r", "touch", "file")
    end = node.finish("r")
    assert (end.cause, "is a link" in end.message) == ("start-failed", True)


def test_what_the_driver_keeps_is_for_its_user_alone(node) -> None:
    node.start("r", "true", env=(("SECRET", "x"),))
    node.finish("r")
    assert node.folder.stat().st_mode & 0o077 == 0
    assert (node.folder / "runs" / "r").stat().st_mode & 0o077 == 0
    for path in (node.folder / "runs" / "r").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


def test_a_supervisor_is_small(node) -> None:
    node.start("r", *COUNT)
    node.await_text("r", "up")
    status = Path(f"/proc/{node.state('r')['shim_pid']}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 16_000


def test_an_order_that_cannot_be_noted_down_is_not_carried_out(node) -> None:
    assert node.driver.nodes() == ("n0",)
    (node.folder / "fence.json.new").mkdir()  # in the way of every new fence
    with pytest.raises(FolderError) as refusal:
        node.start("r", *COUNT)
    assert refusal.value.code == "node.folder-unwritable"
    assert node.driver.observe() == ()
    (node.folder / "fence.json.new").rmdir()
    node.start("r", *COUNT)
    node.await_text("r", "up")


def test_the_fence_is_kept_whole(node) -> None:
    node.driver.forget([], Fence(term=3, position=8))
    assert msgspec.json.decode((node.folder / "fence.json").read_bytes(), type=Fence) == Fence(term=3, position=8)
    with pytest.raises(StaleOrderError):
        node.reopen().forget([], Fence(term=3, position=7))


def _free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
