"""Kill the leader of two servers on one PostgreSQL again and again; measure how long nobody acts, and count what was lost.

Each server has a simulated fleet at hand while it leads; one node agent, a process of its own, follows whoever leads and runs real tasks.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import cloud
from benchmarks.crash import Outcome, audit, await_end, log_of, tasks
from benchmarks.findings import Finding, Target, below
from benchmarks.stores import postgres
from plenum.control import events as ev

KILLS = 20
CLIENTS = 3
PAUSE_S = 0.2
SETTLE_S = 2.0
"""Longest that both servers live between two kills."""

LONGEST_S = 8.0
"""That a task takes: longer than nobody leads."""

TARGET_S = 5.0


@dataclass(slots=True, kw_only=True)
class Handover:
    """One kill of a leader.

    Parameters
    ----------
    led_s, answered_s
        Seconds from the kill until the successor's first record (that it leads), and until it acknowledged a submit.
    """

    killed_at: float
    successor: str
    url: str
    led_s: float = float("inf")
    answered_s: float = float("inf")


@dataclass(slots=True, kw_only=True)
class Failovers(Outcome):
    """An outcome with several servers."""

    handovers: list[Handover] = field(default_factory=list)


def bench(kills: int | None = None) -> Iterator[Finding]:
    """Yield what came of so many kills of the leader."""
    with postgres() as url, tempfile.TemporaryDirectory(prefix="plenum-failover-") as folder:
        if not url:
            return
        outcome = endure(Path(folder), url, kills or KILLS)
    yield from findings(outcome)


def findings(outcome: Failovers) -> Iterator[Finding]:
    """Yield an outcome as figures."""

    def of(what: str, value: float, unit: str = "", target: Target | None = None, note: str = "") -> Finding:
        return Finding(bench="failover", what=what, value=value, unit=unit, target=target, note=note)

    yield of("SIGKILLs of the leader", outcome.kills, note=f"in {outcome.seconds:.0f} s; {outcome.records:,} records")
    yield of(
        "submits acknowledged", len(outcome.submits.acknowledged), note=f"{outcome.submits.retries:,} tries in vain"
    )
    for what, wrong in outcome.faults.items():
        yield of(what, len(wrong), "", Target(words="none", met=not wrong), note=", ".join(wrong[:3]))
    yield of("runs under the agent over a kill, one process", outcome.adopted, note=f"of {outcome.runs:,} real runs")
    for what, taken in (
        ("kill until the successor's first record", [h.led_s for h in outcome.handovers]),
        ("kill until its first acknowledged submit", [h.answered_s for h in outcome.handovers]),
    ):
        yield of(f"{what}, p50", float(np.median(taken)), "s")
        yield of(f"{what}, max", max(taken), "s", below(TARGET_S, "s", max(taken)))


def endure(folder: Path, url: str, kills: int, *, seed: int = 0, longest_s: float = LONGEST_S) -> Failovers:
    """Kill the leader so often while clients submit, let all work end, and look what came of it.

    Parameters
    ----------
    url
        Of an empty PostgreSQL database.
    longest_s
        That a task takes.

    Raises
    ------
    RuntimeError
        A server ended by itself, or what must come about did not.
    """
    rng = random.Random(seed)
    outcome, ledger = Failovers(kills=kills), folder / "ledger"
    servers = [cloud.Server(folder / name, "server", "--store", url, "--name", name) for name in ("a", "b")]
    first, second = servers
    agent = cloud.Program(
        folder / "agent", "agent", "--name", "host", "--ca", str(first.ca), *(f"--server={s.url}" for s in servers)
    )
    began = time.monotonic()
    with cloud.stopping(agent, first, second):
        first.start()
        first.await_lead()
        token = cloud.until(first.token, "the operator's token")
        shutil.copytree(first.folder / "tls", second.folder / "tls")
        second.start()
        second.await_answer()
        cloud.furnish(first, token, nodes=8)
        with first.link(token) as link:
            join = link.must("POST", "/v1alpha1/tokens", {"kind": "join"})
        agent.start(PLENUM_JOIN_TOKEN=join["secret"])
        cloud.until(lambda: "has joined" in agent.said.read_text(), "an agent that has joined")
        clients = [
            cloud.Submitter(f"client{i}", servers, token, tasks(i, ledger, longest_s), outcome.submits, PAUSE_S)
            for i in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for _ in range(kills):
            time.sleep(rng.uniform(0.2, SETTLE_S))
            _kill_leader(servers, outcome)
        for client in clients:
            client.finish()
        await_end(next(server for server in servers if server.leads), token)
    outcome.seconds = time.monotonic() - began
    audit(outcome, log_of(url), ledger)
    outcome.orphans = cloud.processes_of(folder)
    _time(outcome, url)
    return outcome


def _kill_leader(servers: list[cloud.Server], outcome: Failovers) -> None:
    """Kill whoever leads, start it again as a follower, and wait until the other has acknowledged something."""
    leader = cloud.until(lambda: next((server for server in servers if server.leads), None), "a leader")
    successor = next(server for server in servers if server is not leader)
    at = leader.kill()
    outcome.killed_at.append(at)
    outcome.handovers.append(Handover(killed_at=at, successor=successor.folder.name, url=successor.url))
    cloud.until(
        lambda: any(a.url == successor.url and a.answered_at > at for a in list(outcome.submits.acknowledged.values())),
        f"an acknowledged submit of {successor.url}",
    )
    leader.start()
    leader.await_answer()


def _time(outcome: Failovers, url: str) -> None:
    """Read from the log and from what the clients were told how long each handover took."""
    led = [
        (record.at, event.holder)
        for record in log_of(url)
        if isinstance(event := ev.event_of(record), ev.LeaderChanged)
    ]
    for handover in outcome.handovers:
        at = handover.killed_at
        handover.led_s = min(t - at for t, holder in led if holder == handover.successor and t > at)
        answers = (a.answered_at - at for a in outcome.submits.acknowledged.values() if a.url == handover.url)
        handover.answered_s = min(s for s in answers if s > 0)
