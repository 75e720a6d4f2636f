"""Ends what a run has left behind when its supervisor died."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

KEY = "PLENUM_RUN_KEY"
"""Environment variable that marks every process of a run, however it was detached."""
ROUNDS = 10
"""Times that processes are looked for: what is forked while others are killed is found in the next."""
ROUND_S = 0.5
"""Longest to wait for the processes of one round to be gone."""


def end_leftovers(key: str, session: int, session_start: int) -> bool:
    """Kill all processes of a run.

    Parameters
    ----------
    key
        Value of its mark.
    session, session_start
        Process that led its session, and when that was started (clock ticks since boot); 0: none.

    Returns
    -------
    bool
        Whether none is left.
    """
    for _ in range(ROUNDS):
        found = _find(key, session, session_start)
        if not found:
            return True
        _kill(found)
    return False


def _find(key: str, session: int, session_start: int) -> list[int]:
    """Return the processes of a run that have not ended; those that cleared their environment are known by the session."""
    mark = f"{KEY}={key}".encode()
    session_is_ours = session > 0 and (_stat(session) or (0, session_start, ""))[1] == session_start
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        stat = _stat(int(name))
        if stat is None or stat[2] in "ZX":
            continue
        if (session_is_ours and stat[0] == session and stat[1] >= session_start) or _is_marked(name, mark):
            found.append(int(name))
    return found


def _stat(pid: int) -> tuple[int, int, str] | None:
    """Return (session, start in clock ticks, state) of a process."""
    with suppress(OSError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[3]), int(fields[19]), fields[0].decode()
    return None


def _is_marked(name: str, mark: bytes) -> bool:
    with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
        return mark in file.read().split(b"\0")
    return False


def _kill(pids: list[int]) -> None:
    """Kill processes and wait a moment until they are gone."""
    fds: list[int] = []
    try:
        for pid in pids:
            with suppress(OSError):
                fds.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(fds[-1], signal.SIGKILL)
        give_up_s = time.monotonic() + ROUND_S
        for fd in fds:
            select.select([fd], [], [], max(give_up_s - time.monotonic(), 0))
    finally:
        for fd in fds:
            os.close(fd)
