"""``plenum delete``: stop and remove things."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from plenum.cli.cloud import cloud_options, connected, found_job, id_of, path_of, split_job, tenant_of
from plenum.cli.complete import complete_kind, complete_name
from plenum.cli.kinds import Kind, job_path, kind_and_names

if TYPE_CHECKING:
    from plenum.adapters.client import Client

DELETABLE = ("jobs", "trainingjobs", "tasks", "endpoints", "fleets", "tenants", "users", "tokens", "keys")
POLL_S = 0.5

Target = tuple[str, Callable[["Client"], str]]
"""What it is called, and what finds its path."""


@click.command()
@click.argument("kind", required=False, shell_complete=complete_kind)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_name)
@click.option(
    "--file",
    "-f",
    "files",
    multiple=True,
    metavar="FILE|FOLDER|-",
    type=click.Path(),
    help="Delete what these manifests describe.",
)
@click.option("--wait", is_flag=True, help="Come back when jobs have stopped and are gone.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("--ignore-absent", is_flag=True, help="What is not there is as good as deleted.")
@cloud_options
def command(
    kind: str | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    ignore_absent: bool,
    context: str | None,
    tenant: str | None,
) -> None:
    """Delete things by KIND and NAME, or by their manifests. Running jobs are stopped with their grace first.

    \b
    plenum delete job pretrain --wait
    plenum delete endpoint chat
    plenum delete -f examples/jobs.yaml
    """
    if bool(files) == bool(kind):
        raise click.UsageError("give either KIND and NAMEs, or --file")
    found, names = kind_and_names(kind, names) if kind else (None, ())
    if found and not names:
        raise click.UsageError(f"say which {found.plural}")
    from plenum.adapters.client import ProblemError

    with connected(context) as client:
        targets = _named(found, names, tenant) if found else _of_files(client, files, tenant)
        gone: list[str] = []
        for name, find in targets:
            try:
                path = find(client)
                answer = client.delete(path, dryRun=dry_run)
            except ProblemError as problem:
                if problem.status != 404 or not ignore_absent:
                    raise
                click.echo(f"{name} is not there")
                continue
            ended = answer.get("kind") == "Done"
            click.echo(f"{name} {'would be deleted' if dry_run else 'is deleted' if ended else 'is being deleted'}")
            gone.append(path)
        if wait and not dry_run:
            for path in gone:
                _wait_gone(client, path)


def _named(kind: Kind, names: tuple[str, ...], tenant: str | None) -> list[Target]:
    if kind.plural not in DELETABLE:
        raise click.UsageError(f"{kind.plural} cannot be deleted; {', '.join(DELETABLE)} can")
    return [(f"{kind.plural[:-1]}/{name}", partial(_path, kind=kind, name=name, tenant=tenant)) for name in names]


def _of_files(client: Client, files: tuple[str, ...], tenant: str | None) -> list[Target]:
    from plenum.cli.apply import label_of, read_all
    from plenum.cli.apply import path_of as path_of_resource

    resources = read_all(files, tenant_of(client, tenant))
    # Backwards: jobs go before the tenants and fleets that they need.
    paths = [(label_of(resource), path_of_resource(resource)) for resource in reversed(resources)]
    return [(label, lambda client, path=path: path) for label, path in paths]


def _path(client: Client, kind: Kind, name: str, tenant: str | None) -> str:
    from plenum.adapters.client import part

    if not kind.of_tenant:
        return f"/{kind.plural}/{part(name)}"
    if kind.plural == "jobs":
        return path_of(found_job(client, name, tenant))
    if kind.plural == "keys":
        return job_path("keys", tenant_of(client, tenant), name)
    _, whose, plain = split_job(name)
    return job_path(kind.plural, whose or tenant_of(client, tenant), plain)


def _wait_gone(client: Client, path: str) -> None:
    from plenum.adapters.client import ProblemError

    shown = ""
    while True:
        try:
            job = client.get(path)
        except ProblemError as problem:
            if problem.status == 404:
                return
            raise
        if job.get("status", {}).get("phase") != shown and "metadata" in job and job["metadata"].get("tenant"):
            shown = job["status"]["phase"]
            click.echo(f"{id_of(job)}: {shown}", err=True)
        time.sleep(POLL_S)
