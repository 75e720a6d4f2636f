"""``plenum simulate serving``: traffic, instances and routing policies in; latencies, utilisation, energy and cost out."""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_routing, complete_traffic
from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import DONE, NO
from plenum.cli.instance_options import described_by, instance_options, pool_options
from plenum.cli.serving_cluster import check_lengths, check_pools, instance_of, serving_of
from plenum.cli.serving_promises import read_promises
from plenum.cli.serving_traffic import OUTPUT_TOKENS, PROMPT_TOKENS, ROUTING, TRACE_HELP, NamedTraffic, traffic_named
from plenum.cli.units import BYTES, LONG_SECONDS, SECONDS, Number, count
from plenum.model.errors import FieldError
from plenum.model.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plenum.cli.serving_cluster import Described
    from plenum.serving.calibration import Calibration
    from plenum.serving.instance import Instance
    from plenum.serving.pools import Serving
    from plenum.serving.workload import Requests, Slo
    from plenum.sim.serving import Outcome, Policies

MAX_POLICIES = 16
MAX_FAILURES = 1_000
MAX_SEED = 2**63 - 1
SLICE = 100_000
"""Iterations and events between two looks at how far a run is."""


@click.command()
@instance_options
@pool_options
@click.option(
    "--dram", type=BYTES, default="0", help="Host memory of each instance for cached prefixes, such as 500GB."
)
@click.option("--nvme", type=BYTES, default="0", help="Drives of each instance for cached prefixes, such as 4TB.")
@click.option("--trace", default="poisson:2", show_default=True, help=TRACE_HELP, shell_complete=complete_traffic)
@click.option("--isl", metavar="TOKENS[:VARIATION]", help="Prompts of invented traffic.  [default: 1024]")
@click.option("--osl", metavar="TOKENS[:VARIATION]", help="Outputs of invented traffic.  [default: 256]")
@click.option("--duration", type=LONG_SECONDS, help="So much of the trace.  [default: all; 10m where invented]")
@click.option(
    "--scale", type=Number(0, 1000, min_open=True), default=1.0, show_default=True, help="Times the load of the trace."
)
@click.option("--limit", type=click.IntRange(1), help="Only so many first requests.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the public traces.")
@click.option(
    "--routing",
    default="prefix-aware",
    show_default=True,
    metavar="POLICY,…",
    help=f"Run each of: {', '.join(ROUTING)}.",
    shell_complete=complete_routing,
)
@click.option("--ttft-p99", type=LONG_SECONDS, help="Promise: time to first token, such as 500ms.")
@click.option("--tpot-p99", type=LONG_SECONDS, help="Promise: time per output token, such as 40ms.")
@click.option("--e2e-p99", type=LONG_SECONDS, help="Promise: time to the last token.")
@click.option("--slo", help="Promises of another percentile instead, such as ttft-p90=500ms,tpot-p90=40ms.")
@click.option("--admission", is_flag=True, help="Admit, cap, defer or refuse by what is predicted and promised.")
@click.option(
    "--cheaper",
    metavar="MODEL[:REPLICAS]",
    help="With --admission: a smaller model beside it that answers where the promise would be missed.",
)
@click.option("--autoscale", metavar="MIN-MAX", help="Replicas follow the load (of each pool, where they are apart).")
@click.option(
    "--cold-start", type=SECONDS, default="60s", show_default=True, help="With --autoscale: until a new replica serves."
)
@click.option(
    "--scale-by",
    type=click.Choice(["load", "slo"]),
    default="load",
    show_default=True,
    help="With --autoscale: to even load, or to what keeps the promises for what arrives.",
)
@click.option("--device-budget", type=click.IntRange(1), help="With --autoscale: devices that may be on in all.")
@click.option("--fail", "fails", multiple=True, metavar="AT:INSTANCE[:FOR]", help="Such as 5m:3:90s. May be repeated.")
@click.option(
    "--preemption",
    type=click.Choice(["recompute", "swap"]),
    default="recompute",
    show_default=True,
    help="What becomes of a cache that has to make room.",
)
@click.option("--calibration", type=click.Path(path_type=Path), help="A file that `plenum plan calibrate` wrote.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of everything random.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the latencies into this PNG.")
@click.option("--chart/--no-chart", default=True, help="Draw the times to the first token in the terminal too.")
@choose_output
def command(**options: Any) -> None:
    """Simulate LLM serving, iteration by iteration, with a trace or with invented traffic.

    Says what users would see (times to the first token, between tokens, to the end), what was used, and what it costs. With several
    routing policies each is run on the same traffic, side by side. Exits with 1 where something was promised and no run keeps it, where
    no request could be served, or where the model does not fit.

    \b
    plenum simulate serving --model llama-3.1-70b --hardware H100 --tp 4 --replicas 8 \\
        --trace mooncake --dram 1TB --routing random,prefix-aware
    plenum simulate serving --model llama-3.1-8b --hardware L40S --replicas 4 --trace poisson:8 --isl 2000 --osl 300
    plenum simulate serving --model llama-3.1-8b --hardware H100 --autoscale 1-8 --scale-by slo \\
        --trace azure-conv --ttft-p99 1s --tpot-p99 40ms
    plenum simulate serving --model llama-3.1-70b --hardware H200 --tp 4 --prefill 6 --decode 2 \\
        --trace azure-conv --scale 1.3 --ttft-p99 500ms --tpot-p99 40ms
    """
    from plenum.cli import charts
    from plenum.cli.serving_figures import as_json, draw, print_run

    if options["plot"]:
        charts.check_png(options["plot"])
    slo = _promised(options)
    cluster = _cluster(options)
    names = _names(options["routing"])
    policies = {name: _policies(options, name, cluster.count, slo) for name in names}
    traffic = traffic_named(
        options["trace"],
        prompts=options["isl"],
        outputs=options["osl"],
        duration_s=options["duration"],
        scale=options["scale"],
        limit=options["limit"],
        seed=options["seed"],
        data=options["data"],
    )
    _check_invented(options, cluster.instance)
    serving = cluster.serving(traffic.requests)
    _check_budget(options, serving)
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


def _promised(options: dict[str, Any]) -> Slo:
    given = {name: options[f"{name}_p99"] for name in ("ttft", "tpot", "e2e") if options[f"{name}_p99"] is not None}
    if given and options["slo"]:
        raise FieldError(
            "--slo", f"says all promises, or none; leave out --{next(iter(given))}-p99, or the other way round"
        )
    return read_promises(options["slo"] or ",".join(f"{name}-p99={value!r}" for name, value in given.items()))


def _check_invented(options: dict[str, Any], instance: Instance) -> None:
    """Refuse lengths that no engine would take; of a trace whatever is too long is counted instead."""
    if options["isl"] or options["osl"]:
        usual = (("isl", PROMPT_TOKENS), ("osl", OUTPUT_TOKENS))
        check_lengths(instance, *(count((options[n] or str(k)).partition(":")[0]) for n, k in usual))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    """What serves, as far as options say it: the rest depends on the lengths of the traffic."""

    instance: Instance
    replicas: int | None
    prefill: int | None
    decode: int | None
    dram_bytes: int
    nvme_bytes: int
    calibration: Calibration | None = None
    cheaper: Instance | None = None
    cheaper_replicas: int = 0

    @property
    def count(self) -> int:
        return (
            self.prefill + self.decode if self.prefill and self.decode else self.replicas or 1
        ) + self.cheaper_replicas

    def serving(self, requests: Requests) -> Serving:
        """Return the pools, with corrections about the mean lengths of the requests; the smaller model's beside the others."""
        isl, osl = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
        serving = serving_of(
            self.instance,
            replicas=self.replicas,
            prefill=self.prefill,
            decode=self.decode,
            dram_bytes=self.dram_bytes,
            nvme_bytes=self.nvme_bytes,
            isl=isl,
            osl=osl,
            calibration=self.calibration,
        )
        if self.cheaper is None:
            return serving
        other = serving_of(
            self.cheaper,
            replicas=self.cheaper_replicas,
            prefill=None,
            decode=None,
            isl=isl,
            osl=osl,
            calibration=self.calibration,
        ).pools[0]
        return replace(serving, pools=(*serving.pools, replace(other, model=1)))


def _cluster(options: dict[str, Any]) -> _Cluster:
    from plenum.adapters.calibrations import read_calibration

    span = _span(options["autoscale"]) if options["autoscale"] else None
    replicas, prefill, decode = options["replicas"], options["prefill"], options["decode"]
    if span and replicas:
        raise FieldError(
            "--autoscale", f"{options['autoscale']} says how many replicas there are; leave out --replicas"
        )
    check_pools(replicas, prefill, decode)
    if span:
        if prefill or decode:
            prefill, decode = max(prefill, span[1]), max(decode, span[1])
        else:
            replicas = span[1]
    described = described_by(options)
    cheaper, cheaper_replicas = _cheaper(described, options) if options["cheaper"] else (None, 0)
    return _Cluster(
        instance=instance_of(described),
        replicas=replicas,
        prefill=prefill,
        decode=decode,
        dram_bytes=int(options["dram"]),
        nvme_bytes=int(options["nvme"]),
        calibration=read_calibration(options["calibration"]) if options["calibration"] else None,
        cheaper=cheaper,
        cheaper_replicas=cheaper_replicas,
    )


def _cheaper(described: Described, options: dict[str, Any]) -> tuple[Instance, int]:
    """Return an instance of the smaller model, on the same devices, and how many."""
    if not options["admission"]:
        raise FieldError("--cheaper", "is offered by admission; add --admission")
    name, _, replicas = options["cheaper"].rpartition(":")
    if not (name and re.fullmatch(r"\d{1,5}", replicas)):
        name, replicas = options["cheaper"], "1"
    return instance_of(replace(described, model=name, weights=None)), int(replicas) or 1


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",", MAX_POLICIES + 1)))
    if len(names) > MAX_POLICIES:
        raise FieldError("--routing", f"compares at most {MAX_POLICIES} policies")
    for name in names:
        if name not in ROUTING:
            near = difflib.get_close_matches(name, ROUTING, 1, 0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise FieldError("--routing", f"there is no policy {name[:60]!r}; {hint}choose from {', '.join(ROUTING)}")
    return names


def _policies(options: dict[str, Any], routing: str, instances: int, slo: Slo) -> Policies:
    from plenum.sim.serving import Admission, Policies, Scaling

    span = _span(options["autoscale"]) if options["autoscale"] else None
    _check_scaling(options, slo)
    cheaper = (1, -1) if options["cheaper"] else ()
    return Policies(
        routing=routing,
        preemption=options["preemption"],
        admission=Admission(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s, cheaper=cheaper) if options["admission"] else None,
        scaling=Scaling(
            by=options["scale_by"],
            ttft_s=slo.ttft_s,
            tpot_s=slo.tpot_s,
            budget_devices=options["device_budget"] or 0,
            least=span[0],
            initial=span[0],
            cold_start_s=options["cold_start"],
        )
        if span
        else None,
        failures=_failures(options["fails"], instances),
    )


def _check_scaling(options: dict[str, Any], slo: Slo) -> None:
    for option, given in (("--scale-by", options["scale_by"] != "load"), ("--device-budget", options["device_budget"])):
        if given and not options["autoscale"]:
            raise FieldError(option, "says how replicas are scaled; add --autoscale MIN-MAX")
    if options["scale_by"] == "slo" and slo.ttft_s == slo.tpot_s == float("inf"):
        raise FieldError("--scale-by", "slo needs a promise of first tokens or of tokens; add --ttft-p99 or --tpot-p99")


def _check_budget(options: dict[str, Any], serving: Serving) -> None:
    if not options["device_budget"]:
        return
    least = sum(min(_span(options["autoscale"])[0], pool.count) * pool.instance.devices for pool in serving.pools)
    if options["device_budget"] < least:
        raise FieldError("--device-budget", f"must hold the fewest replicas of --autoscale, which take {least} devices")


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
    from plenum.cli.compiled import load_simulator
    from plenum.cli.progress import bar
    from plenum.sim.serving import Simulation

    load_simulator()
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

    kept = [
        outcome.finished.any() and all(row.kept for row in promises_kept(outcome, slo)) for outcome in outcomes.values()
    ]
    return DONE if any(kept) else NO


def _title(options: dict[str, Any], traffic: NamedTraffic) -> str:
    return f"{options['model']} on {options['hardware']}, {traffic.label}"
