"""No process of a run outlives it, however it was started."""

import os
import signal
from contextlib import suppress

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)
os.wait()
"""
"""Leaves a daemon in a session of its own, without anything of the run's environment."""


def processes(marker: str) -> list[int]:
    """Return the live processes with a text in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            if marker.encode() in file.read():
                found.append(int(name))
    return found


def test_children_of_a_process_end_with_it(node) -> None:
    marker = f"600.{os.getpid()}1"
    node.start("r", "sh", "-c", f"sleep {marker} & sleep {marker} & exit 4")
    assert node.finish("r").exit_code == 4
    assert processes(marker) == []


def test_a_daemon_ends_with_the_process_it_comes_from(node) -> None:
    marker = f"600.{os.getpid()}2"
    node.python("r", DAEMON.replace('"600"', f'"{marker}"'))
    assert node.finish("r").exit_code == 0
    assert processes(marker) == []


def test_a_stop_reaches_the_whole_group(node) -> None:
    node.start(
        "r",
        "sh",
        "-c",
        "trap 'wait; exit 3' TERM; (trap 'echo child; exit' TERM; echo up; while :; do sleep 0.01; done) & wait",
    )
    node.await_text("r", "up")
    node.driver.stop("r", 30, node.fence)
    end = node.finish("r")
    assert (end.exit_code, end.cause, node.text("r")) == (3, "stopped", "up\nchild\n")


def test_a_process_may_use_its_grace_to_tidy_up(node) -> None:
    node.start("r", "sh", "-c", "trap 'sleep 0.2; echo saved; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    node.await_text("r", "up")
    node.driver.stop("r", 30, node.fence)
    end = node.finish("r")
    assert (end.exit_code, end.cause, node.text("r")) == (0, "stopped", "up\nsaved\n")


def test_orphans_are_reaped_while_the_run_goes_on(node) -> None:
    node.start("r", "sh", "-c", "for i in 1 2 3; do (true & ) ; done; echo up; exec sleep 600")
    node.await_text("r", "up")
    shim = node.state("r")["shim_pid"]
    zombies = lambda: [  # noqa: E731
        name
        for name in filter(str.isdigit, os.listdir("/proc"))
        if (stat := _stat(name)) and stat[1] == str(shim) and stat[0] == "Z"
    ]
    node.until(lambda: zombies() == [], zombies)


def test_the_signal_that_ended_a_process_is_told(node) -> None:
    node.start("r", "sh", "-c", "kill -SEGV $$")
    end = node.finish("r")
    assert (end.exit_code, end.cause) == (128 + signal.SIGSEGV, "")


def test_a_supervisor_that_is_asked_to_end_ends_its_run(node) -> None:
    node.start("r", "sh", "-c", "echo up; exec sleep 600")
    node.await_text("r", "up")
    os.kill(node.state("r")["shim_pid"], signal.SIGTERM)
    end = node.finish("r")
    assert (end.exit_code, end.cause) == (143, "vanished")


def _stat(name: str) -> list[str]:
    with suppress(OSError), open(f"/proc/{name}/stat") as file:
        return file.read().rpartition(")")[2].split()
    return []
