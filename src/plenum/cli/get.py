"""``plenum get``: list what there is."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import cloud_options, connected, split_job, tenant_of
from plenum.cli.complete import complete_kind, complete_name
from plenum.cli.kinds import JOB_KINDS, Item, Kind, job_path, kind_and_names
from plenum.cli.tables import Column, clean, column_widths, table_lines, terminal_width, without_empty, write_table

if TYPE_CHECKING:
    from plenum.adapters.client import Client

PHASES = (
    *("Pending", "Starting", "Running", "Stopping", "Succeeded", "Failed"),
    *("Ready", "Updating", "Degraded", "Idle"),
)
OUTPUTS = ("table", "wide", "json", "yaml", "name")
SUBJECTS = {
    "keys": "key/",
    "nodes": "node/",
    "fleets": "fleet/",
    "tenants": "tenant/",
    "users": "user/",
    "tokens": "token/",
}
RECENT = 100
"""Events and decisions shown unless more are asked for."""


@click.command()
@click.argument("kind", shell_complete=complete_kind)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_name)
@click.option("--all-tenants", "-A", is_flag=True, help="Of every tenant that you may see.")
@click.option("--selector", "-l", "labels", multiple=True, metavar="LABEL[=VALUE]", help="Only jobs with this label.")
@click.option(
    "--phase", multiple=True, type=click.Choice(PHASES, case_sensitive=False), help="Only jobs in this phase."
)
@click.option(
    "--output", "-o", type=click.Choice(OUTPUTS), default="table", show_default=True, help="For people or programs."
)
@click.option("--watch", "-w", is_flag=True, help="Go on: a line for each change.")
@cloud_options
def command(
    kind: str,
    names: tuple[str, ...],
    all_tenants: bool,
    labels: tuple[str, ...],
    phase: tuple[str, ...],
    output: str,
    watch: bool,
    context: str | None,
    tenant: str | None,
) -> None:
    """List things of a KIND, or show those NAMEd.

    Kinds: jobs (all of trainingjobs (tj), tasks, endpoints (ep)), nodes (no), fleets, tenants, users, tokens, keys, gateways,
    events, decisions.

    \b
    plenum get jobs -A --phase Pending
    plenum get trainingjobs pretrain -o yaml
    plenum get endpoints
    plenum get nodes -o wide --watch
    """
    found, names = kind_and_names(kind, names)
    if (labels or phase) and not found.of_tenant:
        raise click.UsageError(f"--selector and --phase go with jobs, not with {found.plural}")
    if watch and found.plural == "gateways":
        raise click.UsageError("--watch goes with what is in the log; gateways are only heard of")
    if watch and output in ("json", "yaml"):
        raise click.UsageError(f"--watch goes with -o table, wide or name, not with -o {output}")
    with connected(context) as client:
        whose = None if all_tenants else tenant_of(client, tenant)
        asked = {"label": labels, "phase": phase}
        if found.plural in ("events", "decisions") and names:
            listing = {"items": [record(client, found, name) for name in names]}
        elif names:
            listing = {"items": [one(client, found, name, whose) for name in names]}
        else:
            listing = listed(client, found, whose, asked, tenant)
        if output == "json":
            _write_json(listing["items"][0] if len(names) == 1 else listing)
            return
        _write(found, listing["items"], output, whose is None)
        if watch:
            _watch(client, found, listing, output, names, whose, asked)


def one(client: Client, kind: Kind, name: str, tenant: str | None) -> Item:
    """Return a thing by its name."""
    from plenum.adapters.client import part
    from plenum.cli.cloud import found_job

    if kind.plural == "gateways":
        return _gateway(client, name)
    if not kind.of_tenant:
        return client.get(f"/{kind.plural}/{part(name)}")
    if kind.plural == "jobs":
        return found_job(client, name, tenant)
    _, whose, plain = split_job(name)
    return client.get(job_path(kind.plural, whose or tenant_of(client, tenant), plain))


def _gateway(client: Client, name: str) -> Item:
    from plenum.adapters.client import ProblemError

    for found in client.get("/gateways")["items"]:
        if found["name"] == name:
            return found
    raise ProblemError(f"no gateway {name} has been heard of lately", status=404, code="resource.absent")


def record(client: Client, kind: Kind, name: str) -> Item:
    """Return an event or a decision by its position in the log.

    Raises
    ------
    ProblemError
        There is none, or it is not theirs to see.
    """
    if not name.isdigit():
        raise click.BadParameter(f"{name!r} is not a position of the log", param_hint="NAME")
    return client.get(f"/{kind.plural}/{name}")


def listed(client: Client, kind: Kind, tenant: str | None, asked: dict[str, Any], named: str | None = None) -> Item:
    """Return a list as the API gave it; of all kinds of jobs, their lists as one."""
    from plenum.adapters.client import part

    if kind.plural in ("events", "decisions"):
        from plenum.cli.recent import recent

        return recent(client, kind.plural, RECENT, tenant=named)
    if kind.plural == "gateways":
        return client.get("/gateways")  # few, and on no pages
    if not kind.of_tenant:
        return client.listed(f"/{kind.plural}")
    lists = [
        client.listed(f"/tenants/{part(tenant)}/{plural}" if tenant else f"/{plural}", **asked)
        for plural in (JOB_KINDS if kind.plural == "jobs" else (kind.plural,))
    ]
    if len(lists) == 1:
        return lists[0]
    position = min(int(found["metadata"]["resourceVersion"]) for found in lists)
    items = [item for found in lists for item in found["items"]]
    return {
        "apiVersion": "plenum.dev/v1alpha1",
        "kind": "JobList",
        "metadata": {"resourceVersion": str(position)},
        "items": sorted(items, key=lambda job: (job["metadata"]["tenant"], job["metadata"]["name"])),
    }


def columns_of(
    kind: Kind, items: Sequence[Item], now: float, *, wide: bool, tenants: bool
) -> tuple[list[Column], list]:
    """Return the columns to show and the rows under them."""
    rows = [kind.cells(item, now) for item in items]
    heads = [column for column, _ in rows[0]] if rows else []
    shown = [
        i
        for i, column in enumerate(heads)
        if (wide or not column.wide)
        and (column.head != "TENANT" or tenants)
        and (column.head != "KIND" or not kind.of_tenant or kind.plural == "jobs")
    ]
    return without_empty([heads[i] for i in shown], [[row[i][1] for i in shown] for row in rows])


def _write(kind: Kind, items: Sequence[Item], output: str, tenants: bool) -> None:
    if output == "yaml":
        from plenum.cli.console import write_yaml

        write_yaml(items)
    elif output == "name":
        for item in items:
            click.echo(_name_of(kind, item))
    elif not items:
        click.echo(f"There are no {kind.plural}" + (" here." if kind.of_tenant and not tenants else "."), err=True)
    else:
        write_table(*columns_of(kind, items, time.time(), wide=output == "wide", tenants=tenants))


def _write_json(value: Any) -> None:
    from plenum.cli.console import write_json

    write_json(value)


def _name_of(kind: Kind, item: Item) -> str:
    if "metadata" not in item:
        return f"{kind.plural[:-1]}/{item.get('name') or item['position']}"
    meta = item["metadata"]
    word = item.get("kind", kind.plural[:-1]).lower()
    return f"{word}/{meta['tenant']}/{meta['name']}" if kind.of_tenant else f"{word}/{meta['name']}"


# -- watching ---------------------------------------------------------------------------------------


def _watch(
    client: Client,
    kind: Kind,
    listing: Item,
    output: str,
    names: tuple[str, ...],
    tenant: str | None,
    asked: dict[str, Any],
) -> None:
    shown = {_name_of(kind, item): _looks(item) for item in listing["items"]}
    write = _RowWriter(kind, listing["items"], output, tenant is None)
    for item in _changes(client, kind, listing, tenant):
        name = _name_of(kind, item)
        if "metadata" in item:
            if names and item["metadata"]["name"] not in {n.rpartition("/")[2] for n in names}:
                continue
            looks = _looks(item)
            if name not in shown and _of_endpoint(name, shown):
                continue
            if shown.get(name) == looks or not _wanted(item, asked):
                continue
            shown[name] = looks
        write(item, name)
        sys.stdout.flush()


def _looks(item: Item) -> tuple[Any, ...]:
    """Return what a change of shows; the replicas of an endpoint come and go without a new version of it."""
    status = item.get("status", {})
    return item.get("metadata", {}).get("resourceVersion"), status.get("phase"), str(status.get("replicas"))


def _changes(client: Client, kind: Kind, listing: Item, tenant: str | None) -> Iterator[Item]:
    """Yield things that changed, as they are now; of what has gone, what it was called."""
    from plenum.adapters.client import ProblemError

    after = int(listing.get("metadata", {}).get("resourceVersion") or client.get("/version")["position"])
    prefix = SUBJECTS.get(kind.plural, "job/" if kind.of_tenant else "")
    also = "endpoint/" if kind.plural in ("jobs", "endpoints") else prefix
    for message in client.events(after, tenant=tenant if kind.of_tenant else None):
        if message is None:
            continue
        event, subject = message.data, message.data.get("subject", "")
        if kind.plural == "events":
            yield event
        elif kind.plural == "decisions":
            if event["type"] == "DecisionMade":
                yield client.get(f"/decisions/{event['position']}")
        elif subject.startswith((prefix, also)):
            name = subject.removeprefix(prefix).removeprefix(also)
            try:
                item = one(client, kind, name, tenant)
                yield one(client, kind, owner, tenant) if (owner := _owner(item)) else item
            except ProblemError as problem:
                if problem.status != 404:
                    raise
                if event["type"].endswith(("Deleted", "Revoked", "Ended", "Forgotten")):
                    yield _gone(kind, name)


def _owner(item: Item) -> str:
    """Return the endpoint whose replicas a job holds, which is what lists show of it; empty: it is its own."""
    meta = item.get("metadata", {})
    endpoint = (meta.get("labels") or {}).get("endpoint", "")
    return f"{meta['tenant']}/{endpoint}" if endpoint and meta.get("createdBy") == "control" else ""


def _of_endpoint(name: str, shown: Iterable[str]) -> bool:
    """Return whether what has gone is the job of an endpoint that is listed."""
    whole = re.sub(r"-r\d+(-prefill|-decode)?$", "", name.partition("/")[2])
    return whole != name.partition("/")[2] and any(known.partition("/")[2] == whole for known in shown)


def _gone(kind: Kind, name: str) -> Item:
    tenant, _, plain = name.rpartition("/")
    return {"metadata": {"name": plain, "tenant": tenant}, "status": {"phase": "Deleted"}}


def _wanted(item: Item, asked: dict[str, Any]) -> bool:
    labels = item["metadata"].get("labels", {})
    for wanted in asked["label"]:
        name, sign, value = wanted.partition("=")
        if name not in labels or (sign and labels[name] != value):
            return False
    return not asked["phase"] or item.get("status", {}).get("phase") in (*asked["phase"], "Deleted")


class _RowWriter:
    """Writes a row under a table that is there already."""

    def __init__(self, kind: Kind, items: Sequence[Item], output: str, tenants: bool) -> None:
        self._kind, self._output, self._tenants = kind, output, tenants
        self._columns: list[Column] = []
        self._widths: list[int] = []
        if items:
            self._columns, rows = columns_of(kind, items, time.time(), wide=output == "wide", tenants=tenants)
            cells = [[clean(cell) for cell in row] for row in rows]
            self._widths = column_widths(self._columns, cells, terminal_width())

    def __call__(self, item: Item, name: str) -> None:
        if self._output == "name":
            click.echo(name)
            return
        wide = self._output == "wide"
        heads = not self._columns
        columns, (row,) = columns_of(self._kind, [item], time.time(), wide=wide, tenants=self._tenants)
        if heads:
            self._columns = columns
            self._widths = column_widths(columns, [[clean(cell) for cell in row]], terminal_width())
        cell = {column.head: value for column, value in zip(columns, row, strict=True)}
        row = [cell.get(column.head, "") for column in self._columns]
        for line in table_lines(self._columns, [row], widths=self._widths, heads=heads):
            click.echo(line)
