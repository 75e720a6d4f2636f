"""``plenum plan surroundings``: what serving needs around its accelerators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.facts import write_facts
from plenum.cli.tables import Column, write_table

if TYPE_CHECKING:
    from plenum.planning.surroundings import Need, Surroundings

_ABOVE_0 = click.FloatRange(0, min_open=True)


@click.command()
@click.option("--model", required=True, help="A model of `plenum plan models`, a config.json or its folder.")
@click.option("--hardware", required=True, help="An accelerator of `plenum plan hardware`.")
@click.option("--instances", required=True, type=click.IntRange(1, 1_000_000), help="How many instances serve it.")
@click.option("--tp", type=click.IntRange(1, 1024), default=1, show_default=True, help="Devices of one instance.")
@click.option("--format", "form", metavar="FORMAT", help="Of the weights; default: as the publisher ships them.")
@click.option("--rps", required=True, type=click.FloatRange(0), help="Requests a second.")
@click.option("--isl", required=True, type=click.FloatRange(0), help="Mean tokens of prompts.")
@click.option("--osl", required=True, type=click.FloatRange(0), help="Mean tokens of answers.")
@click.option(
    "--busy", type=click.FloatRange(0, 1), default=0.7, show_default=True, help="Part of the time that devices work."
)
@click.option(
    "--dram-tokens", type=click.IntRange(0), default=0, help="Tokens of prefix cache in host memory, of one instance."
)
@click.option("--nvme-tokens", type=click.IntRange(0), default=0, help="The same on its drives.")
@click.option(
    "--load-s", type=_ABOVE_0, default=120.0, show_default=True, help="Seconds in which an instance has its weights."
)
@click.option(
    "--update-s", type=_ABOVE_0, default=1800.0, show_default=True, help="Seconds in which all have a new version."
)
@click.option("--rack-kw", type=_ABOVE_0, default=40.0, show_default=True, help="Kilowatts of one rack.")
@click.option(
    "--pue",
    type=click.FloatRange(1, 3),
    default=1.2,
    show_default=True,
    help="Watts at the meter over watts of machines.",
)
@choose_output
def command(**options: Any) -> None:
    """Size hosts, memory, drives, network, watts and racks around a serving plan, and name what is scarcest.

    \b
    plenum plan surroundings --model Llama-3.1-70B --hardware H100 --tp 4 --instances 8 --rps 50 --isl 2000 --osl 400
    """
    from dataclasses import asdict, replace

    from plenum.adapters.models import find_architecture
    from plenum.planning.surroundings import Demand, Limits, Served, surroundings
    from plenum.serving.catalogue.accelerators import accelerator_named
    from plenum.serving.catalogue.models import published_precision
    from plenum.serving.formats import format_named
    from plenum.serving.instance import Instance, Parallelism

    model = find_architecture(options["model"], "--model")
    precision = published_precision(model)
    if options["form"]:
        precision = replace(precision, weights=format_named(options["form"], "--format").name, experts="")
    spread = Parallelism(tp=options["tp"], ep=options["tp"] if model.expert_parameters else 1)
    hardware = accelerator_named(options["hardware"], "--hardware")
    instance = Instance(model=model, hardware=hardware, precision=precision, parallelism=spread)
    served = Served(
        instance=instance, count=options["instances"], dram_tokens=options["dram_tokens"], nvme_tokens=options["nvme_tokens"]
    )  # fmt: skip
    rate = options["rps"]
    demand = Demand(
        rate_rps=rate, prompt_tokens_s=rate * options["isl"], output_tokens_s=rate * options["osl"], busy=options["busy"]
    )  # fmt: skip
    limits = Limits(
        load_s=options["load_s"], update_s=options["update_s"], rack_w=options["rack_kw"] * 1e3, pue=options["pue"]
    )  # fmt: skip
    found = surroundings([served], demand, limits)
    if options["output"] == "json":
        write_json(asdict(found) | {"needs": [asdict(need) | {"share": need.share} for need in found.needs]})
    else:
        _write(found, f"{options['instances']:,} x {model.name} on {spread} {hardware.name}")


def _write(found: Surroundings, what: str) -> None:
    click.echo(click.style(what, bold=True) + f": {found.binding}\n")
    busiest = ", ".join(
        f"{use} {cores:,.1f}" for use, cores in sorted(found.cores_by_use.items(), key=lambda item: -item[1])
    )
    racks = f"{found.racks:,}" if found.racks else "none: one server draws more than a rack may"
    write_facts(
        [
            ("servers", f"{found.servers:,}"),
            ("racks", racks),
            ("host cores", f"{found.cores:,.0f} with headroom; {busiest}"),
            ("host memory", f"{found.ram_bytes / 1e12:,.2f} TB"),
            ("local drives", f"{found.drive_bytes / 1e12:,.2f} TB"),
            ("to load", f"{found.load_bps / 1e9:,.2f} GB/s into a server"),
            ("to update", f"{found.update_bps / 1e9:,.2f} GB/s out of the store; {found.update_at_once} instances at once, "
                          f"{found.spare_devices} spare devices keep capacity whole"),
            ("power", f"machines {found.it_w / 1e3:,.1f} kW at this load, {found.meter_w / 1e3:,.1f} kW at the meter; "
                      f"{found.peak_w / 1e3:,.1f} kW of machines at most"),
        ]
    )  # fmt: skip
    click.echo()
    columns = [
        Column(head="RESOURCE"), Column(head="A SERVER NEEDS", right=True), Column(head="BRINGS", right=True),
        Column(head="SHARE", right=True), Column(head="WHY", fold=True, below=True),
    ]  # fmt: skip
    write_table(columns, [_row(need) for need in found.needs])


def _row(need: Need) -> list[str]:
    from plenum.planning.surroundings import shown

    return [need.resource, shown(need.needed, need.unit), shown(need.brought, need.unit), f"{need.share:.0%}", need.why]
