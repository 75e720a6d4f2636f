"""Nodes: what starts and stops replicas, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from plenum.model.errors import PlenumError
from plenum.model.process import Process


class Fence(msgspec.Struct, frozen=True, order=True):
    """How recent an order is: a leader's term, then its position in the log. Greater is newer."""

    term: int = 0
    position: int = 0


class StaleOrderError(PlenumError):
    """An order is older than one that the driver has taken already."""

    code = "node.stale-order"


class AbsentLogsError(PlenumError):
    """No such run or stream is known."""

    code = "logs.absent"

    def __init__(self, run: str, stream: str) -> None:
        super().__init__(f"no stream {stream!r} of a run {run!r} is known here; the streams are stdout and stderr")


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that a node is to run.

    Parameters
    ----------
    run
        Unique for ever; made of letters, digits, ``-``, ``_`` and ``.``; safe as a file name.
    job
        ``tenant/name``.
    slot
        Which replica of the job, over all its attempts: ``worker-0``. Its working folder belongs to (job uid, slot).
    uid
        Of the job; another job of the same name has another.
    attempt
        1, 2, 3, …
    role, rank
        Rank within the role.
    global_rank, world_size, node_rank, nodes, local_rank, local_world_size
        Of a gang, over all its roles: for rendezvous. One process is one rank.
    address
        Of its node's host; empty: as ``master_addr``.
    master_addr, master_port
        Where rank 0 listens.
    gpus
        Indices of GPUs on the node.
    numa
        NUMA nodes whose cores it holds for itself; empty: its cores float.
    cpu_milli, memory_bytes
        What it was given; 0: no limit of its own.
    secret
        The run's own, as ``PLENUM_ENGINE_KEY``: added on the way to the node, and in no log.
    weights_digest
        Of the weights that it is to serve, as ``PLENUM_WEIGHTS_DIGEST``: those that the others of its kind serve; empty: it is the first.
    """

    run: str
    job: str
    uid: int
    tenant: str
    node: str
    slot: str
    attempt: int
    role: str
    rank: int
    process: Process
    global_rank: int = 0
    world_size: int = 1
    node_rank: int = 0
    nodes: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = ""
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    gpus: tuple[int, ...] = ()
    gpu_milli: int = 0
    numa: tuple[int, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    trace: str = ""
    secret: str = ""
    weights_digest: str = ""


LEASE_GRACE_S = 5.0
"""Longest that ending work takes once a lease is lost, whatever grace its jobs ask for: others count on its end."""

STARTING, RUNNING, EXITED = "starting", "running", "exited"
"""Phases of a run as its node reports them; there is no way back."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of a run.

    Parameters
    ----------
    phase
        ``starting``, ``running`` or ``exited``.
    exit_code
        Of an exited run: the process's, ``128 + n`` had signal n ended it, ``-1`` where it could not start or is unknown.
    cause
        Why it exited where the exit code does not say: ``stopped`` (as ordered), ``lease-lost``, ``start-failed``, ``out-of-memory``,
        ``vanished`` (gone without a trace, as after a reboot); empty: of itself.
    message
        A sentence for people, such as why it could not start; of a run that notifies and is starting, how far it is.
    url, weights_digest
        Where a run that notifies answers, and of which weights, once it is ready.
    certificate_sha256
        Of the certificate that it shows there, in hexadecimal; empty: none that its node made for it.
    started_at, ended_at
        Seconds since the epoch by the node's clock; 0: not yet.
    """

    run: str
    phase: str
    exit_code: int | None = None
    cause: str = ""
    message: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    pid: int = 0
    url: str = ""
    weights_digest: str = ""
    certificate_sha256: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a process that notifies writes, whole, into the file that ``PLENUM_STATUS_FILE`` names (see :class:`Report`)."""

    ready: bool = False
    message: str = ""
    url: str = ""
    weights_digest: str = ""
    certificate_sha256: str = ""


class LogChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what a run wrote.

    Parameters
    ----------
    offset
        Of the first byte of ``data`` in all that the run wrote to this stream; above the one asked for where rotation dropped some.
    end
        Whether the run has exited and nothing follows.
    """

    offset: int
    data: bytes
    end: bool


class NodeDriver(Protocol):
    """The port. Runs replicas on one node or several. Implementations: local processes, simulated.

    Orders carry a fence; a driver remembers the greatest it has seen (over restarts, if it outlives them) and refuses smaller ones.
    """

    def nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes it serves."""
        ...

    def start(self, assignment: Assignment, fence: Fence) -> None:
        """Start a run; one that is known already, running or exited, is left as it is. Failing to start is reported, not raised.

        Raises
        ------
        StaleOrderError
            The fence is below one seen before.
        """
        ...

    def stop(self, run: str, grace_s: float, fence: Fence, *, cause: str = "stopped") -> None:
        """Ask a run to end, and end it by force after ``grace_s``; returns at once. Unknown and exited runs are left as they are.

        Raises
        ------
        StaleOrderError
            The fence is below one seen before.
        """
        ...

    def forget(self, runs: Sequence[str], fence: Fence) -> None:
        """Drop what is known of exited runs; those still running are left. Their logs stay for a while."""
        ...

    def renew(self, until_s: float) -> None:
        """Note that work may go on for ``until_s`` more seconds.

        What outlives its driver (a process) ends itself after that, within :data:`LEASE_GRACE_S` if its own grace is longer.
        """
        ...

    def observe(self) -> tuple[Report, ...]:
        """Return a report on every run that is known and not forgotten."""
        ...

    def logs(self, run: str, stream: str, offset: int, limit: int) -> LogChunk:
        """Return up to ``limit`` bytes of ``stdout`` or ``stderr`` from an offset; a negative offset counts from the end.

        Raises
        ------
        AbsentLogsError
            There is no such run or stream here.
        """
        ...

    def close(self) -> None:
        """Let go of everything; what runs goes on."""
        ...
