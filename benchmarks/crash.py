"""Kill the server with SIGKILL again and again while clients submit; then count what was lost, and what ran twice.

``plenum up`` on SQLite, with this host as a node and a simulated fleet beside it. Real tasks write a line into a ledger when they begin
and when they end, so the ledger knows what ran, whatever the log says.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import cloud
from benchmarks.findings import Finding, Target
from plenum.adapters.stores.opening import open_store
from plenum.control import events as ev
from plenum.ports.nodes import EXITED
from plenum.ports.store import Record

KILLS = 200
CLIENTS = 3
PAUSE_S = 0.35
"""Between two submits of one client; the load is to leave most of two cores to the server."""

REAL_EVERY = 4
"""Every so many tasks one is real."""

EARLY_SHARE = 0.25
"""Share of the kills that fall into the start rather than after it."""

EARLY_S = 1.5
LATE_S = 1.0
LONGEST_S = 6.0
READ_AT_ONCE = 2_000


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it.

    Parameters
    ----------
    started_s
        Seconds from each start of the server that was not cut short until it led and answered.
    lost, doubled
        Tasks that were acknowledged and are not in the log; that are in it more than once.
    ran_twice
        Runs with two beginnings in the ledger, and jobs with two runs.
    unknown
        Runs in the ledger that the log does not know.
    untold
        Runs that ended by themselves, and the log does not say so.
    adopted
        Runs whose one process had begun before a kill and ended after it.
    orphans
        Processes left at the end.
    """

    kills: int = 0
    seconds: float = 0.0
    submits: cloud.Submits = field(default_factory=cloud.Submits)
    started_s: list[float] = field(default_factory=list)
    killed_at: list[float] = field(default_factory=list)
    records: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    ran_twice: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    adopted: int = 0
    orphans: list[int] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must not be, by name; empty lists if all is well."""
        return {
            "acknowledged submits lost": self.lost,
            "submits carried out twice": self.doubled,
            "runs or tasks that ran twice": self.ran_twice,
            "runs that the log does not know": self.unknown,
            "ends that the log does not know": self.untold,
            "processes left behind": [str(pid) for pid in self.orphans],
            "answers that no client should get": self.submits.refused,
        }


def bench(kills: int | None = None) -> Iterator[Finding]:
    """Yield what came of so many kills."""
    with tempfile.TemporaryDirectory(prefix="plenum-crash-") as folder:
        outcome = endure(Path(folder), kills or KILLS)
    yield from findings(outcome)


def findings(outcome: Outcome) -> Iterator[Finding]:
    """Yield an outcome as figures."""

    def of(what: str, value: float, unit: str = "", target: Target | None = None, note: str = "") -> Finding:
        return Finding(bench="crash", what=what, value=value, unit=unit, target=target, note=note)

    submits = outcome.submits
    yield of("SIGKILLs of the server", outcome.kills, note=f"in {outcome.seconds:.0f} s; {outcome.records:,} records")
    yield of("submits acknowledged", len(submits.acknowledged), note=f"{submits.retries:,} tries went unanswered")
    for what, wrong in outcome.faults.items():
        yield of(what, len(wrong), "", Target(words="none", met=not wrong), note=", ".join(wrong[:3]))
    yield of("runs adopted: one process, over a kill", outcome.adopted, note=f"of {outcome.runs:,} real runs")
    for share in (50, 99):
        taken = float(np.percentile(outcome.started_s, share)) if outcome.started_s else 0.0
        yield of(f"start until it leads and answers, p{share}", taken, "s", note=f"{len(outcome.started_s)} starts")


def endure(folder: Path, kills: int, *, seed: int = 0, longest_s: float = LONGEST_S) -> Outcome:
    """Kill a server so often while clients submit, let all work end, and look what came of it.

    Parameters
    ----------
    longest_s
        That a task takes.

    Raises
    ------
    RuntimeError
        The server ended by itself, or what must come about did not.
    """
    rng = random.Random(seed)
    outcome, ledger = Outcome(), folder / "ledger"
    server = cloud.Server(folder / "cloud", "up", "--quiet", "--name", "control")
    began = time.monotonic()
    with cloud.stopping(server):
        server.start()
        server.await_lead()
        token = cloud.until(server.token, "the operator's token")
        cloud.furnish(server, token, nodes=8)
        clients = [
            cloud.Submitter(f"client{i}", [server], token, tasks(i, ledger, longest_s), outcome.submits, PAUSE_S)
            for i in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for _ in range(kills):
            _kill_once(server, rng, outcome)
        server.await_lead()
        for client in clients:
            client.finish()
        await_end(server, token)
        server.stop()
    outcome.kills = kills
    outcome.seconds = time.monotonic() - began
    audit(outcome, log_of(f"sqlite:///{server.folder}/plenum.db"), ledger)
    outcome.orphans = cloud.processes_of(folder)
    return outcome


def tasks(seed: int, ledger: Path, longest_s: float) -> Callable[[int], dict[str, object]]:
    """Return what makes the n-th task of a client: mostly imitated ones, some that take a while to start, and a real one now and then."""
    rng = random.Random(seed)

    def task(n: int) -> dict[str, object]:
        if n % REAL_EVERY == 0:
            return cloud.real_task(ledger, rng.uniform(0.0, longest_s))
        return cloud.imitated_task(rng.uniform(0.1, longest_s), rng.choice((0.0, 0.5)))

    return task


def _kill_once(server: cloud.Server, rng: random.Random, outcome: Outcome) -> None:
    """Kill the server at a random instant of its start or of its life, and start it again."""
    if rng.random() < EARLY_SHARE:
        time.sleep(rng.uniform(0.0, EARLY_S))
    else:
        server.await_lead()
        time.sleep(rng.uniform(0.0, LATE_S))
    outcome.killed_at.append(server.kill())
    started = time.monotonic()
    server.start()
    if rng.random() < EARLY_SHARE:
        return
    server.await_lead()
    outcome.started_s.append(time.monotonic() - started)


def await_end(server: cloud.Server, token: str) -> None:
    """Wait until no task is left that has not ended."""
    unfinished = f"{cloud.TASKS}?{cloud.UNFINISHED}&limit=1"
    with server.link(token) as link:
        cloud.until(lambda: not link.must("GET", unfinished)["items"], "the end of all tasks", pause_s=0.5)


def log_of(url: str) -> Iterator[Record]:
    """Yield all records of a log."""
    store = open_store(url, read_only=True)
    try:
        at = 0
        while page := store.read(at, READ_AT_ONCE):
            yield from page
            at = page[-1].position
    finally:
        store.close()


def audit(outcome: Outcome, records: Iterator[Record], ledger: Path) -> None:
    """Compare what clients were told, what the log says and what the ledger says."""
    submitted: Counter[str] = Counter()
    bound: set[str] = set()
    attempts: Counter[str] = Counter()
    ended: dict[str, tuple[int | None, str]] = {}
    for record in records:
        outcome.records += 1
        match ev.event_of(record):
            case ev.JobSubmitted() as event:
                submitted[event.job] += 1
            case ev.UnitBound() as event:
                attempts[event.job] += 1
                bound.update(binding.run for binding in event.bindings)
            case ev.RunReported(phase=phase) as event if phase == EXITED:
                ended[event.run] = (event.exit_code, event.cause)
            case _:
                pass
    acknowledged = [f"default/{name}" for name in outcome.submits.acknowledged]
    outcome.lost = [job for job in acknowledged if not submitted[job]]
    outcome.doubled = [job for job in submitted if submitted[job] > 1]
    outcome.ran_twice = [f"{job}: {times} attempts" for job, times in attempts.items() if times > 1]
    jobs: Counter[str] = Counter()
    for entry in cloud.read_ledger(ledger):
        outcome.runs += 1
        jobs[entry.job] += 1
        if len(entry.begun) > 1:
            outcome.ran_twice.append(f"{entry.run}: {len(entry.begun)} beginnings")
        if entry.run not in bound:
            outcome.unknown.append(entry.run)
        if entry.ended and ended.get(entry.run) != (0, ""):
            outcome.untold.append(f"{entry.run}: {ended.get(entry.run)}")
        outcome.adopted += any(entry.outlived(at) for at in outcome.killed_at)
    outcome.ran_twice += [f"{job}: {times} runs" for job, times in jobs.items() if times > 1]
