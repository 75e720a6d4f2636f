"""``plenum explain``: why a workload waits."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from plenum.cli.cloud import cloud_options, connected, found_job, path_of
from plenum.cli.complete import complete_job
from plenum.cli.console import console, write_json
from plenum.cli.situation import Situation, decided, reason_json, situation_options


@click.command()
@click.argument("job", shell_complete=complete_job)
@partial(situation_options, required=False)
@cloud_options
def command(
    job: str,
    jobs: tuple[str, ...],
    fleet: str | None,
    running: tuple[str, ...],
    policy: str,
    caps: tuple[str, ...],
    seed: int,
    output: str,
    context: str | None,
    tenant: str | None,
) -> None:
    """Say why JOB (a name, or tenant/name) waits, and what would let it start.

    Asks the control plane; with --fleet, it is decided here and now where the workloads in JOBS would go on that fleet. Every
    "starts if" was tried with the engine that places.

    \b
    plenum explain giant
    plenum explain giant --fleet examples/fleet-lab.yaml examples/jobs.yaml
    """
    if fleet is not None:
        if not jobs:
            raise click.UsageError("with --fleet, say in which JOBS manifests the workloads are")
        _offline(decided(jobs, fleet, running, policy, seed, caps), job, output)
        return
    if jobs or running or caps:
        raise click.UsageError("manifests, --running and --cap go with --fleet")
    with connected(context) as client:
        told = client.get(f"{path_of(found_job(client, job, tenant))}/explain")
    if output == "json":
        write_json(told)
    else:
        _print(console(), _reason(told))


def _reason(told: dict[str, Any]) -> Any:
    """Return the control plane's answer as the noun that it was."""
    from plenum.model.plan import Blocker, Counterfactual, Gap, Reason

    return Reason(
        workload=told["workload"],
        code=told["code"],
        constraint=told.get("constraint", ""),
        sentence=told["sentence"],
        short=tuple(Gap(**gap) for gap in told.get("short", ())),
        blockers=tuple(Blocker(**blocker) for blocker in told.get("blockers", ())),
        counterfactuals=tuple(
            Counterfactual(change=c["change"], starts=c["starts"], sentence=c["sentence"])
            for c in told.get("counterfactuals", ())
        ),
    )


def _offline(situation: Situation, job: str, output: str) -> None:
    wanted = _found(situation, job)
    placement = next((p for p in situation.plan.placements if p.workload.id == wanted.id), None)
    reason = next((r for r in situation.plan.reasons if r.workload == wanted.id), None)
    if output == "json":
        nodes = sorted({situation.view.fleet.node_name(int(n)) for n in placement.rows.node}) if placement else []
        write_json({"workload": wanted.id, "placed_on": nodes, "reason": reason_json(reason) if reason else None})
        return
    out = console()
    if placement is not None:
        where = ", ".join(dict.fromkeys(situation.view.fleet.node_name(int(n)) for n in placement.rows.node))
        out.print(
            f"{wanted.id} starts now: {len(placement.rows)} of {wanted.replicas} replicas on {where}.", soft_wrap=True
        )
        for wish in placement.degraded:
            out.print(f"  {wish}", soft_wrap=True)
    if reason is not None:
        _print(out, reason)


def _found(situation: Situation, job: str) -> Any:
    from plenum.model import FieldError

    matches = [w for w in situation.pending if job in (w.id, w.name)]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(sorted(w.id for w in (matches or situation.pending)))
    problem = "is in several tenants; say which" if matches else "is not among the workloads"
    raise FieldError("JOB", f"{job} {problem}: {names}")


def _print(out: Any, reason: Any) -> None:
    from rich.table import Table

    from plenum.cli.story import resource_name
    from plenum.model.units import show

    out.print(reason.sentence, soft_wrap=True, markup=False)
    if reason.short:
        table = Table(
            "closest domain",
            "short of",
            "free",
            "needed",
            "capacity",
            title="Where it comes closest",
            title_justify="left",
        )
        for gap in reason.short:
            table.add_row(
                gap.domain,
                resource_name(gap.resource),
                *(show(v, gap.resource) for v in (gap.free, gap.needed, gap.capacity)),
            )
        out.print(table)
    if reason.blockers:
        table = Table("workload", "tenant", "where", "holds", title="What is in the way", title_justify="left")
        for blocker in reason.blockers:
            table.add_row(
                blocker.workload,
                blocker.tenant,
                blocker.domain,
                f"{show(blocker.amount, blocker.resource)} {resource_name(blocker.resource)}",
            )
        out.print(table)
    for what_if in reason.counterfactuals:
        out.print(f"{'✓' if what_if.starts else '✗'} {what_if.sentence}", soft_wrap=True, markup=False)
