"""``plenum replay philly``: runs and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from plenum.adapters.traces import philly
from plenum.cli import charts, progress
from plenum.cli.console import write_json
from plenum.cli.stopwatch import TimedEngine
from plenum.graph.cluster import Cluster
from plenum.model import DeviceKind, FieldError, Fleet, Together, View
from plenum.model.fleet import LEVEL
from plenum.placement import Engine, Policy
from plenum.sim import jobs
from plenum.sim.jobs import JobReplay
from plenum.sim.synthetic import training_fleet
from plenum.sim.trace import JobTrace


def run_philly(
    data: Path,
    policies: Sequence[Policy],
    seeds: Sequence[int],
    output: str,
    limit: int | None,
    manifest: Path | None,
    queue: str | None,
    patience_h: float | None,
) -> None:
    """Replay the Philly jobs under every policy and seed and show how long they waited.

    Parameters
    ----------
    limit
        First jobs to replay; None: all.
    manifest
        The fleet; None: :func:`~plenum.sim.synthetic.training_fleet`.
    """
    trace = philly.read_jobs(data / philly.PATH)
    trace = trace if limit is None else trace.first(limit)
    fleet = training_fleet() if manifest is None else _read_fleet(manifest)
    gpus_of_node = np.bincount(fleet.device_node[fleet.device_kind == DeviceKind.GPU], minlength=fleet.n_nodes)
    gpus_per_node = int(gpus_of_node.max())
    if not gpus_per_node:
        raise FieldError("--fleet", "has no GPUs; Philly's jobs need some", file=str(manifest))
    frequencies = jobs.request_frequencies(trace, gpus_per_node)
    cluster = Cluster.of(fleet)
    together = (Together(level="fabric.leaf", required=False),) if _has_leaves(fleet) else ()
    results: list[tuple[str, int, JobReplay, float]] = []

    def new_engine(policy: Policy, seed: int) -> Engine:
        rng = np.random.default_rng(seed)
        return Engine(View(fleet=fleet), policy, rng, frequencies=frequencies, cluster=cluster)

    with progress.compile_note():
        for policy in policies:
            jobs.replay_jobs(
                _one_of_each_size(trace), new_engine(policy, 0), gpus_per_node=gpus_per_node, together=together
            )
    with progress.bar(len(policies) * len(seeds) * len(trace)) as advance:
        for policy in policies:
            for seed in seeds:
                before = len(results) * len(trace)
                timed = TimedEngine(new_engine(policy, seed))
                replay = jobs.replay_jobs(
                    trace,
                    timed,
                    gpus_per_node=gpus_per_node,
                    discipline="fifo" if queue == "fifo" else "backfill",
                    patience_s=jobs.PATIENCE_S if patience_h is None else 3600 * patience_h,
                    together=together,
                    on_event=lambda done, _, at=before, what=policy.name: advance(what, at + done),
                )
                results.append((policy.name, seed, replay, timed.decisions_per_s))
    if output == "json":
        write_json([_job_row(*result) for result in results])
    else:
        _print_jobs(fleet, queue or "backfill", results)


def _one_of_each_size(trace: JobTrace) -> JobTrace:
    """Return a short trace that calls all that the long one does, so that nothing is compiled while it is timed."""
    _, first = np.unique(trace.gpus, return_index=True)
    return JobTrace(
        name=trace.name,
        submit_s=np.arange(len(first), dtype=np.float64),
        duration_s=np.full(len(first), 0.5),
        gpus=trace.gpus[first],
        tenant=tuple(trace.tenant[i] for i in first),
        priority=np.zeros(len(first), np.int32),
    )


def _read_fleet(manifest: Path) -> Fleet:
    from plenum.adapters.manifests.fleet import read_fleet

    return read_fleet(manifest)


def _has_leaves(fleet: Fleet) -> bool:
    return bool(len(fleet.domains_at(LEVEL["fabric.leaf"])))


def _job_row(policy: str, seed: int, replay: JobReplay, decisions_per_s: float) -> dict[str, Any]:
    days = np.arange(0, replay.makespan_s + 86_400, 86_400.0)
    return {
        "trace": replay.trace.name,
        "policy": policy,
        "seed": seed,
        "jobs": len(replay.trace),
        "never_count": replay.never_count,
        "makespan_s": replay.makespan_s,
        "utilisation_percent": round(replay.utilisation_percent, 6),
        "idle_while_waiting_percent": round(replay.idle_while_waiting_percent, 6),
        "fragmented_gpu_percent": round(replay.fragmented_gpu_percent, 6),
        "decisions_per_s": round(decisions_per_s, 1),
        "wait": [asdict(row) for row in replay.waits()],
        "utilisation_percent_by_day": [round(float(value), 3) for value in replay.utilisation(days)],
    }


def _print_jobs(fleet: Fleet, queue: str, results: Sequence[tuple[str, int, JobReplay, float]]) -> None:
    first = results[0][2]
    runs = charts.new_table(
        f"philly: {len(first.trace):,} jobs on {fleet.n_gpus:,} GPUs, {queue} queue",
        "policy",
        ("utilised %", "idle while a job waits %", "fragmented %", "makespan", "never fit", "decisions/s"),
    )
    waits = charts.new_table(
        "waiting time, by GPUs of the job", "policy", ("GPUs", "jobs", "mean", "p50", "p95", "p99")
    )
    for policy, seed, replay, decisions_per_s in results:
        label = policy if len({s for _, s, _, _ in results}) == 1 else f"{policy} {seed}"
        runs.add_row(
            label,
            f"{replay.utilisation_percent:.2f}",
            f"{replay.idle_while_waiting_percent:.2f}",
            f"{replay.fragmented_gpu_percent:.2f}",
            _duration(replay.makespan_s),
            f"{replay.never_count:,}",
            f"{decisions_per_s:,.0f}",
        )
        for row in replay.waits():
            spans = (row.mean_s, row.p50_s, row.p95_s, row.p99_s)
            waits.add_row(label, row.gpus, f"{row.jobs:,}", *(_duration(span) for span in spans))
        waits.add_section()
    charts.print_tables(runs, waits)
    click.echo(
        f"utilised, idle and fragmented: mean over the {_duration(float(first.trace.submit_s[-1]))} in which jobs arrive"
    )


def _duration(seconds: float) -> str:
    """Write a time for people: ``45 s``, ``12 min``, ``3.4 h``, ``109 d``."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds:.0f} s"
