"""``plenum top``: what is in use, by whom, and what waits."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.describe_endpoint import ms
from plenum.cli.kinds import JOB_KINDS, Item, gpus_text, share_text, without_subject
from plenum.cli.tables import Column, clean, table_lines, terminal_width
from plenum.cli.times import age, clock
from plenum.model.units import parse_duration, show, show_duration

if TYPE_CHECKING:
    from plenum.adapters.client import Client

BARS = (("GPUs", "gpu_milli"), ("cores", "cpu_milli"), ("memory", "memory_bytes"), ("power", "power_w"))
BAR_CELLS = 24
QUEUE = 50
"""Waiting jobs read, the longest waiting of which are shown."""

PHASE_ORDER = ("Running", "Starting", "Pending", "Stopping", "Succeeded", "Failed")


@click.command()
@click.option("--once", is_flag=True, help="Print it once instead of going on.")
@click.option("--interval", default="1s", show_default=True, metavar="DURATION", help="How often to look.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json prints what the API says, once.",
)
@choose_context
def command(once: bool, interval: str, output: str, context: str | None) -> None:
    """Watch GPUs, cores, memory and power, each tenant's share, and the queue. Ctrl-C ends it."""
    pause_s = max(parse_duration(interval, "--interval"), 0.1)
    with connected(context) as client:
        if output == "json":
            from plenum.cli.console import write_json

            write_json(client.get("/utilisation"))
        elif once or not sys.stdout.isatty():
            use, queue, models = _asked(client)
            width, title = terminal_width() or 120, _title(client)
            for line in screen_lines(use, queue, time.time(), models=models, width=width, title=title):
                click.echo(line)
        else:
            _live(client, pause_s)


def _live(client: Client, pause_s: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from plenum.adapters.client import UnreachableError

    title = _title(client)
    use, queue, models = _asked(client)
    console = Console(highlight=False, markup=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        problem = ""
        while True:
            size = shutil.get_terminal_size((80, 24))
            shown = {"models": models, "width": size.columns, "height": size.lines, "title": title}
            lines = screen_lines(use, queue, time.time(), **shown)
            if problem:
                lines[0] = click.style(f" {problem} ".ljust(size.columns)[: size.columns], bg="red", fg="white")
            live.update(Text.from_ansi("\n".join(lines), no_wrap=True), refresh=True)
            time.sleep(pause_s)
            try:
                use, queue, models = _asked(client)
                problem = ""
            except UnreachableError as error:
                problem = f"{error.sentence} (figures of {clock(use['at'])})"


def _title(client: Client) -> str:
    return f"Plenum at {client.server}"


def _asked(client: Client) -> tuple[Item, list[Item], list[Item]]:
    fields = "metadata,status.waiting,status.phase,spec"
    waiting = [
        job
        for plural in JOB_KINDS
        for job in client.get(f"/{plural}", phase="Pending", limit=QUEUE, fields=fields)["items"]
    ]
    fields = "metadata,status.phase,status.pools,status.revisions"
    endpoints = client.get("/endpoints", limit=QUEUE, fields=fields)["items"]
    models = [endpoint for endpoint in endpoints if endpoint.get("status", {}).get("pools")]
    return client.get("/utilisation"), sorted(waiting, key=lambda job: job["metadata"]["createdAt"]), models


def screen_lines(
    use: Item,
    queue: list[Item],
    now: float,
    *,
    models: Sequence[Item] = (),
    width: int,
    height: int = 10_000,
    title: str = "Plenum",
) -> list[str]:
    """Return the lines of the screen: bars, then a row a tenant, a row a model that is served, then who waits.

    Parameters
    ----------
    use
        The API's ``Utilisation``.
    queue
        Pending jobs, the longest waiting first.
    models
        Endpoints of models.
    """
    right = f"position {use['position']:,}  {clock(use['at'])}"
    gap = " " * max(width - len(title) - len(right), 2)
    lines = [click.style(title, bold=True) + gap + right, ""]
    bars = [_bar_line(name, use["resources"][key], key, width) for name, key in BARS if _has(use, key)]
    lines += [*bars, *([""] if bars else []), *_counts(use)]
    left = height - len(lines) - 1
    tenants = list(_tenant_lines(use, width))
    room = max(left - min(len(queue) + 2, max(left // 2, 3)), 3)
    lines += ["", *_cut(tenants, room)]
    if models:
        room = max((height - len(lines) - 1) // (2 if queue else 1) - 1, 3)
        lines += ["", *_cut(list(_model_lines(models, width)), room)]
    waiting = list(_queue_lines(use, queue, now, width))
    if waiting:
        lines += ["", *_cut(waiting, max(height - len(lines) - 1, 2))]
    return lines[:height]


def _cut(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"… {len(lines) - most + 1:,} more"]


def _has(use: Item, key: str) -> bool:
    return bool(use.get("resources", {}).get(key, {}).get("total"))


def _bar_line(name: str, share: Item, resource: str, width: int) -> str:
    held, total = share["held"], share["total"]
    part = min(held / total, 1.0)
    room = min(BAR_CELLS, max(width - 44, 8)) if width < 100 else BAR_CELLS * 2
    # A little use shows as one cell, and only a full bar shows all of them.
    cells = min(max(round(part * room), held > 0), room - (part < 1))
    colour = "red" if part >= 0.95 else "yellow" if part >= 0.75 else "green"
    bar = click.style("█" * cells, fg=colour) + click.style("░" * (room - cells), dim=True)
    unit = "cpu_milli" if resource == "gpu_milli" else resource
    return f"  {name:<7} {bar} {100 * part:5.1f} %  {show(held, unit)} of {show(total, unit)}"


def _counts(use: Item) -> list[str]:
    jobs, nodes = use.get("jobs", {}), use.get("nodes", {})
    words = [f"{jobs[phase]:,} {phase.lower()}" for phase in PHASE_ORDER if jobs.get(phase)]
    lines = [f"  jobs    {', '.join(words) or 'none'}"]
    if nodes:
        lines.append(f"  nodes   {', '.join(f'{count:,} {phase.lower()}' for phase, count in nodes.items())}")
    if use.get("waiting"):
        lines.append(
            f"  queue   {use['waiting']:,} waiting, the longest for {show_duration(use.get('oldestWaitS', 0))}"
        )
    return lines


def _tenant_lines(use: Item, width: int) -> Any:
    columns = (
        Column(head="TENANT", fold=True),
        Column(head="JOBS", right=True),
        Column(head="RUNNING", right=True),
        Column(head="WAITING", right=True),
        Column(head="GPUS", right=True),
        Column(head="CORES", right=True),
        Column(head="MEMORY", right=True),
    )
    # Whoever holds most stands first.
    rows = sorted(use.get("tenants", ()), key=lambda row: (-row["held"].get("gpu_milli", 0), -row["jobs"], row["name"]))
    cells = [
        (
            row["name"],
            f"{row['jobs']:,}",
            f"{row['running']:,}",
            f"{row['waiting']:,}",
            *(share_text(row["held"], row["quota"], key) for key in ("gpu_milli", "cpu_milli", "memory_bytes")),
        )
        for row in rows
    ]
    return table_lines(columns, cells, width=width)


def _model_lines(models: Sequence[Item], width: int) -> Any:
    columns = (
        Column(head="MODEL", fold=True),
        Column(head="PHASE"),
        *(
            Column(head=head, right=True)
            for head in ("READY", "REQ/S", "OPEN", "WAITING", "CACHE", "TTFT P99", "TPOT P99")
        ),
    )
    rows = []
    # What is asked most stands first.
    for model in sorted(models, key=lambda model: -sum(pool["requestsPerS"] for pool in model["status"]["pools"])):
        meta, pools = model["metadata"], model["status"]["pools"]
        latency = next((r["latency"] for r in model["status"].get("revisions", ()) if r.get("latency")), {})
        rows.append(
            (
                f"{meta['tenant']}/{meta['name']}",
                model["status"]["phase"],
                f"{sum(pool['ready'] for pool in pools)}/{sum(pool['wanted'] for pool in pools)}",
                f"{sum(pool['requestsPerS'] for pool in pools):.3g}",
                sum(pool["running"] for pool in pools),
                sum(pool["waiting"] for pool in pools),
                f"{100 * max(pool['cacheUsed'] for pool in pools):.0f} %",
                *(ms(latency.get(key)) for key in ("ttftMsP99", "tpotMsP99")),
            )
        )
    return table_lines(columns, rows, width=width)


def _queue_lines(use: Item, queue: list[Item], now: float, width: int) -> Any:
    if not queue:
        return []
    columns = (
        Column(head="WAITING", fold=True),
        Column(head="GPUS", right=True),
        Column(head="SINCE", right=True),
        Column(head="WHY"),
    )
    rows = []
    for job in queue[:QUEUE]:
        meta, waiting = job["metadata"], job.get("status", {}).get("waiting") or {}
        name = f"{meta['tenant']}/{meta['name']}"
        sentence = without_subject(clean(waiting.get("sentence", "")), meta).removeprefix("waits: ")
        rows.append(
            (name, gpus_text(job.get("spec", {})), age(meta["createdAt"], now), sentence or waiting.get("code", ""))
        )
    used = sum(max([len(column.head), *(len(str(row[i])) for row in rows)]) + 2 for i, column in enumerate(columns[:3]))
    room = max(width - used, 20)
    short = [(*row[:3], row[3] if len(row[3]) <= room else f"{row[3][: room - 1]}…") for row in rows]
    return table_lines(columns, short, width=width)
