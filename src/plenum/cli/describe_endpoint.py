"""What there is to say of an endpoint: its pools, revisions and replicas, and what gateways see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from plenum.cli.kinds import Item, without_subject
from plenum.cli.story import lasted
from plenum.cli.tables import Column, clean, table_lines, terminal_width, without_empty
from plenum.cli.times import age, clock

Field = Callable[[str, str], Iterator[str]]
RUNS = 40
SHOWN = {
    "engine": "engine",
    "slo": "promise",
    "format": "format",
    "cacheFormat": "cache",
    "contextLimit": "context",
    "slots": "slots",
    "routing": "routing",
    "idle": "idle",
    "cheaper": "cheaper",
    "rollout": "rollout",
    "attach": "attached",
    "timing": "timing",
    "adapters": "adapters",
    "resources": "resources",
    "parallelism": "split",
    "arguments": "arguments",
}
"""Field of the spec to what it is called here; of those that were written."""
LASTING = ("slo", "idle")
"""Fields that are lengths of time, or hold some."""


def endpoint_lines(endpoint: Item, now: float, field: Field, flat: Callable[[Any], str]) -> Iterator[str]:
    """Yield what there is to say of an endpoint, without its story."""
    meta, spec, status = endpoint["metadata"], endpoint.get("spec", {}), endpoint.get("status", {})
    yield click.style(f"Endpoint {meta['tenant']}/{meta['name']}", bold=True)
    yield from field("phase", status.get("phase", ""))
    waiting = status.get("waiting") or {}
    if status.get("message") and status["message"] != waiting.get("sentence"):
        yield from field("message", clean(without_subject(status["message"], meta)))
    for limit in status.get("limits", []):
        if limit != status.get("message"):
            yield from field("limited", clean(limit))
    if waiting:
        sentence = without_subject(waiting.get("sentence") or waiting["code"], meta)
        yield from field("waits", clean(sentence.removeprefix("waits: ")))
        yield from field("", f"code {waiting['code']}; more: plenum explain {meta['tenant']}/{meta['name']}")
    yield from field("model", clean(spec.get("model", "")))
    yield from field("asked as", clean(status.get("servedAs", "")))
    for key, name in SHOWN.items():
        if key in spec:
            yield from field(name, flat(_with_unit(spec[key]) if key in LASTING else spec[key]))
    by = f" by {clean(meta['createdBy']).removeprefix('user/')}" if meta.get("createdBy") else ""
    yield from field("submitted", f"{clock(meta.get('createdAt', ''))}{by}, {age(meta.get('createdAt', ''), now)} ago")
    if meta.get("labels"):
        yield from field("labels", ", ".join(f"{k}={clean(v)}" for k, v in meta["labels"].items()))
    yield from _pools(status.get("pools", []))
    yield from _revisions(status.get("revisions", []), now)
    yield from _replicas(status.get("runs", []), now)


def _with_unit(value: Any) -> Any:
    """Return lengths of time with their unit: one that was written as a bare number is in seconds, which its writer may not have meant."""
    if isinstance(value, dict):
        return {name: part if name == "quantile" else _with_unit(part) for name, part in value.items()}
    return f"{value}s" if str(value)[-1:].isdigit() else value


def _pools(pools: list[Item]) -> Iterator[str]:
    columns = [
        Column(head="POOL"),
        *(Column(head=head, right=True) for head in ("READY", "LIMITS", "STARTING", "DRAINING", "REQ/S", "OPEN", "WAITING", "CACHE")),
    ]  # fmt: skip
    rows = [
        (
            pool["name"],
            f"{pool['ready']}/{pool['wanted']}",
            f"{pool['min']}-{pool['max']}",
            pool["starting"],
            pool["draining"],
            f"{pool['requestsPerS']:.3g}",
            pool["running"],
            pool["waiting"],
            f"{100 * pool['cacheUsed']:.0f} %",
        )
        for pool in pools
    ]
    yield ""
    yield from table_lines(*without_empty(columns, rows), width=terminal_width())


def _revisions(revisions: list[Item], now: float) -> Iterator[str]:
    if not revisions:
        return
    columns = [
        Column(head="REVISION", right=True),
        Column(head="PHASE"),
        *(Column(head=head, right=True) for head in ("TRAFFIC", "AGE", "DONE", "FAILED", "TTFT P50 P99", "TPOT P50 P99")),
        Column(head="WHY", fold=True, below=True),
    ]  # fmt: skip
    rows = []
    for revision in revisions:
        latency = revision.get("latency") or {}
        rows.append(
            (
                revision["number"],
                revision["phase"],
                f"{100 * revision.get('part', 0.0):.3g} %",
                age(revision.get("startedAt", ""), now),
                revision.get("finished", 0),
                revision.get("failed", 0),
                *(two_ms(latency.get(f"{name}MsP50"), latency.get(f"{name}MsP99")) for name in ("ttft", "tpot")),
                clean(revision.get("why", "")),
            )
        )
    yield ""
    yield from table_lines(*without_empty(columns, rows), width=terminal_width())


def ms(value: float | None) -> str:
    """Return milliseconds in three digits that count, and as seconds where they are a thousand or more."""
    if value is None:
        return ""
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1e3:.3g} s"


def two_ms(low: float | None, high: float | None) -> str:
    """Return two durations in milliseconds with their unit once, where both are written in the same."""
    first, second = ms(low), ms(high)
    same = first.partition(" ")[2] == second.partition(" ")[2]
    return f"{first.partition(' ')[0] if same else first} {second}".strip()


def _note(run: Item) -> str:
    told = "" if run.get("replica") == "ready" else clean(run.get("message", ""))
    return ": ".join(part for part in (run.get("cause", ""), told) if part)


def _replicas(runs: list[Item], now: float) -> Iterator[str]:
    if not runs:
        return
    columns = [
        Column(head="REPLICA"),
        Column(head="REVISION", right=True),
        Column(head="NODE", fold=True),
        Column(head="PHASE"),
        Column(head="TRY", right=True),
        Column(head="UP", right=True),
        Column(head="URL", fold=True),
        Column(head="NOTE", fold=True, below=True),
    ]
    rows = [
        (
            run.get("slot") or run.get("pool", ""),
            run["revision"],
            ", ".join(run.get("nodes") or [run.get("node", "")]),
            run.get("replica") or run["phase"],
            run.get("attempt", 1),
            lasted(run, now),
            run.get("url", ""),
            _note(run),
        )
        for run in runs[:RUNS]
    ]
    yield ""
    yield from table_lines(*without_empty(columns, rows), width=terminal_width())
    if len(runs) > RUNS:
        yield f"… and {len(runs) - RUNS:,} more; -o json of plenum get has them all"
