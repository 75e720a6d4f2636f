"""What commands share that speak to a control plane: which one, whose jobs, and how a job is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_context, complete_tenant

if TYPE_CHECKING:
    from plenum.adapters.client import Client

DEFAULT_TENANT = "default"

choose_context = click.option(
    "--context",
    metavar="NAME",
    help="Which control plane, by the name it was saved under.",
    shell_complete=complete_context,
)
choose_tenant = click.option(
    "--tenant", "-t", metavar="NAME", help="Whose; default: your context's.", shell_complete=complete_tenant
)


def cloud_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which control plane and whose things are meant."""
    return choose_tenant(choose_context(command))


@contextmanager
def connected(context: str | None) -> Iterator[Client]:
    """Yield a client of the control plane that is meant.

    Raises
    ------
    PlenumError
        None is known, or none answers.
    """
    from plenum.adapters.client import Client
    from plenum.adapters.contexts import chosen_context

    with Client(chosen_context(context or "")) as client:
        yield client


def authority(context: str | None) -> str:
    """Return the file of the authority that the control plane has, which may have certified its gateways too; empty: none is known."""
    from plenum.adapters.contexts import NoContextError, chosen_context

    try:
        return chosen_context(context or "").ca
    except NoContextError:
        return ""


def tenant_of(client: Client, tenant: str | None) -> str:
    """Return whose things are meant."""
    return tenant or client.context.tenant or DEFAULT_TENANT


def split_job(text: str) -> tuple[str, str, str]:
    """Return kind, tenant and name of ``name``, ``tenant/name``, ``kind/name`` or ``kind/tenant/name``; empty where not said."""
    from plenum.cli.kinds import JOB_WORDS

    *before, name = text.split("/")
    kind = JOB_WORDS.get(before[0].lower(), "") if before else ""
    if before and before[0].lower() in JOB_WORDS:
        before = before[1:]
    if len(before) > 1 or not name:
        raise click.BadParameter(f"{text!r} names no job; write name, tenant/name or kind/tenant/name")
    return kind, before[0] if before else "", name


def found_job(client: Client, text: str, tenant: str | None) -> dict[str, Any]:
    """Return the job that somebody named, of whatever kind.

    Raises
    ------
    ProblemError
        There is none, or it is not theirs to see.
    """
    from plenum.adapters.client import ProblemError
    from plenum.cli.kinds import JOB_KINDS, job_path

    kind, whose, name = split_job(text)
    whose = whose or tenant_of(client, tenant)
    absent: ProblemError | None = None
    for plural in [kind] if kind else JOB_KINDS:
        try:
            return client.get(job_path(plural, whose, name))
        except ProblemError as problem:
            if problem.status != 404:
                raise
            absent = problem
    assert absent is not None
    what = kind.removesuffix("s") or "job or endpoint"
    raise ProblemError(f"there is no {what} {whose}/{name}, or it is not yours to see", status=404, code=absent.code)


def path_of(job: dict[str, Any]) -> str:
    """Return the path of a job that was read."""
    from plenum.cli.kinds import job_path

    return job_path(f"{job['kind'].lower()}s", job["metadata"]["tenant"], job["metadata"]["name"])


def id_of(job: dict[str, Any]) -> str:
    """Return ``tenant/name`` of a job that was read."""
    return f"{job['metadata']['tenant']}/{job['metadata']['name']}"
