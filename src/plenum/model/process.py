"""What runs in the place that a workload was given: a command, or the imitation of one."""

from __future__ import annotations

from dataclasses import dataclass

from plenum.model.errors import FieldError

MAX_ENV = 256
"""Environment variables of one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """How an imitated replica behaves on a simulated node.

    Parameters
    ----------
    duration_s
        Seconds from running to exit; 0: until it is stopped.
    start_s
        Seconds from the order to running.
    exit_code
        What it exits with at the end.
    """

    duration_s: float = 60.0
    start_s: float = 0.0
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The command of every replica, and how it is treated.

    Parameters
    ----------
    command
        Program and arguments, never passed through a shell. Empty: imitated as ``simulated`` says.
    env
        Variables added to the node's own small environment.
    working_dir
        Where it starts; empty: a folder of its own that outlives its attempts, so that a checkpoint is found again.
    grace_s
        Seconds between the request to stop (SIGTERM) and the end by force (SIGKILL).
    nice
        Added to the scheduling priority of the processes, 0 to 19.
    timeout_s
        Longest an attempt may run; 0: no limit.
    restarts
        Attempts after the first that failures may use up; nodes lost and drains do not count.
    backoff_s
        Wait before the first restart; doubles with each, up to a limit.
    notify
        It says itself when it is ready, in the file that ``PLENUM_STATUS_FILE`` names; until then its runs are starting.
    """

    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    grace_s: float = 10.0
    nice: int = 0
    timeout_s: float = 0.0
    restarts: int = 3
    backoff_s: float = 1.0
    notify: bool = False
    simulated: Simulated | None = None

    def __post_init__(self) -> None:
        if self.command and self.simulated is not None:
            raise FieldError("spec.run", "give either command or simulate, not both")
        if len(self.env) > MAX_ENV:
            raise FieldError("spec.run.env", f"holds more than {MAX_ENV} variables")
        for text in (*self.command, *(part for pair in self.env for part in pair), self.working_dir):
            if "\0" in text:
                raise FieldError("spec.run", "a command, path or variable cannot hold a NUL character")

    @property
    def imitated(self) -> bool:
        """Whether it belongs on simulated nodes."""
        return not self.command
