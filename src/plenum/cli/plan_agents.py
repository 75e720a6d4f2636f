"""``plenum plan agents``: what agents ask of accelerators."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_agent, complete_hardware, complete_model
from plenum.cli.console import choose_output, write_json
from plenum.cli.instance_options import MODEL_HELP, described_by, spread_options
from plenum.cli.serving_cluster import instance_of
from plenum.cli.units import COUNT, SECONDS, Number
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.planning.agents import AgentKind
    from plenum.serving.instance import Instance

SAMPLE = 100
"""Queries that the means are taken over, unless told otherwise."""

MAX_COUNTS = 8


@click.command()
@click.option(
    "--agent",
    "agents",
    multiple=True,
    help="A kind of agent; may be repeated.  [default: all that are known]",
    shell_complete=complete_agent,
)
@click.option("--model", default="Llama-3.1-8B", show_default=True, help=MODEL_HELP, shell_complete=complete_model)
@click.option(
    "--hardware",
    default="A100-40GB",
    show_default=True,
    help="Accelerator, such as H100.",
    shell_complete=complete_hardware,
)
@spread_options
@click.option(
    "--batch", type=click.IntRange(1, 4096), default=16, show_default=True, help="Calls that decode together."
)
@click.option(
    "--concurrency",
    default="1,4,16",
    show_default=True,
    metavar="N,…",
    help="Agents at once to tell the idle share at.",
)
@click.option("--tool-time", type=SECONDS, help="Mean time of a tool, such as 3s, instead of the assumed ones.")
@click.option("--queries-per-day", type=COUNT, default="71.4M", show_default=True, help="To be served.")
@click.option("--wh", type=Number(0, 1e9), help="Measured Wh a query: then only the power is told.")
@click.option(
    "--pue",
    type=Number(1, 5),
    default=1.0,
    show_default=True,
    help="Power of the site over that of the GPUs.",
)
@click.option(
    "--sample", type=click.IntRange(1, 10_000), default=SAMPLE, show_default=True, help="Queries to draw of each kind."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@choose_output
def command(**options: Any) -> None:
    """Size for agents: calls, tokens, seconds and energy of a query; how tools leave accelerators idle; watts for a day's queries.

    Queries are drawn from the call graph of each kind of agent and costed with the performance model. Published measurements stand
    beside them.

    \b
    plenum plan agents
    plenum plan agents --agent react --agent lats --model Llama-3.1-70B --hardware A100-40GB --tp 8 --concurrency 1,8,32
    plenum plan agents --queries-per-day 71.4M --wh 348.41
    """
    from plenum.planning.agent_sizing import power_w

    per_day = options["queries_per_day"]
    if options["wh"] is not None:
        watts = power_w(per_day, options["wh"], pue=options["pue"])
        if options["output"] == "json":
            write_json(
                {"queries_per_day": per_day, "wh_per_query": options["wh"], "pue": options["pue"], "power_w": watts}
            )
        else:
            click.echo(
                f"{per_day:,.0f} queries/day x {options['wh']:g} Wh / 24 h{_pue(options['pue'])} = {_watts(watts)}"
            )
        return
    counts = _counts(options["concurrency"])
    instance = instance_of(described_by(options))
    rows = [_row(kind, instance, counts, per_day, options) for kind in _kinds(options["agents"], options["tool_time"])]
    published = _published(per_day, options["pue"])
    if options["output"] == "json":
        write_json(
            {
                "model": instance.model.name,
                "hardware": instance.hardware.name,
                "devices": instance.devices,
                "batch": options["batch"],
                "queries_per_day": per_day,
                "agents": rows,
                "published": published,
            }
        )
        return
    _print(rows, published, instance, counts, per_day, options)


def _row(
    kind: AgentKind, instance: Instance, counts: list[int], per_day: float, options: dict[str, Any]
) -> dict[str, Any]:
    import numpy as np

    from plenum.planning import agent_sizing as sizing
    from plenum.planning.agents import agent_requests, calls_of, mean_context
    from plenum.serving.roofline import compile_steps

    workload = agent_requests(kind, np.zeros(options["sample"]), np.random.default_rng(options["seed"]))
    steps = compile_steps(instance)
    cached, whole = (
        sizing.cost_of_query(workload, steps, batch=options["batch"], reuse=reuse) for reuse in (True, False)
    )
    watts = sizing.power_w(per_day, cached.energy_wh, pue=options["pue"])
    return {
        "agent": kind.name,
        "source": kind.source,
        "calls_expected": calls_of(kind),
        **asdict(cached),
        "energy_alone_wh": sizing.cost_of_query(workload, steps).energy_wh,
        "llm_s": cached.llm_s,
        "tool_share": cached.tool_share,
        "prefill_s_without_reuse": whole.prefill_s,
        "context_tokens": mean_context(workload),
        "idle_batched": {str(n): sizing.idle_batched(n, cached.llm_s, cached.tool_s) for n in counts},
        "idle_alone": {str(n): sizing.idle_alone(n, cached.llm_s, cached.tool_s) for n in counts},
        "agents_to_keep_busy": sizing.agents_to_keep_busy(cached.llm_s, cached.tool_s),
        "power_w": watts,
        "devices_at_peak_rate": per_day / 86_400 * cached.device_s * instance.devices,
    }


def _published(per_day: float, pue: float) -> list[dict[str, Any]]:
    from plenum.planning.agent_sizing import power_w
    from plenum.planning.published import QUERY_WH

    return [
        {"model": model, "workload": workload, "wh_per_query": wh, "power_w": power_w(per_day, wh, pue=pue)}
        for (model, workload), wh in QUERY_WH.items()
    ]


def _kinds(names: tuple[str, ...], tool_s: float | None) -> list[AgentKind]:
    import difflib

    from plenum.planning.published import AGENT_KINDS

    for name in names:
        if name not in AGENT_KINDS:
            near = difflib.get_close_matches(name[:60], AGENT_KINDS, 3, 0.4) or list(AGENT_KINDS)
            raise FieldError("--agent", f"there is no kind of agent {name[:60]!r}; nearest: {', '.join(near)}")
    kinds = [AGENT_KINDS[name] for name in dict.fromkeys(names)] or list(AGENT_KINDS.values())
    return kinds if tool_s is None else [replace(kind, tool_s=tool_s) for kind in kinds]


def _counts(text: str) -> list[int]:
    parts = text.split(",")
    if (
        not all(part.isascii() and part.strip().isdigit() and 1 <= int(part.strip()[:8]) <= 1_000_000 for part in parts)
        or len(parts) > MAX_COUNTS
    ):
        raise FieldError(
            "--concurrency", f"must be up to {MAX_COUNTS} numbers of agents such as 1,4,16, not {text[:60]!r}"
        )
    return [int(part) for part in parts]


def _pue(pue: float) -> str:
    return f" x PUE {pue:g}" if pue > 1 else ""


def _watts(watts: float) -> str:
    for size, unit in ((1e9, "GW"), (1e6, "MW"), (1e3, "kW")):
        if watts >= size:
            return f"{watts / size:.4g} {unit}"
    return f"{watts:.0f} W"


def _print(
    rows: list[dict[str, Any]],
    published: list[dict[str, Any]],
    instance: Instance,
    counts: list[int],
    per_day: float,
    options: dict[str, Any],
) -> None:
    from plenum.cli.sentences import write_sentences
    from plenum.cli.tables import Column, write_table

    write_sentences(
        f"{instance.model.name} on {instance.devices} x {instance.hardware.name}, not calibrated for it; means "
        f"of {options['sample']} drawn queries",
        "",
    )
    batch = options["batch"]
    heads = (
        "AGENT",
        "CALLS",
        "PROMPT",
        "REUSED",
        "ANSWER",
        "LLM",
        "TOOLS",
        "WH",
        f"WH IN {batch}",
        "POWER",
        "IDLE %",
    )
    columns = [Column(head=head, right=i > 0) for i, head in enumerate(heads)]
    table = [
        [
            row["agent"],
            f"{row['calls']:.1f}",
            f"{row['prompt_tokens']:,.0f}",
            f"{row['reused_tokens'] / row['prompt_tokens']:.0%}",
            f"{row['output_tokens']:,.0f}",
            f"{row['llm_s']:.1f} s",
            f"{row['tool_s']:.1f} s",
            f"{row['energy_alone_wh']:.2g}",
            f"{row['energy_wh']:.2g}",
            _watts(row["power_w"]),
            " / ".join(f"{100 * share:.0f}" for share in row["idle_batched"].values()),
        ]
        for row in rows
    ]
    write_table(columns, table)
    write_sentences(
        "",
        "prompt and answer: tokens of all calls of a query; LLM: seconds in the model alone; idle: percent of the time in which "
        f"{' / '.join(map(str, counts))} agents all wait for tools at once",
        f"Wh: of a query alone, and where {batch} calls decode together; power: of the latter, {per_day:,.0f} queries a "
        f"day{_pue(options['pue'])}",
        "tokens and tool seconds of the kinds are assumptions, calls are published (arXiv 2506.04301)",
    )
    waits = [row for row in rows if row["tool_share"] > 0]
    if waits:
        worst = max(waits, key=lambda row: row["tool_share"])
        write_sentences(
            f"{worst['agent']} waits for tools {100 * worst['tool_share']:.0f} % of its time; {worst['agents_to_keep_busy']} such "
            "agents at once leave the instance idle no more than 5 %"
        )
    click.echo("\nmeasured (arXiv 2506.04301, table 3; GPUs alone)")
    write_table(
        [
            Column(head="MODEL"),
            Column(head="WORKLOAD"),
            Column(head="WH/QUERY", right=True),
            Column(head="POWER", right=True),
        ],
        [[row["model"], row["workload"], f"{row['wh_per_query']:.2f}", _watts(row["power_w"])] for row in published],
    )
