"""``plenum plan hardware``: the accelerators that are known, what they do with number formats, and where each value comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_format, complete_hardware
from plenum.cli.console import choose_output, write_json
from plenum.cli.sentences import write_sentences
from plenum.cli.tables import Column, terminal_width, write_table

if TYPE_CHECKING:
    from plenum.serving.format_use import FormatUse
    from plenum.serving.hardware import Accelerator

WIDE = 90
"""Characters of a line from which on the list has room for the vendors."""


@click.command()
@click.argument("name", required=False, shell_complete=complete_hardware)
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="What each accelerator does with this number format.",
    shell_complete=complete_format,
)
@choose_output
def command(name: str | None, form: str | None, output: str) -> None:
    """List the accelerators that are known, or describe NAME with the source of every value.

    \b
    plenum plan hardware
    plenum plan hardware h100_sxm
    plenum plan hardware --format nvfp4
    """
    from plenum.serving.catalogue.accelerators import ACCELERATORS, accelerator_named
    from plenum.serving.formats import format_named

    known = format_named(form, "--format").name if form else ""
    if name is not None:
        found = accelerator_named(name, "NAME")
        _describe(found, [known] if known else [], output)
    elif known:
        _compare_format(known, output)
    elif output == "json":
        write_json([_plain(hardware) for hardware in ACCELERATORS.values()])
    else:
        _list(list(ACCELERATORS.values()))


def _list(accelerators: list[Accelerator]) -> None:
    narrow = (terminal_width() or WIDE) < WIDE
    columns = [
        Column(head="NAME"), *([] if narrow else [Column(head="VENDOR")]), Column(head="BF16", right=True), Column(head="FP8", right=True),
        Column(head="INT8", right=True), Column(head="FP4", right=True), Column(head="MEMORY", right=True),
        Column(head="TB/s", right=True), Column(head="LINK", right=True), Column(head="W", right=True),
        Column(head="$/h", right=True),
    ]  # fmt: skip
    rows = [
        [
            a.name, *([] if narrow else [a.vendor]), _tera(a, "bf16"), _tera(a, "fp8"), _tera(a, "int8"), _tera(a, "nvfp4", "mxfp4"),
            f"{a.hbm_bytes / 2**30:,.0f} G", f"{a.hbm_bps / 1e12:.2f}", f"{a.scaleup_bps / 1e9:,.0f} x{a.scaleup_size}",
            f"{a.tdp_w:,.0f}", f"{a.usd_per_hour:.2f}",
        ]
        for a in accelerators
    ]  # fmt: skip
    write_table(columns, rows)
    write_sentences(
        "",
        "Dense TFLOP/s; -: not computed natively. MEMORY in GiB, LINK in GB/s one way by devices of one scale-up domain. "
        "Sources: give a NAME.",
    )


def _tera(hardware: Accelerator, *names: str) -> str:
    peak = max((hardware.peak_flops.get(name, 0.0) for name in names), default=0.0)
    return f"{peak / 1e12:,.0f}" if peak else "-"


def _plain(hardware: Accelerator) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(hardware)


def _describe(hardware: Accelerator, formats: list[str], output: str) -> None:
    from dataclasses import asdict

    from plenum.serving.format_use import format_use
    from plenum.serving.formats import FORMATS

    uses = [format_use(hardware, name) for name in formats or FORMATS]
    if output == "json":
        write_json(_plain(hardware) | {"formats": [asdict(use) for use in uses]})
        return
    click.echo(click.style(hardware.name, bold=True) + f"  {hardware.vendor}; also {', '.join(hardware.aliases)}\n")
    columns = [Column(head="WHAT"), Column(head="VALUE", right=True), Column(head="SOURCE", fold=True)]
    write_table(columns, [[what, value, _source(hardware, field)] for what, value, field in _facts(hardware)])
    click.echo()
    _write_uses([(use.format, use) for use in uses], "FORMAT")


def _facts(a: Accelerator) -> list[tuple[str, str, str]]:
    peaks = [(f"{name} peak", f"{peak / 1e12:,.1f} T/s", f"peak_flops.{name}") for name, peak in a.peak_flops.items()]
    return [
        *peaks,
        ("memory", f"{a.hbm_bytes / 2**30:,.1f} GiB", "hbm_bytes"),
        ("memory bandwidth", f"{a.hbm_bps / 1e12:,.3f} TB/s", "hbm_bps"),
        ("scale-up, one way", f"{a.scaleup_bps / 1e9:,.0f} GB/s", "scaleup_bps"),
        ("scale-up domain", f"{a.scaleup_size:,} devices", "scaleup_size"),
        ("scale-out, one way", f"{a.scaleout_bps / 1e9:,.1f} GB/s", "scaleout_bps"),
        ("host link, one way", f"{a.host_bps / 1e9:,.0f} GB/s", "host_bps"),
        ("power at most", f"{a.tdp_w:,.0f} W", "tdp_w"),
        ("power idle", f"{a.idle_w:,.0f} W", "idle_w"),
        ("devices a server", f"{a.server_devices}", "server_devices"),
        ("rest of the server", f"{a.server_overhead_w:,.0f} W", "server_overhead_w"),
        ("server", f"{a.server_usd:,.0f} USD", "server_usd"),
        ("device an hour", f"{a.usd_per_hour:,.2f} USD", "usd_per_hour"),
    ]


def _source(hardware: Accelerator, field: str) -> str:
    """Return where a value comes from; what is not named stands where the device's figures do."""
    sources = hardware.sources
    return sources.get(field) or sources.get(field.partition(".")[0]) or sources.get("peak_flops", "")


def _compare_format(form: str, output: str) -> None:
    from dataclasses import asdict

    from plenum.serving.catalogue.accelerators import ACCELERATORS
    from plenum.serving.format_use import format_use
    from plenum.serving.formats import FORMATS

    uses = [(name, format_use(hardware, form)) for name, hardware in ACCELERATORS.items()]
    if output == "json":
        write_json({"format": asdict(FORMATS[form]), "hardware": [{"name": n, **asdict(use)} for n, use in uses]})
        return
    known = FORMATS[form]
    click.echo(f"{form}: {known.bits:.4g} bits a value ({known.source}). Loss: {known.error or 'none'}.\n")
    _write_uses(uses, "HARDWARE")


def _write_uses(uses: list[tuple[str, FormatUse]], head: str) -> None:
    columns = [
        Column(head=head), Column(head="NATIVE"), Column(head="COMPUTES IN"), Column(head="SPEED", right=True),
        Column(head="MEMORY", right=True), Column(head="WHY", fold=True, below=True),
    ]  # fmt: skip
    rows = [
        [
            name,
            "yes" if u.native else "no",
            u.computed_in or "-",
            f"{u.compute_ratio:.2f}x",
            f"{u.memory_ratio:.2f}x",
            u.why,
        ]
        for name, u in uses
    ]
    write_table(columns, rows)
    click.echo(click.style("\nSPEED and MEMORY against 16 bits.", dim=True))
