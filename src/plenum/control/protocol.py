"""What a node agent and the control plane say to each other; one exchange, again and again.

The agent tells all that it runs; the answer tells all that it is to run. Either may be lost, late or repeated: the next exchange
mends it, and the fence keeps an old answer from undoing a newer one.
"""

from __future__ import annotations

import msgspec

from plenum.ports.nodes import LEASE_GRACE_S as LEASE_GRACE_S
from plenum.ports.nodes import Assignment, Fence, LogChunk, Report

LEASE_S = 30.0
"""How long an agent may go on without an answer, unless the control plane grants another time."""

MIN_LEASE_S, MAX_LEASE_S = 2.0, 3_600.0
"""Shorter, and a hiccup of the network ends work; longer, and what a lost node held is lost for as long."""

MAX_REPORTS = 20_000
"""Reports in one request; the rest follow in the next."""

LEASE_MARGIN_S = 5.0
"""For clocks that run at different speeds, and slow machines."""


class LogWant(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants to read a piece of a log."""

    id: str
    run: str
    stream: str
    offset: int
    limit: int


class LogAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The piece, or why there is none."""

    id: str
    chunk: LogChunk | None = None
    error: str = ""


class SyncRequest(msgspec.Struct, frozen=True, kw_only=True):
    """From an agent.

    Parameters
    ----------
    nodes
        That it serves.
    reports
        On every run whose report has changed since one was last acknowledged.
    leftover
        Runs that are not over and that its last orders do not name.
    seen
        The greatest fence it has obeyed.
    version
        Orders that it has; the answer leaves them out if they are still the same.
    wait_s
        How long the control plane may hold the answer back for news.
    instance
        Tells two agents of the same name apart: of the two only one is answered.
    """

    agent: str
    nodes: tuple[str, ...] = ()
    reports: tuple[Report, ...] = ()
    leftover: tuple[str, ...] = ()
    seen: Fence = Fence()
    version: int = -1
    wait_s: float = 0.0
    instance: str = ""
    logs: tuple[LogAnswer, ...] = ()


class SyncResponse(msgspec.Struct, frozen=True, kw_only=True):
    """To an agent; it also acknowledges the request: its reports are in the log.

    Parameters
    ----------
    fence
        Of these orders.
    version
        Of the orders, to be told in the next request.
    orders
        All that is to run, by run; whatever else runs is to end. None: as before.
    known
        Runs among the orders that were reported before: one that the driver does not know has vanished and is not started again.
    lease_s
        The agent may go on for this long from when it sent the request.
    """

    fence: Fence
    version: int
    orders: dict[str, Assignment] | None = None
    known: tuple[str, ...] = ()
    wants: tuple[LogWant, ...] = ()
    lease_s: float = LEASE_S
