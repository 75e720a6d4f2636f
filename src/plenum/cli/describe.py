"""``plenum describe``: everything about one thing, for people."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import cloud_options, connected
from plenum.cli.complete import complete_kind, complete_name
from plenum.cli.describe_endpoint import endpoint_lines
from plenum.cli.get import one, record
from plenum.cli.kinds import Item, Kind, gpus_text, kind_and_names, node_phase, replicas_text, without_subject
from plenum.cli.story import lasted, told
from plenum.cli.tables import COLOURS, Column, clean, table_lines, terminal_width
from plenum.cli.times import age, clock

if TYPE_CHECKING:
    from plenum.adapters.client import Client

EVENTS = 30
"""Last events told unless more are asked for."""

PLAIN_LINES = 60
RUNS = 40
"""Replicas listed; the rest are counted."""


@click.command()
@click.argument("kind", shell_complete=complete_kind)
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_name)
@click.option(
    "--events", "most", default=EVENTS, show_default=True, type=click.IntRange(0, 10_000), help="Last events told."
)
@cloud_options
def command(kind: str, names: tuple[str, ...], most: int, context: str | None, tenant: str | None) -> None:
    """Tell everything about something: what was asked for, how it is, and what happened to it.

    \b
    plenum describe job pretrain
    plenum describe endpoint chat
    plenum describe node n001
    """
    found, names = kind_and_names(kind, names)
    if not names:
        raise click.UsageError(f"say which {found.plural}")
    with connected(context) as client:
        for i, name in enumerate(names):
            if i:
                click.echo()
            of_log = found.plural in ("events", "decisions")
            item = record(client, found, name) if of_log else one(client, found, name, tenant)
            for line in described(client, found, item, most, time.time()):
                click.echo(line)


def described(client: Client, kind: Kind, item: Item, most: int, now: float) -> Iterator[str]:
    """Yield the lines that tell about a thing."""
    if kind.of_tenant and item.get("spec", {}).get("model") and "pools" in item.get("status", {}):
        yield from endpoint_lines(item, now, _field, _flat)
        subject = f"endpoint/{item['metadata']['tenant']}/{item['metadata']['name']}"
    elif kind.of_tenant and kind.plural != "keys":
        yield from job_lines(item, now)
        subject = f"job/{item['metadata']['tenant']}/{item['metadata']['name']}"
    elif kind.plural == "nodes":
        yield from node_lines(item, now)
        subject = f"node/{item['metadata']['name']}"
    else:
        yield from _plain_lines(item, kind)
        subject = f"{kind.plural[:-1]}/{item['metadata']['name']}" if "metadata" in item else ""
    if subject and most:
        yield from _story(client, subject, most)


# -- jobs -------------------------------------------------------------------------------------------


def job_lines(job: Item, now: float) -> Iterator[str]:
    """Yield what there is to say of a job, without its story."""
    meta, status = job["metadata"], job.get("status", {})
    yield click.style(f"{job['kind']} {meta['tenant']}/{meta['name']}", bold=True)
    phase = status.get("phase", "")
    reason = status.get("message", "")
    yield from _field("phase", _coloured(phase))
    if reason:
        yield from _field("message", clean(reason))
    if waiting := status.get("waiting"):
        since = f" (since {age(waiting['since'], now)})" if waiting.get("since") else ""
        yield from _field("waits", f"{clean(waiting.get('sentence') or waiting['code'])}{since}")
        yield from _field("", f"code {waiting['code']}; more: plenum explain {meta['tenant']}/{meta['name']}")
    yield from _field("replicas", _replicas(status))
    if ran := lasted(status, now):
        yield from _field(
            "ran" if status.get("endedAt") else "running", f"for {ran}, since {clock(status['startedAt'])}"
        )
    if status.get("attempt", 0) > 1 or status.get("failures"):
        yield from _field("attempt", f"{status.get('attempt', 0)}, after {status.get('failures', 0)} failures")
    if status.get("inside"):
        yield from _field("inside", ", ".join(status["inside"]))
    if status.get("relativeCost") is not None:
        yield from _field("network", f"{status['relativeCost']:.3g}× the time of the best place")
    for wish in status.get("givenUp", ()):
        yield from _field("without", clean(wish))
    by = f" by {clean(meta['createdBy']).removeprefix('user/')}" if meta.get("createdBy") else ""
    yield from _field("submitted", f"{clock(meta.get('createdAt', ''))}{by}, {age(meta.get('createdAt', ''), now)} ago")
    yield from _field(
        "version", f"{meta.get('resourceVersion')}, generation {meta.get('generation')}, uid {meta.get('uid')}"
    )
    if meta.get("labels"):
        yield from _field("labels", ", ".join(f"{k}={clean(v)}" for k, v in meta["labels"].items()))
    if meta.get("traceId"):
        yield from _field("trace", meta["traceId"])
    yield from _spec_lines(job.get("spec", {}))
    yield from _run_lines(status.get("runs", []), now)


def _replicas(status: Item) -> str:
    counts = status.get("replicas", {})
    words = [f"{counts[word]} {word}" for word in ("bound", "running", "succeeded", "failed") if counts.get(word)]
    return f"{replicas_text(status)}" + (f" ({', '.join(words)})" if words else "")


def _spec_lines(spec: Item) -> Iterator[str]:
    for role in spec.get("roles") or [spec]:
        name = role.get("name", "worker")
        resources = ", ".join(f"{key} {clean(value)}" for key, value in (role.get("resources") or {}).items())
        extra = "".join(
            f", {word} {_flat(role[word])}" for word in ("gpuModels", "traits", "aligned", "elastic") if role.get(word)
        )
        yield from _field("role", f"{name} × {role.get('replicas', 1)}: {resources or 'nothing'}{extra}")
    if gpus := gpus_text(spec):
        yield from _field("GPUs", f"{gpus} in all")
    for word in ("priority", "preemptible", "parallelism"):
        if spec.get(word):
            yield from _field(word, _flat(spec[word]))
    for constraint in spec.get("constraints", ()):
        yield from _field("constraint", _flat(constraint))
    run = spec.get("run") or {}
    if run.get("command"):
        import shlex

        yield from _field("command", clean(shlex.join(str(word) for word in run["command"])))
    elif run.get("simulate") is not None:
        yield from _field("imitates", _flat(run["simulate"]) or "a minute of work")
    if rest := {key: value for key, value in run.items() if key not in ("command", "simulate", "env")}:
        yield from _field("run", _flat(rest))
    for key, value in (run.get("env") or {}).items():
        yield from _field("env", f"{key}={clean(value)}")


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(_flat(item) for item in value) if isinstance(value, list) else clean(value)


def _run_lines(runs: list[Item], now: float) -> Iterator[str]:
    if not runs:
        return
    columns = [
        Column(head="REPLICA"),
        Column(head="NODE", fold=True),
        Column(head="GPUS"),
        Column(head="PHASE"),
        Column(head="EXIT", right=True),
        Column(head="RAN", right=True),
        Column(head="NOTE", fold=True),
    ]
    rows = [
        (
            run["slot"],
            run["node"],
            ranges(run.get("gpus", ())),
            run["phase"],
            "" if run.get("exitCode") is None else run["exitCode"],
            lasted(run, now),
            ": ".join(part for part in (run.get("cause", ""), run.get("message", "")) if part),
        )
        for run in runs[:RUNS]
    ]
    yield ""
    yield from table_lines(columns, rows, width=terminal_width())
    if len(runs) > RUNS:
        yield f"… and {len(runs) - RUNS:,} more; -o json of plenum get has them all"


def ranges(numbers: Any) -> str:
    """Write numbers in short: ``0-3,6``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in parts)


# -- other things -----------------------------------------------------------------------------------


def node_lines(node: Item, now: float) -> Iterator[str]:
    """Yield what there is to say of a node, without its story."""
    from plenum.model.units import show

    spec, status = node["spec"], node["status"]
    yield click.style(f"Node {node['metadata']['name']}", bold=True)
    why = f": {clean(status['why'])}" if status.get("why") else ""
    yield from _field("phase", _coloured(node_phase(status)) + why)
    if status.get("since"):
        yield from _field("since", f"{clock(status['since'])}, {age(status['since'], now)} ago")
    yield from _field("fleet", spec["fleet"])
    if spec.get("gpus"):
        power = f", {show(spec['powerW'], 'power_w')} each when busy" if spec.get("powerW") else ""
        yield from _field("GPUs", f"{spec['gpus']} {spec.get('gpuModel', '')}".rstrip() + power)
    yield from _field("cores", show(spec.get("cpuMilli", 0), "cpu_milli"))
    yield from _field("memory", show(spec.get("memoryBytes", 0), "memory_bytes"))
    if spec.get("traits"):
        yield from _field("traits", ", ".join(spec["traits"]))
    running = status.get("running", [])
    if running:
        columns = [Column(head="JOB", fold=True), Column(head="REPLICA"), Column(head="PHASE"), Column(head="GPUS")]
        rows = [(r["job"], r["slot"], r["phase"], ranges(r.get("gpus", ()))) for r in running[:RUNS]]
        yield ""
        yield from table_lines(columns, rows, width=terminal_width())
        if len(running) > RUNS:
            yield f"… and {len(running) - RUNS:,} more"
    else:
        yield from _field("runs", "nothing")


def _plain_lines(item: Item, kind: Kind) -> Iterator[str]:
    """Yield a thing's fields as they are."""
    import yaml

    name = item.get("metadata", item).get("name") or item["position"]
    word = item.get("kind") or item.get("type") or kind.plural[:-1].capitalize()
    yield click.style(f"{word} {name}", bold=True)
    # How it is goes before what was asked for, which of a fleet may be long.
    order = sorted((key for key in item if key not in ("apiVersion", "kind")), key=lambda key: key == "spec")
    shown = {key: item[key] for key in order}
    lines = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=110).rstrip().splitlines()
    yield from lines[:PLAIN_LINES]
    if len(lines) > PLAIN_LINES:
        yield f"… {len(lines) - PLAIN_LINES:,} more lines; plenum get -o yaml has them all"


def _story(client: Client, subject: str, most: int) -> Iterator[str]:
    from plenum.adapters.client import ProblemError
    from plenum.cli.recent import recent

    try:
        events = recent(client, "events", None, subject=subject)["items"]
    except ProblemError as problem:
        if problem.status in (403, 404):
            return
        raise
    if not events:
        return
    yield ""
    yield click.style("What happened", bold=True)
    if len(events) > most:
        yield f"  … {len(events) - most:,} earlier; plenum events --for {subject} has them all"
    columns = [Column(head=""), Column(head="TIME"), Column(head="WHAT", fold=True)]
    _, tenant, name = subject.split("/", 2) if subject.count("/") > 1 else ("", "", subject)
    meta = {"tenant": tenant, "name": name}
    rows = [
        ("", clock(event["at"]), _part(event, subject) + without_subject(told(event), meta)) for event in events[-most:]
    ]
    yield from table_lines(columns, rows, width=terminal_width(), heads=False)


def _part(event: Item, subject: str) -> str:
    """Return which revision an event of an endpoint is about; empty: the whole of it."""
    _, _, name = subject.partition("/")
    part = event.get("subject", "").removeprefix(f"job/{name}-")
    return f"{part}: " if part != event.get("subject", "") else ""


def _field(name: str, text: str) -> Iterator[str]:
    """Yield a name and what goes with it, over as many lines as the terminal needs."""
    head = f"  {f'{name}:' if name else '':<12}"
    width = terminal_width()
    if width is None or len(head) + len(click.unstyle(text)) <= width:
        yield head + text
    else:
        yield from textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head))


def _coloured(phase: str) -> str:
    colour = COLOURS.get(phase.partition(",")[0])
    return click.style(phase, fg=colour) if colour else phase
