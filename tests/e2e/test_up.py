"""``plenum up``: the first jobs, a clean end, and everything back at the next start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import psutil
from tests.e2e.clouds import EXAMPLES, Cloud, cloud_in, in_order, until
from tests.patience import PATIENCE_S
from tests.ports import free_port

FIRST = ("-f", str(EXAMPLES / "fleet-lab.yaml"), "-f", str(EXAMPLES / "first-jobs.yaml"))


def task(name: str, command: str) -> tuple[str, dict[str, object], str]:
    return name, {"resources": {"cpu": 0.1}, "run": {"command": ["sh", "-c", command]}}, "Task"


def runs(cloud: Cloud) -> list[psutil.Process]:
    return [process for _, process in cloud.live_runs("server")]


def test_first_jobs_end_and_a_second_start_repeats_nothing(tmp_path: Path) -> None:
    # One record more than the cloud of the README has: where ranks meet goes by the position of their job, and both are on this host.
    apart = tmp_path / "apart.yaml"
    apart.write_text("apiVersion: plenum.dev/v1alpha1\nkind: Tenant\nmetadata: {name: apart}\n")
    first = ("-f", str(apart), *FIRST)
    with cloud_in(tmp_path) as cloud:
        up = cloud.server(*first, command="up")
        up.says("Try next, in another terminal")
        told = re.findall(r"^\d\d:\d\d:\d\d  (\S+) +(\w+)", up.said, re.MULTILINE)
        for job in ("hello", "train", "pretrain"):
            assert [word for name, word in told if name == job] == ["running", "succeeded"], up.said
        assert [word for name, word in told if name == "too-wide"] == ["waits"]
        assert "explain too-wide" in up.said
        assert "Hello from worker-0 on" in cloud.log_of("hello", kind="Task")
        assert "step 100 loss" in cloud.log_of("train")
        assert cloud.job("pretrain")["replicas"]["succeeded"] == 4
        assert up.end() == 0
        assert up.said.endswith("Stopped. The next `plenum up` comes back with everything.\n")

        again = cloud.server(*first, command="up")
        again.says("all of it is so already")
        assert cloud.job("hello", "Task")["phase"] == "Succeeded"
        assert cloud.job("too-wide")["phase"] == "Pending"
        bound = [kind for job in ("hello", "train", "pretrain") for kind, _ in cloud.story(f"job/default/{job}")]
        assert bound.count("UnitBound") == 3
        assert "plm_" not in again.said

        other = cloud.start("up", "--data", str(cloud.data), "--port", "0")
        taken = cloud.start("up", "--data", str(tmp_path / "other"), "--port", str(cloud.port))
        assert (other.ended(), taken.ended()) == (2, 2)
        assert "in use" in other.said
        assert f"cannot listen on 127.0.0.1:{cloud.port}" in taken.said
        assert again.end(signal.SIGTERM) == 0


def test_what_runs_is_taken_up_after_a_crash_and_begun_anew_after_a_clean_end(tmp_path: Path) -> None:
    with cloud_in(tmp_path) as cloud:
        cloud.server("--keep-jobs", command="up")
        over = tmp_path / "over"
        cloud.apply(*task("brief", f"while [ ! -e {over} ]; do sleep 0.05; done; echo done"))
        cloud.apply(*task("long", "exec sleep 600"))
        before = until(lambda: both if len(both := {process.pid for process in runs(cloud)}) == 2 else None, "two runs")
        cloud.comes_to("long", "Running", kind="Task")
        cloud.restart(meanwhile=over.touch)
        assert cloud.comes_to("brief", "Succeeded", kind="Task")["attempt"] == 1
        assert cloud.log_of("brief", kind="Task") == "done\n"
        (left,) = runs(cloud)
        assert left.pid in before

        assert cloud.end() == 0  # which leaves jobs alone, as it was started with --keep-jobs
        cloud.server(command="up")
        cloud.node(cloud.ask("/nodes")["items"][0]["metadata"]["name"], "Ready")
        assert [process.pid for process in runs(cloud)] == [left.pid]
        assert cloud.job("long", "Task")["attempt"] == 1

        assert cloud.end() == 0
        left.wait(PATIENCE_S)
        cloud.server(command="up")
        assert cloud.comes_to("long", "Running", kind="Task")["attempt"] == 2
        story = cloud.story("job/default/long")
        stopped = ("UnitStopped", {"why": "shutdown"})
        in_order(story, stopped, ("UnitReleased", {"again": True}), ("UnitBound", {"attempt": 2}))
        assert cloud.job("brief", "Task")["attempt"] == 1


def test_until_done_tells_failure_by_its_exit_code(tmp_path: Path) -> None:
    manifest = tmp_path / "jobs.yaml"
    manifest.write_text(
        "apiVersion: plenum.dev/v1alpha1\nkind: Task\nmetadata: {name: bad}\n"
        "spec: {resources: {cpu: 10m}, run: {command: [python, -c, 'import numpy, os, sys; print(os.getcwd()); sys.exit(3)'], "
        "workingDir: ., restarts: 1, backoff: 10ms}}\n"
    )
    with cloud_in(tmp_path) as cloud:
        up = cloud.server("-f", str(manifest), "--until-done", "--keep-jobs", command="up")
        assert up.ended() == 1
        assert re.search(r"bad +again +after attempt 1", up.said)
        assert re.search(r"bad +failed +.*no restarts are left", up.said)
        written = list(cloud.data.glob("node/*/*/stdout.*"))
        assert {file.read_text() for file in written} == {
            f"{tmp_path}\n"
        }  # of its file, with an interpreter that has NumPy


def test_ctrl_c_in_a_terminal_ends_it_once(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the whole foreground group; jobs are in groups of their own and get their grace."""
    ours, terminals = pty.openpty()
    up = subprocess.Popen(
        [sys.executable, "-m", "plenum", "up", "--data", str(tmp_path / "server"), "--port", str(free_port())],
        stdin=terminals,
        stdout=terminals,
        stderr=terminals,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminals)
    said = b""
    while b"Operator token" not in said:
        said += os.read(ours, 4096)
    os.write(ours, b"\x03")
    with contextlib.suppress(OSError):  # how a terminal says that nobody has it open any more
        while data := os.read(ours, 4096):
            said += data
    os.close(ours)
    assert up.wait(PATIENCE_S) == 0, said.decode()
    assert b"Stopped." in said
    assert b"Traceback" not in said
