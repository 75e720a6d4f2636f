"""``plenum plan prefill``: what to send to a remote prefill cluster, and how to split the instances that stay."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_model, complete_preset
from plenum.cli.console import choose_output, write_json
from plenum.cli.fields import fields_as_options
from plenum.cli.sentences import write_sentences
from plenum.cli.units import Number
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.planning.prefill.split import PrefillAnswer, PrefillPlan, PrefillScenario

SIMULATED, OVERLOAD = 6000, 1.3
"""Prompts of a simulated run, and the part of the plan's rate that is asked to see what is served."""

MOST_TIMES = 1000.0
"""Beyond it a ratio says only that the least serves next to nothing."""


@click.command()
@click.option("--preset", default="prfaas-paper", show_default=True, help="A published case to start from.",
              shell_complete=complete_preset)  # fmt: skip
@click.option("--remote", type=click.IntRange(0), help="Instances of the remote site, which only prefill.")
@click.option("--local", type=click.IntRange(1), help="Instances of the local site, to prefill or to decode.")
@click.option("--link", metavar="RATE", help="From the remote site to the local one, such as 100Gb/s.")
@click.option("--lengths", metavar="MU,SIGMA,LEAST,MOST", help="Prompts: a truncated lognormal of their tokens.")
@click.option(
    "--trace",
    metavar="TRAFFIC",
    help="Prompts and mean answer of a trace: azure-conv, mooncake, or a CSV or JSONL file.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the public traces.")
@click.option("--osl", type=Number(1, 1e7), help="Mean tokens of an answer.")
@click.option("--remote-points", metavar="T:S,…", help="Measured prefill of a remote instance: tokens and seconds.")
@click.option("--local-points", metavar="T:S,…", help="The same of a local instance.")
@click.option(
    "--cache-points", metavar="T:BYTES,…", help="KV cache of a prompt: tokens and bytes (such as 32000:700MiB)."
)
@click.option("--decode", type=Number(0, 1e9, min_open=True), help="Tokens a second that a local instance decodes.")
@click.option(
    "--model", help="Curves come from the performance model for this one instead.", shell_complete=complete_model
)
@click.option("--remote-hardware", metavar="NxNAME", help="With --model: one remote instance, such as 8xH200.")
@click.option("--local-hardware", metavar="NxNAME", help="With --model: one local instance, such as 8xH20.")
@click.option(
    "--speed",
    type=Number(0, min_open=True),
    default=40.0,
    show_default=True,
    help="Tokens a second promised to each answer (with --model and --simulate).",
)
@click.option(
    "--mean",
    "averaging",
    type=click.Choice(["time", "length"]),
    default="time",
    show_default=True,
    help="A cluster is as fast as the mean of its prompts' times, or as a prompt of mean length (as the paper has it).",
)
@click.option("--threshold", type=Number(0, 1e9), help="Judge this threshold instead of finding one (with --prefill).")
@click.option(
    "--prefill", type=click.IntRange(0), help="Judge this number of local prefill instances (with --threshold)."
)
@click.option(
    "--load", type=Number(0, 0.999), default=0.8, show_default=True, help="Part of the rate to tell waits at."
)
@click.option("--simulate", is_flag=True, help="Let the simulator check the plan, beyond its rate and at --load of it.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the simulated prompts.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw throughput over the threshold into this PNG.")
@choose_output
def command(**options: Any) -> None:
    """Split prefill between a remote prefill cluster and a local one that also decodes.

    Prompts longer than a threshold are computed at the remote site, and their KV cache crosses the link. Every split of the local
    instances and every threshold is tried; the answer says what binds, and what a little more of each thing would bring.

    \b
    plenum plan prefill
    plenum plan prefill --remote 6 --link 25Gb/s --plot threshold.png
    plenum plan prefill --model Qwen3-235B-A22B --remote-hardware 8xH200 --local-hardware 8xH20 --remote 4 --local 8
    """
    from plenum.cli import charts
    from plenum.cli.prefill_scenario import scenario_of
    from plenum.planning.prefill.split import plan_at, plan_prefill

    if options["plot"]:
        charts.check_png(options["plot"])
    with fields_as_options():
        title, source, scenario, homogeneous = scenario_of(options)
        answer = plan_prefill(scenario)
    shown = answer.best
    if (options["threshold"] is None) != (options["prefill"] is None):
        raise FieldError("--threshold", "goes with --prefill: both together are a split to judge")
    if options["threshold"] is not None:
        with fields_as_options(prefill_instances="--prefill", threshold_tokens="--threshold"):
            shown = plan_at(scenario, threshold_tokens=options["threshold"], prefill_instances=options["prefill"])
    if options["plot"]:
        _draw(options["plot"], title, scenario, answer)
    checked = _simulated(scenario, shown, options) if options["simulate"] and shown.rps > 0 else None
    if options["output"] == "json":
        told = _as_json(title, source, scenario, answer, shown, homogeneous, options["load"])
        write_json(told | ({"simulated": checked} if checked else {}))
        return
    _print(title, source, scenario, answer, shown, homogeneous, options["load"])
    if checked:
        write_sentences(
            f"simulated: {_rps(checked['rps'])} req/s when more are asked ({100 * (checked['rps'] / shown.rps - 1):+.1f} %); at "
            f"{options['load']:.0%} TTFT {checked['ttft_mean_s']:.2f} s, p90 {checked['ttft_p90_s']:.2f} s, "
            f"{checked['wait_mean_s']:.2f} s of it waiting"
        )
    if options["plot"]:
        click.echo(f"plot: {options['plot']}")


def _rivals(scenario: PrefillScenario, homogeneous: int) -> dict[str, PrefillPlan]:
    from plenum.planning.prefill.split import all_local, all_remote

    rivals = {}
    if scenario.remote_instances:
        rivals["all remote"] = all_remote(scenario)
    local = homogeneous or scenario.local_instances
    if local > 1:
        rivals[f"{local} local only"] = all_local(scenario, local)
    return rivals


def _simulated(scenario: PrefillScenario, plan: PrefillPlan, options: dict[str, Any]) -> dict[str, float]:
    import numpy as np

    from plenum.cli.compiled import load_simulator
    from plenum.planning.prefill.check import serving_of, traffic_of
    from plenum.sim.serving import Policies, simulate

    threshold = int(plan.threshold_tokens) if plan.remote_share > 0 else -1
    serving = serving_of(scenario, plan, tokens_per_s=options["speed"])
    rng = np.random.default_rng(options["seed"])
    policies = Policies(remote_above_tokens=threshold)

    load_simulator()
    full, part = (
        simulate(traffic_of(scenario, SIMULATED, load * plan.rps, rng), serving, policies, seed=options["seed"])
        for load in (OVERLOAD, max(options["load"], 0.01))
    )
    finish = np.sort(full.finish_s[full.finished])
    first, last = len(finish) // 5, 4 * len(finish) // 5  # neither filling up nor running dry
    return {
        "rps": float((last - first) / (finish[last] - finish[first])),
        "ttft_mean_s": float(np.nanmean(part.ttft_s)),
        "ttft_p90_s": float(np.nanquantile(part.ttft_s, 0.9)),
        "wait_mean_s": float(np.nanmean(part.queue_s)),
    }


def _as_json(
    title: str,
    source: str,
    scenario: PrefillScenario,
    answer: PrefillAnswer,
    shown: PrefillPlan,
    homogeneous: int,
    load: float,
) -> dict[str, Any]:
    from plenum.planning.prefill.split import gains, queueing_s

    wait = queueing_s(scenario, shown, load * shown.rps)
    return {
        "title": title,
        "source": source,
        "lengths": {"label": scenario.lengths.label, "mean_tokens": scenario.lengths.mean},
        "plan": asdict(shown) | {"load": load, "wait_mean_s": wait},
        "best": asdict(answer.best),
        "splits": [asdict(plan) for plan in answer.splits],
        "compared": {name: asdict(plan) for name, plan in _rivals(scenario, homogeneous).items()},
        "gains": gains(scenario),
    }


def _print(
    title: str,
    source: str,
    scenario: PrefillScenario,
    answer: PrefillAnswer,
    shown: PrefillPlan,
    homogeneous: int,
    load: float,
) -> None:
    from plenum.cli.tables import Column, write_table
    from plenum.planning.prefill.split import gains, queueing_s

    write_sentences(title, f"{source}; prompts {scenario.lengths.label}, mean {scenario.lengths.mean:,.0f} tokens", "")
    rivals = _rivals(scenario, homogeneous)
    name = "found" if shown is answer.best else "given"
    rows = {name: shown} | ({} if shown is answer.best else {"best": answer.best}) | rivals
    least = min(plan.rps for plan in rows.values()) or float("nan")
    heads = ("SYSTEM", "THRESHOLD", "P + D", "AWAY", "REQ/S", "RATIO", "LINK", "TTFT, P90")
    columns = [Column(head=head, right=i > 0, fold=i == 0) for i, head in enumerate(heads)]
    columns.append(Column(head="BINDS", fold=True))
    write_table(columns, [[label, *_cells(plan, least), ", ".join(plan.bounds)] for label, plan in rows.items()])
    sentences = _reasons(scenario, shown)
    if shown.rps > 0:
        wait = queueing_s(scenario, shown, load * shown.rps)
        rate = f"at {load:.0%} of that rate ({_rps(load * shown.rps)} req/s)"
        sentences.append(f"{rate} prompts wait {wait:.2f} s on average before prefill")
    more = ", ".join(f"{what} {100 * (factor - 1):+.1f} %" for what, factor in gains(scenario).items())
    write_sentences("", *sentences, f"what more would bring: {more}")


def _cells(plan: PrefillPlan, least: float) -> list[str]:
    return [
        _threshold(plan.threshold_tokens),
        f"{plan.prefill_instances} + {plan.decode_instances}",
        f"{plan.remote_share:.0%}",
        _rps(plan.rps),
        f"{plan.rps / least:.2f}x" if plan.rps < MOST_TIMES * least else "-",
        f"{plan.egress_bytes_per_s * 8e-9:.1f} Gb/s",
        f"{plan.ttft_mean_s:.2f}, {plan.ttft_p90_s:.2f} s",
    ]


def _rps(rate: float) -> str:
    """Write a rate with two digits behind the point, or three in all where that would be nothing."""
    return f"{rate:.2f}" if rate >= 0.1 or rate == 0 else f"{rate:.3g}"


def _threshold(tokens: float) -> str:
    return "none away" if tokens == float("inf") else "all away" if tokens == 0 else f"{tokens:,.0f}"


def _reasons(scenario: PrefillScenario, plan: PrefillPlan) -> list[str]:
    lines = [
        f"requests that each part could take: remote prefill {_of(plan.remote_rps, plan.remote_share)}, link "
        f"{_of(plan.link_rps, plan.remote_share)}, local prefill {_of(plan.local_rps, 1 - plan.remote_share)}, decode "
        f"{_rps(plan.decode_rps)} a second"
    ]
    away = [name for name in plan.bounds if name in ("remote prefill", "link")]
    if away and "local prefill" in plan.bounds:
        lines.append(
            f"why this threshold: prompts above it have {plan.remote_tokens:,.0f} tokens on average, the others "
            f"{plan.local_tokens:,.0f}; a lower one overloads {' and '.join(away)}, a higher one local prefill"
        )
    elif plan.bounds:
        lines.append(f"what binds is {' and '.join(plan.bounds)}; the rest has room")
    if plan.rps > 0 and plan.decode_rps < float("inf"):
        used = plan.egress_bytes_per_s / scenario.link_bytes_per_s
        lines.append(f"decode is used to {plan.rps / plan.decode_rps:.0%}, the link to {used:.0%}")
    return lines


def _of(rps: float, share: float) -> str:
    if share <= 0:
        return "(none asked)"
    return f"{_rps(rps)}/{share:.3f} = {_rps(rps / share)}" if rps < float("inf") else "any"


def _draw(path: Path, title: str, scenario: PrefillScenario, answer: PrefillAnswer) -> None:
    import numpy as np

    from plenum.cli import charts
    from plenum.planning.prefill.split import rates_over_thresholds

    inside = (answer.threshold_tokens > 0) & np.isfinite(answer.threshold_tokens)
    x = answer.threshold_tokens[inside] / 1000
    near = sorted(answer.splits, key=lambda plan: -plan.rps)[:4]
    curves = []
    for plan in sorted(near, key=lambda plan: plan.prefill_instances):
        rates = rates_over_thresholds(scenario, plan.prefill_instances)[inside]
        label = f"{plan.prefill_instances} prefill, {plan.decode_instances} decode"
        curves.append(charts.Curve(label=label, x=x, y=rates))
    best = answer.best
    mark = charts.Curve(
        label=f"best: {_rps(best.rps)} req/s at {_threshold(best.threshold_tokens)} tokens",
        x=x,
        y=np.full(len(x), best.rps),
    )
    panel = charts.Panel(
        title="Throughput over the threshold",
        x_label="threshold, thousand tokens",
        y_label="requests/s",
        curves=curves,
        ideal=mark,
    )
    charts.write_png(path, title, (panel,))
