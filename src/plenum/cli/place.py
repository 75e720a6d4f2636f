"""``plenum place``: decide where workloads go."""

from __future__ import annotations

import sys
from typing import Any

import click

from plenum.cli.console import console, write_json
from plenum.cli.situation import Situation, decided, reason_json, situation_options


@click.command()
@situation_options
@click.option("--exact", is_flag=True, help="Solve to optimality with CP-SAT (small batches; needs the extra 'exact').")
@click.option(
    "--time-limit", default=10.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds for --exact."
)
def command(
    jobs: tuple[str, ...],
    fleet: str,
    running: tuple[str, ...],
    policy: str,
    caps: tuple[str, ...],
    seed: int,
    output: str,
    exact: bool,
    time_limit: float,
) -> None:
    """Decide where the workloads in JOBS go on a fleet, and say why the rest waits.

    Nothing is started: this is the decision that a control plane would carry out. Exits with 1 if something waits.

    \b
    plenum place --fleet examples/fleet-lab.yaml examples/jobs.yaml
    """
    situation = decided(jobs, fleet, running, policy, seed, caps)
    if exact:
        situation = _exactly(situation, time_limit)
    if output == "json":
        write_json(plan_json(situation))
    else:
        _print(situation)
    sys.exit(1 if situation.plan.reasons else 0)


def _exactly(situation: Situation, time_limit: float) -> Situation:
    from dataclasses import replace

    from plenum.placement.exact import solve_exact

    plan = solve_exact(situation.view, situation.pending, time_limit_s=time_limit, policy=situation.policy)
    return replace(situation, plan=plan)


def plan_json(situation: Situation) -> dict[str, Any]:
    """Return a plan as plain values: a row a replica, names instead of numbers."""
    view, plan = situation.view, situation.plan
    placements = []
    for placement in plan.placements:
        rows = placement.rows
        replicas = [
            {
                "role": placement.workload.roles[rows.role[i]].name,
                "rank": int(rows.rank[i]),
                "node": view.fleet.node_name(int(rows.node[i])),
                "gpus": _members(int(rows.gpu_mask[i])),
                "nics": _members(int(rows.nic_mask[i])),
                "mig_slices": _members(int(rows.mig_mask[i])),
                "numa": _members(int(rows.numa_mask[i])),
            }
            for i in range(len(rows))
        ]
        cost = placement.cost
        placements.append(
            {
                "workload": placement.workload.id,
                "replicas": replicas,
                "domains": {level: [view.fleet.domain_name[d] for d in used] for level, used in placement.levels},
                "communication": None
                if cost is None
                else {
                    name: getattr(cost, name) for name in ("bottleneck", "dimension", "algorithm", "step_s", "relative")
                },
                "given_up": list(placement.degraded),
            }
        )
    return {
        "fleet": view.fleet.name,
        "policy": plan.policy,
        "placements": placements,
        "reasons": [reason_json(r) for r in plan.reasons],
        "optimality_gap": plan.optimality_gap,
        "notes": list(plan.notes),
    }


def _members(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def _print(situation: Situation) -> None:
    from rich.table import Table

    view, plan = situation.view, situation.plan
    out = console()
    table = Table(
        title=f"{len(plan.placements)} of {len(plan.pending)} workloads placed on {view.fleet.name} by {plan.policy}",
        title_justify="left",
    )
    for name in ("workload", "kind", "replicas", "nodes", "inside", "cost"):
        table.add_column(name, justify="right" if name == "replicas" else "left", overflow="fold")
    for placement in plan.placements:
        workload, cost = placement.workload, placement.cost
        inside = [
            f"{level} {view.fleet.domain_name[used[0]]}" if len(used) == 1 else f"{len(used)} × {level}"
            for level, used in placement.levels
        ]
        table.add_row(
            workload.id,
            workload.kind.value,
            f"{len(placement.rows)}/{workload.replicas}",
            _node_names(view, placement.rows),
            "\n".join((*inside, *placement.degraded)) or "–",
            "–" if cost is None else f"{cost.relative:.3g}× the best: {cost.dimension} over {cost.bottleneck}",
        )
    if plan.placements:
        out.print(table)
    for reason in plan.reasons:
        out.print(f"• {reason.sentence}", soft_wrap=True, markup=False)
    if plan.optimality_gap is not None:
        out.print(f"optimality gap {100 * plan.optimality_gap:.2g} %")
    waiting = [r.workload for r in plan.reasons if r.code != "wait.partly"]
    if waiting:
        out.print(f"\nMore on any of them: plenum explain {waiting[0].split('/', 1)[1]} …", soft_wrap=True)


def _node_names(view: Any, rows: Any) -> str:
    names = list(dict.fromkeys(view.fleet.node_name(int(n)) for n in rows.node))
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} … {names[-1]} ({len(names)} nodes)"
