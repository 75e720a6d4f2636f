"""Ties a process to the one that started it, which may die without being able to say goodbye.

As a program (``python -m plenum.adapters.engines.leash PROGRAM …``) it does so to any other.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "PLENUM_LEASH"
"""Environment variable with the process id of the starter."""

_PR_SET_PDEATHSIG = 1


def leash() -> None:
    """Have the kernel kill this process when the thread that started it ends; on systems other than Linux, do nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    starter = os.environ.get(PARENT, "")
    if starter.isdigit() and os.getppid() != int(starter):  # it died before we were tied to it
        os._exit(1)


if __name__ == "__main__":
    leash()
    os.execvp(sys.argv[1], sys.argv[1:])
