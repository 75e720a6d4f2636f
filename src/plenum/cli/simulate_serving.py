"""``plenum simulate serving``: traffic, instances and routing policies in; latencies, utilisation, energy and cost out."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import DONE, NO
from plenum.cli.serving_cluster import Described, instance_of, instance_options, serving_of
from plenum.cli.serving_promises import EXAMPLE, read_promises
from plenum.cli.serving_traffic import TRACE_HELP, NamedTraffic, traffic_named
from plenum.model.errors import FieldError
from plenum.model.units import parse, parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plenum.serving.pools import Serving
    from plenum.serving.workload import Requests, Slo
    from plenum.sim.serving import Outcome, Policies

ROUTING_WORDS = "round-robin, random, least-loaded, prefix-aware, kv-aware, predicted-latency, session, mooncake"
"""Names of :data:`plenum.serving.routing.POLICIES`, which help must not wait for."""

MAX_POLICIES = 16
MAX_FAILURES = 1_000
MAX_SEED = 2**63 - 1
SLICE = 100_000
"""Iterations and events between two looks at how far a run is."""


@click.command()
@instance_options
@click.option("--replicas", type=click.IntRange(0, 10_000), default=0, help="Instances that prefill and decode.")
@click.option("--prefill", type=click.IntRange(0, 10_000), default=0, help="Instances that only prefill.")
@click.option("--decode", type=click.IntRange(0, 10_000), default=0, help="Instances that only decode.")
@click.option("--dram", help="Host memory of each instance for cached prefixes, such as 500GB.")
@click.option("--nvme", help="Drives of each instance for cached prefixes, such as 4TB.")
@click.option("--trace", default="poisson:2", show_default=True, help=TRACE_HELP)
@click.option("--isl", metavar="TOKENS[:VARIATION]", help="Prompts of invented traffic.  [default: 1024]")
@click.option("--osl", metavar="TOKENS[:VARIATION]", help="Outputs of invented traffic.  [default: 256]")
@click.option("--duration", help="So much of the trace, such as 10m.  [default: all; 10m where invented]")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Times the load of the trace.")
@click.option("--limit", type=click.IntRange(1), help="Only so many first requests.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the public traces.")
@click.option(
    "--routing", default="prefix-aware", show_default=True, help="Policies, separated by commas: all are run."
)
@click.option("--slo", help=f"Promises, such as {EXAMPLE}.")
@click.option("--admission", is_flag=True, help="Admit, cap, defer or refuse by what is predicted and promised.")
@click.option("--autoscale", metavar="MIN-MAX", help="Replicas follow the load (of each pool, where they are apart).")
@click.option("--cold-start", default="60s", show_default=True, help="With --autoscale: until a new replica serves.")
@click.option("--fail", "fails", multiple=True, metavar="AT:INSTANCE[:FOR]", help="Such as 5m:3:90s. May be repeated.")
@click.option(
    "--preemption",
    type=click.Choice(["recompute", "swap"]),
    default="recompute",
    show_default=True,
    help="What becomes of a cache that has to make room.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of everything random.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the latencies into this PNG.")
@click.option("--chart/--no-chart", default=True, help="Draw the times to the first token in the terminal too.")
@choose_output
def command(**options: Any) -> None:
    """Simulate LLM serving, iteration by iteration, with a trace or with invented traffic.

    Says what users would see (times to the first token, between tokens, to the end), what was used, and what it costs. With several
    routing policies each is run on the same traffic, side by side. Exits with 1 where there is an --slo and no run keeps it.

    \b
    plenum simulate serving --model llama-3.1-70b --hardware H100 --tp 4 --replicas 8 \\
        --trace mooncake --dram 1TB --routing random,prefix-aware
    plenum simulate serving --model llama-3.1-8b --hardware L40S --replicas 4 --trace poisson:8 --isl 2000 --osl 300
    plenum simulate serving --model llama-3.1-70b --hardware H200 --tp 4 --prefill 6 --decode 2 \\
        --trace azure-conv --scale 1.3 --slo ttft-p99=500ms,tpot-p99=40ms
    """
    from plenum.cli import charts
    from plenum.cli.serving_figures import as_json, draw, print_run

    if options["plot"]:
        charts.check_png(options["plot"])
    slo = read_promises(options["slo"])
    serving = _serving(options)
    names = _names(options["routing"])
    policies = {name: _policies(options, name, serving, slo) for name in names}
    traffic = traffic_named(
        options["trace"],
        prompts=options["isl"],
        outputs=options["osl"],
        duration_s=parse_duration(options["duration"], "--duration") if options["duration"] else None,
        scale=options["scale"],
        limit=options["limit"],
        seed=options["seed"],
        data=options["data"],
    )
    outcomes, wall_s = _run(traffic.requests, serving, policies, options["seed"])
    if options["plot"]:
        draw(options["plot"], _title(options, traffic), outcomes)
    if options["output"] == "json":
        write_json(as_json(traffic, serving, outcomes, slo, options["seed"], wall_s))
    else:
        print_run(traffic, serving, outcomes, slo, wall_s, chart=options["chart"])
        if options["plot"]:
            click.echo(f"plot: {options['plot']}")
    sys.exit(_verdict(outcomes, slo))


def _serving(options: dict[str, Any]) -> Serving:
    described = Described(**{name: options[name] for name in _INSTANCE})
    span = _span(options["autoscale"]) if options["autoscale"] else None
    replicas, prefill, decode = options["replicas"], options["prefill"], options["decode"]
    if span:
        if replicas:
            raise FieldError(
                "--autoscale", f"{options['autoscale']} says how many replicas there are; leave out --replicas"
            )
        if prefill or decode:
            prefill, decode = max(prefill, span[1]), max(decode, span[1])
        else:
            replicas = span[1]
    sizes = {name: parse(options[name], "bytes", f"--{name}") if options[name] else 0 for name in ("dram", "nvme")}
    return serving_of(
        instance_of(described),
        replicas=replicas,
        prefill=prefill,
        decode=decode,
        dram_bytes=sizes["dram"],
        nvme_bytes=sizes["nvme"],
    )


_INSTANCE = (
    "model",
    "hardware",
    "tp",
    "pp",
    "dp",
    "ep",
    "engine",
    "weights",
    "kv_cache",
    "max_sequences",
    "chunk",
)


def _names(text: str) -> list[str]:
    from plenum.serving.routing import policy_named

    names = list(dict.fromkeys(name.strip() for name in text.split(",", MAX_POLICIES + 1)))
    if len(names) > MAX_POLICIES:
        raise FieldError("--routing", f"compares at most {MAX_POLICIES} policies")
    for name in names:
        policy_named(name)
    return names


def _policies(options: dict[str, Any], routing: str, serving: Serving, slo: Slo) -> Policies:
    from plenum.sim.serving import Admission, Policies, Scaling

    span = _span(options["autoscale"]) if options["autoscale"] else None
    cold_start_s = parse_duration(options["cold_start"], "--cold-start")
    return Policies(
        routing=routing,
        preemption=options["preemption"],
        admission=Admission(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s) if options["admission"] else None,
        scaling=Scaling(least=span[0], initial=span[0], cold_start_s=cold_start_s) if span else None,
        failures=_failures(options["fails"], sum(pool.count for pool in serving.pools)),
    )


def _failures(texts: Sequence[str], instances: int) -> Any:
    from plenum.sim.serving import Failure

    if len(texts) > MAX_FAILURES:
        raise FieldError("--fail", f"may be given at most {MAX_FAILURES} times")
    found = []
    for text in texts:
        at, *rest = text.split(":")
        if not 1 <= len(rest) <= 2 or not re.fullmatch(r"\d{1,6}", rest[0]):
            raise FieldError("--fail", f"must be a time, an instance and how long, such as 5m:3:90s, not {text[:40]!r}")
        number, at_s = int(rest[0]), parse_duration(at, "--fail")
        if number >= instances:
            raise FieldError("--fail", f"there is no instance {number}; they are 0 to {instances - 1}")
        found.append(Failure(at_s=at_s, instance=number))
        if len(rest) == 2:
            back_s = at_s + parse_duration(rest[1], "--fail")
            found.append(Failure(at_s=back_s, instance=number, up=True))
    return tuple(sorted(found, key=lambda failure: failure.at_s))


def _span(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 10_000:
        raise FieldError("--autoscale", f"must be the fewest and the most replicas, such as 2-8, not {text[:40]!r}")
    return int(match[1]), int(match[2])


def _run(
    requests: Requests, serving: Serving, policies: dict[str, Policies], seed: int
) -> tuple[dict[str, Outcome], float]:
    from plenum.cli.progress import bar, compile_note
    from plenum.sim.serving import Simulation
    from plenum.sim.serving.slices import first

    with compile_note("the simulator"):  # or loading what was compiled: so that the bar is about the runs
        Simulation(first(requests, 1), serving, seed=seed).advance()
    outcomes: dict[str, Outcome] = {}
    started_s = perf_counter()
    with bar(len(requests) * len(policies)) as advance:
        for number, (name, policy) in enumerate(policies.items()):
            simulation = Simulation(requests, serving, policy, seed=seed)
            over = False
            while not over:
                over = simulation.advance(SLICE)
                advance(name, number * len(requests) + simulation.over)
            outcomes[name] = simulation.outcome()
    return outcomes, perf_counter() - started_s


def _verdict(outcomes: dict[str, Outcome], slo: Slo) -> int:
    from plenum.cli.serving_figures import promises_kept

    kept = [all(row.kept for row in promises_kept(outcome, slo)) for outcome in outcomes.values()]
    return DONE if any(kept) else NO


def _title(options: dict[str, Any], traffic: NamedTraffic) -> str:
    return f"{options['model']} on {options['hardware']}, {traffic.label}"
