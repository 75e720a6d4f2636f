"""What ``plenum plan serving`` prints: tables and sentences for people, plain values for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import write_json
from plenum.cli.sentences import write_sentences
from plenum.cli.tables import Column, terminal_width, write_table
from plenum.planning.serving.words import duration, figure

if TYPE_CHECKING:
    from plenum.planning.serving.limits import Limit
    from plenum.planning.serving.plan import ServingPlan
    from plenum.planning.serving.points import Interval, Point

MOST_FRONTIER, MOST_DRIVERS = 10, 8


def print_limit(limit: Limit) -> None:
    """Say why there is no plan, and what would help."""
    write_sentences(f"No plan ({limit.code}). {limit.sentence}")
    if limit.helps:
        click.echo("\nWhat would help:")
        write_sentences(*(f"- {sentence}" for sentence in limit.helps))


def write_limit(limit: Limit) -> None:
    """Write the limit for programs."""
    write_json({"plan": None, "limit": asdict(limit)})


def print_plan(plan: ServingPlan, label: str, written: Sequence[Path], *, chart: bool) -> None:
    """Print a plan, the answer first."""
    write_sentences(_headline(plan, label))
    click.echo()
    _print_pools(plan)
    click.echo()
    _print_figures(plan)
    click.echo()
    write_sentences(*(f"- {sentence}" for sentence in (*plan.reasons, plan.breaks.sentence)))
    _print_frontier(plan)
    _print_drivers(plan)
    _print_around(plan)
    if chart:
        _print_chart(plan)
    click.echo("\nFrom here:")
    write_sentences(*(f"{number}. {step.name}: {step.sentence}" for number, step in enumerate(plan.steps, start=1)))
    for path in written:
        click.echo(f"written: {path}")


def _headline(plan: ServingPlan, label: str) -> str:
    question, best = plan.question, plan.recommended
    traffic, slo = question.traffic, question.slo
    lengths = f"{traffic.prompt_tokens:,.0f} tokens in, {traffic.output_tokens:,.0f} out"
    promises = ", ".join(
        f"{name} p{slo.percentile:g} {duration(value)}"
        for name, value in (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2E", slo.e2e_s))
        if math.isfinite(value)
    )
    source = f" of {label}" if label else ""
    kinds = dict.fromkeys(pool.option.hardware.name for pool in best.layout.pools)
    devices = " and ".join(f"{best.layout.devices_of(name)} {name}" for name in kinds)
    return (
        f"{question.model.name} on {devices}: {figure(best.rate_rps)} requests a second{source} ({lengths}; {promises}) "
        f"for ${best.usd_per_hour:,.2f} an hour."
    )


def _print_pools(plan: ServingPlan) -> None:
    columns = [
        Column(head="POOL"), Column(head="INSTANCES", right=True), Column(head="EACH"), Column(head="WEIGHTS"), Column(head="KV"),
        Column(head="MAX SEQS", right=True), Column(head="MAX TOKENS", right=True), Column(head="KV TOKENS", right=True),
    ]  # fmt: skip
    rows = []
    for pool in plan.recommended.layout.pools:
        instance = pool.option.instance
        role = {"both": "serve"}.get(pool.role, pool.role)
        each = f"{instance.devices} {instance.hardware.name}" + (
            f" ({instance.parallelism})" if instance.devices > 1 else ""
        )
        settings = instance.settings
        rows.append(
            [role, pool.count, each, instance.precision.weights, instance.precision.kv_cache, f"{settings.max_sequences:,}",
             f"{settings.max_batched_tokens:,}", f"{pool.option.cache_tokens:,}"]
        )  # fmt: skip
    write_table(columns, rows)


def _print_figures(plan: ServingPlan) -> None:
    best, slo = plan.recommended, plan.question.slo
    heads = [f"SIM. {replay.times:g}x" for replay in plan.replays]
    columns = [Column(head=""), Column(head="PREDICTED", right=True), Column(head="9 IN 10 WITHIN", right=True)]
    columns += [Column(head=head, right=True) for head in heads]
    columns += [Column(head="PROMISE", right=True)]
    reports = [replay.report for replay in plan.replays]
    percentile = f"p{slo.percentile:g}"
    rows = [
        [f"TTFT {percentile}", *_predicted(best.ttft_s), *(duration(r.ttft_s.p99) for r in reports), _promise(slo.ttft_s)],
        [f"TPOT {percentile}", *_predicted(best.tpot_s), *(duration(r.tpot_s.p99) for r in reports), _promise(slo.tpot_s)],
        [f"E2E {percentile}", *_predicted(best.e2e_s), *(duration(r.e2e_s.p99) for r in reports), _promise(slo.e2e_s)],
        ["TTFT mean", duration(best.ttft_mean_s), "", *(duration(r.ttft_s.mean) for r in reports), ""],
        ["TPOT mean", duration(best.tpot_mean_s), "", *(duration(r.tpot_s.mean) for r in reports), ""],
        ["KV cache in use, at most", "", "", *(f"{r.cache_used_max:.0%}" for r in reports), ""],
        ["req/s it bears", figure(plan.capacity_rps.typical), _span(plan.capacity_rps, figure), *("" for _ in reports), ""],
        ["tokens out/s per GPU", figure(best.tokens_per_s_per_device), "", *("" for _ in reports), ""],
        ["$ per million tokens out", f"{best.usd_per_million_tokens:,.2f}", "", *("" for _ in reports), ""],
        ["kW of the GPUs", figure(best.watts / 1e3), "", *("" for _ in reports), ""],
    ]  # fmt: skip
    write_table(columns, rows)


def _print_frontier(plan: ServingPlan) -> None:
    """Print some of the frontier, evenly spread over it."""
    frontier = plan.frontier
    if not frontier:
        return
    shown = _spread(frontier, MOST_FRONTIER)
    click.echo(
        f"\nFrontier: no layout beats these in everything ({len(shown)} of {len(frontier)} shown; {len(plan.points):,} looked at)"
    )
    columns = [
        Column(head="TPOT", right=True), Column(head="TTFT", right=True), Column(head="TOK/S/GPU", right=True),
        Column(head="$/M TOK", right=True), Column(head="REQ/S", right=True), Column(head="GPUS", right=True),
        Column(head="LAYOUT", fold=True),
    ]  # fmt: skip
    from plenum.planning.serving.reasons import layout_words

    rows = [
        [duration(p.tpot_s.typical), duration(p.ttft_s.typical), f"{p.tokens_per_s_per_device:,.0f}", f"{p.usd_per_million_tokens:,.2f}",
         f"{figure(p.rate_rps)}", p.devices, layout_words(p.layout)]
        for p in shown
    ]  # fmt: skip
    write_table(columns, rows)


def _spread(frontier: Sequence[Point], most: int) -> list[Point]:
    if len(frontier) <= most:
        return list(frontier)
    step = (len(frontier) - 1) / (most - 1)
    return [frontier[round(i * step)] for i in range(most)]


def _print_drivers(plan: ServingPlan) -> None:
    if not plan.drivers:
        return
    click.echo("\nWhat would give more, within the same promises:")
    columns = [Column(head="CHANGE", fold=True), Column(head="REQ/S", right=True), Column(head="GAIN", right=True)]
    rows = [[d.name, f"{figure(d.rate_rps)}", f"{d.gain:+.1%}"] for d in plan.drivers[:MOST_DRIVERS]]
    write_table(columns, rows)


def _print_around(plan: ServingPlan) -> None:
    from plenum.planning.surroundings import shown

    around = plan.around
    racks = f" in {around.racks} racks" if around.racks > 1 else " in one rack" if around.racks else ""
    click.echo(
        f"\nAround the GPUs: {around.servers} server{'s' * (around.servers != 1)}{racks}, {figure(around.meter_w / 1e3)} kW at the meter."
    )
    columns = [Column(head="A SERVER NEEDS"), *(Column(head=head, right=True) for head in ("AMOUNT", "BRINGS", "USED"))]
    rows = [[n.resource, shown(n.needed, n.unit), shown(n.brought, n.unit), f"{n.share:.0%}"] for n in around.needs]
    write_table(columns, rows)


def _print_chart(plan: ServingPlan) -> None:
    from plenum.cli import charts
    from plenum.cli.plan_serving_plot import panels_of

    if not charts.has_terminal_charts() or (terminal_width() or charts.TERMINAL_SIZE[0]) < charts.TERMINAL_SIZE[0]:
        return
    click.echo()
    click.echo(charts.terminal_text(panels_of(plan)[0], colour=sys.stdout.isatty()))


# -- for programs ------------------------------------------------------------------------------------------------------


def write_plan(plan: ServingPlan, label: str, written: Sequence[Path]) -> None:
    """Write the plan for programs."""
    question = plan.question
    write_json(
        {
            "question": {
                "model": question.model.name,
                "engine": question.engine,
                "hardware": {stock.hardware.name: stock.count or None for stock in question.stocks},
                "traffic": asdict(question.traffic) | {"label": label},
                "promises": asdict(question.slo),
                "max_usd_per_hour": question.usd_per_hour,
            },
            "recommended": _point(plan.recommended),
            "capacity_rps": plan.capacity_rps._asdict(),
            "headroom": plan.headroom,
            "verified": plan.verified,
            "breaks": asdict(plan.breaks),
            "reasons": list(plan.reasons),
            "drivers": [asdict(driver) | {"gain": driver.gain} for driver in plan.drivers],
            "replays": [asdict(replay) for replay in plan.replays],
            "trials": [
                {
                    "rate_rps": t.rate_rps,
                    "keeps": t.keeps,
                    "ttft_p99_s": t.report.ttft_s.p99,
                    "tpot_p99_s": t.report.tpot_s.p99,
                }
                for t in plan.trials
            ],
            "alternatives": [_point(point) for point in plan.alternatives],
            "frontier": [_point(point) for point in plan.frontier],
            "around": asdict(plan.around),
            "steps": [asdict(step) for step in plan.steps],
            "options": plan.options,
            "tried": plan.tried,
            "written": [str(path) for path in written],
        }
    )


def _point(point: Point) -> dict[str, Any]:
    return {
        "pools": [
            {
                "role": pool.role,
                "count": pool.count,
                "hardware": pool.option.hardware.name,
                "devices_each": pool.option.devices,
                "parallelism": asdict(pool.option.instance.parallelism),
                "precision": asdict(pool.option.instance.precision),
                "settings": asdict(pool.option.instance.settings),
                "share": pool.share,
                "cache_tokens": pool.option.cache_tokens,
            }
            for pool in point.layout.pools
        ],
        "devices": point.devices,
        "usd_per_hour": point.usd_per_hour,
        "rate_rps": point.rate_rps,
        "ttft_s": point.ttft_s._asdict(),
        "tpot_s": point.tpot_s._asdict(),
        "e2e_s": point.e2e_s._asdict(),
        "ttft_mean_s": point.ttft_mean_s,
        "tpot_mean_s": point.tpot_mean_s,
        "e2e_mean_s": point.e2e_mean_s,
        "tokens_per_s": point.tokens_per_s,
        "tokens_per_s_per_device": point.tokens_per_s_per_device,
        "usd_per_million_tokens": point.usd_per_million_tokens,
        "watts": point.watts,
        "meets": point.meets,
    }


# -- words -------------------------------------------------------------------------------------------------------------


def _predicted(interval: Interval) -> tuple[str, str]:
    return duration(interval.typical), _span(interval, duration)


def _span(interval: Interval, show: Any) -> str:
    return f"{show(interval.low)} - {show(interval.high)}"


def _promise(seconds: float) -> str:
    return duration(seconds) if math.isfinite(seconds) else ""
