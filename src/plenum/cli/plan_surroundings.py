"""``plenum plan surroundings``: what serving needs around its accelerators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.facts import write_facts
from plenum.cli.fields import fields_as_options
from plenum.cli.instance_options import described_by, shape_options
from plenum.cli.sentences import write_sentences
from plenum.cli.serving_cluster import MAX_REPLICAS, check_lengths, instance_of
from plenum.cli.tables import Column, write_table
from plenum.cli.units import BYTES, LONG_SECONDS, WATTS, Number

if TYPE_CHECKING:
    from plenum.planning.surroundings import Need, Surroundings


@click.command()
@shape_options
@click.option("--replicas", required=True, type=click.IntRange(1, MAX_REPLICAS), help="How many instances serve it.")
@click.option("--rps", required=True, type=Number(0, 1e9), help="Requests a second.")
@click.option("--isl", required=True, type=Number(1, 1e7), help="Mean tokens of prompts.")
@click.option("--osl", required=True, type=Number(1, 1e7), help="Mean tokens of answers.")
@click.option("--busy", type=Number(0, 1), default=0.7, show_default=True, help="Part of the time that devices work.")
@click.option(
    "--dram", type=BYTES, default="0", help="Host memory of each instance for cached prefixes, such as 500GB."
)
@click.option("--nvme", type=BYTES, default="0", help="Drives of each instance for cached prefixes, such as 4TB.")
@click.option(
    "--load", type=LONG_SECONDS, default="2m", show_default=True, help="In which an instance has its weights."
)
@click.option("--update", type=LONG_SECONDS, default="30m", show_default=True, help="In which all have a new version.")
@click.option("--rack", type=WATTS, default="40kW", show_default=True, help="Power of one rack.")
@click.option(
    "--pue",
    type=Number(1, 3),
    default=1.2,
    show_default=True,
    help="Watts at the meter over watts of machines.",
)
@choose_output
def command(**options: Any) -> None:
    """Size hosts, memory, drives, network, watts and racks around a serving plan, and name what is scarcest.

    `plenum plan serving` does this for what it recommends; this is for a deployment of your own.

    \b
    plenum plan surroundings --model Llama-3.1-70B --hardware H100 --tp 4 --replicas 8 --rps 50 --isl 2000 --osl 400
    """
    from dataclasses import asdict

    from plenum.planning.surroundings import Demand, Limits, Served, surroundings
    from plenum.serving.formats import FORMATS

    instance = instance_of(described_by(options))
    check_lengths(instance, options["isl"], options["osl"])
    each = instance.model.cache_values_per_token * FORMATS[instance.precision.kv_cache].bytes
    dram, nvme = (int(options[name] / each) if each else 0 for name in ("dram", "nvme"))
    served = Served(instance=instance, count=options["replicas"], dram_tokens=dram, nvme_tokens=nvme)
    rate = options["rps"]
    demand = Demand(
        rate_rps=rate, prompt_tokens_s=rate * options["isl"], output_tokens_s=rate * options["osl"], busy=options["busy"]
    )  # fmt: skip
    limits = Limits(
        load_s=options["load"], update_s=options["update"], rack_w=options["rack"], pue=options["pue"]
    )  # fmt: skip
    with fields_as_options(rate_rps="--rps", load_s="--load", update_s="--update", rack_w="--rack"):
        found = surroundings([served], demand, limits)
    if options["output"] == "json":
        write_json(asdict(found) | {"needs": [asdict(need) | {"share": need.share} for need in found.needs]})
    else:
        _write(
            found, f"{options['replicas']:,} x {instance.model.name} on {instance.parallelism} {instance.hardware.name}"
        )


def _write(found: Surroundings, what: str) -> None:
    write_sentences(f"{what}: {found.binding}", "")
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
