"""What a process says of its own start, in a file that its driver looks at; as systemd's notify, without a socket to keep open."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from urllib.parse import urlsplit

import msgspec

from plenum.ports.nodes import EXITED, RUNNING, STARTING, Report, Status

STATUS = "status.json"
"""Name of the file, in the run's folder."""

MAX_BYTES = 8_192
EVERY_S = 2.0
"""Least time between two messages that are passed on; that it is ready is passed on at once."""


class Notice:
    """The status file of one run.

    Parameters
    ----------
    clock_s
        Seconds that only go forwards.
    port
        That the run was given to listen at: nobody is sent to another on its word. 0: it was given none.
    """

    def __init__(self, folder: Path, clock_s: Callable[[], float] = time.monotonic, *, port: int = 0) -> None:
        self._path, self._port = folder / STATUS, port
        self._clock_s = clock_s
        self._stamp = (0, 0, 0)
        self._told_at_s = float("-inf")
        self.said = Status()

    def look(self) -> bool:
        """Read the file if it was written since; returns whether it says something new. Once it has said ready, that stays."""
        if self.said.ready:
            return False
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        stat = os.fstat(fd)
        if not S_ISREG(stat.st_mode):  # whoever may write there may put anything there
            os.close(fd)
            return False
        with open(fd, "rb") as file:
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp == self._stamp:
                return False
            said = _read(file.read(MAX_BYTES + 1))
        if not said.ready and self._clock_s() - self._told_at_s < EVERY_S:
            return False  # and looked at again: the stamp is not taken
        self._stamp = stamp
        if said == self.said:
            return False
        self.said, self._told_at_s = said, self._clock_s()
        return True

    def told(self, report: Report) -> Report:
        """Return a report on the run with what it says of itself: running only once it is ready."""
        said = self.said
        if report.phase == RUNNING and not said.ready:
            return msgspec.structs.replace(report, phase=STARTING, message=said.message)
        if report.phase == RUNNING:
            own = not self._port or not said.url or _port_of(said.url) == self._port
            message = said.message if own else f"it answers at another port than {self._port}, which it was given"
            url = said.url if own else ""
            return msgspec.structs.replace(
                report,
                message=message,
                url=url,
                weights_digest=said.weights_digest,
                certificate_sha256=said.certificate_sha256,
            )
        if report.phase == EXITED and not report.message and not said.ready:
            self._told_at_s = float("-inf")  # its last words say why it ended: nothing follows them
            self.look()
            return msgspec.structs.replace(report, message=self.said.message)
        return report


def _port_of(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None


def _read(text: bytes) -> Status:
    try:
        return msgspec.json.decode(text, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Status(message="what it says of itself cannot be read")
