"""``plenum explain``: why a workload waits."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from plenum.cli.cloud import cloud_options, connected, found_job, path_of
from plenum.cli.complete import complete_job
from plenum.cli.console import write_json
from plenum.cli.sentences import write_sentences
from plenum.cli.situation import Situation, decided, reason_json, situation_options
from plenum.cli.tables import Column, write_table


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
    """Say why JOB (a name, tenant/name or kind/name, an endpoint's too) waits, and what would let it start.

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
        _print(_reason(told))


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
    if placement is not None:
        where = ", ".join(dict.fromkeys(situation.view.fleet.node_name(int(n)) for n in placement.rows.node))
        write_sentences(
            f"{wanted.id} starts now: {len(placement.rows)} of {wanted.replicas} replicas on {where}.",
            *(f"  {wish}" for wish in placement.degraded),
        )
    if reason is not None:
        _print(reason)


def _found(situation: Situation, job: str) -> Any:
    from plenum.model import FieldError

    matches = [w for w in situation.pending if job in (w.id, w.name)]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(sorted(w.id for w in (matches or situation.pending)))
    problem = "is in several tenants; say which" if matches else "is not among the workloads"
    raise FieldError("JOB", f"{job} {problem}: {names}")


def _print(reason: Any) -> None:
    from plenum.cli.story import resource_name
    from plenum.model.units import show

    write_sentences(reason.sentence)
    if reason.short:
        click.echo(click.style("\nWhere it comes closest", bold=True))
        numbers = (Column(head=head, right=True) for head in ("FREE", "NEEDED", "CAPACITY"))
        rows = [
            (
                gap.domain,
                resource_name(gap.resource),
                *(show(v, gap.resource) for v in (gap.free, gap.needed, gap.capacity)),
            )
            for gap in reason.short
        ]
        write_table((Column(head="DOMAIN", fold=True), Column(head="SHORT OF"), *numbers), rows)
    if reason.blockers:
        click.echo(click.style("\nWhat is in the way", bold=True))
        columns = (
            Column(head="WORKLOAD", fold=True),
            Column(head="TENANT"),
            Column(head="WHERE", fold=True),
            Column(head="HOLDS"),
        )
        rows = [
            (b.workload, b.tenant, b.domain, f"{show(b.amount, b.resource)} {resource_name(b.resource)}")
            for b in reason.blockers
        ]
        write_table(columns, rows)
    if reason.counterfactuals:
        click.echo()
    write_sentences(*(f"{'✓' if what_if.starts else '✗'} {what_if.sentence}" for what_if in reason.counterfactuals))
