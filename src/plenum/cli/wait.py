"""``plenum wait``: come back when a job has got so far."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import cloud_options, connected, found_job, id_of, path_of
from plenum.cli.complete import complete_job
from plenum.cli.exits import NO
from plenum.cli.kinds import job_note, without_subject
from plenum.cli.patience import Patience, choose_timeout
from plenum.cli.tables import clean

if TYPE_CHECKING:
    from plenum.adapters.client import Client

WANTED = ("Running", "Ready", "Succeeded", "Failed", "ended", "deleted")
ENDED = ("Succeeded", "Failed")
WELL = ("Running", "Succeeded", "Ready", "Updating", "Degraded", "Idle")
POLL_S = 0.25
LONGEST_POLL_S = 2.0


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete_job)
@click.option(
    "--for",
    "wanted",
    type=click.Choice(WANTED, case_sensitive=False),
    help="What to wait for; Running and Ready are as good as one another.  [default: ended; of an endpoint Ready]",
)
@choose_timeout("10m")
@cloud_options
def command(jobs: tuple[str, ...], wanted: str | None, timeout: str, context: str | None, tenant: str | None) -> None:
    """Come back when every JOB has got as far as --for says; exits with 1 if one cannot any more, or has not in time.

    \b
    plenum wait pretrain --for Running --timeout 5m && plenum logs pretrain -f
    plenum wait endpoint/chat
    """
    patience = Patience(timeout)
    with connected(context) as client:
        fine = [_reached(client, job, wanted, patience, tenant) for job in jobs]
    sys.exit(0 if all(fine) else NO)


def _reached(client: Client, name: str, wanted: str | None, patience: Patience, tenant: str | None) -> bool:
    from plenum.adapters.client import ProblemError

    try:
        job = found_job(client, name, tenant)
    except ProblemError as problem:
        if problem.status == 404 and wanted == "deleted":
            click.echo(f"{name} is gone")
            return True
        raise
    path, uid, poll_s = path_of(job), job["metadata"]["uid"], POLL_S
    wanted = wanted or ("Ready" if job["kind"] == "Endpoint" else "ended")
    while True:
        verdict = judged(job, wanted)
        if verdict is not None:
            note = without_subject(job_note(job["status"]), job["metadata"])
            click.echo(f"{id_of(job)}: {job['status']['phase']}" + (f": {clean(note)}" if note else ""))
            return verdict
        if patience.is_over():
            note = without_subject(job_note(job["status"]), job["metadata"])
            text = f"{id_of(job)} is still {job['status']['phase']} after {patience}"
            click.echo(text + (f": {clean(note)}" if note else ""), err=True)
            return False
        time.sleep(poll_s)
        poll_s = min(poll_s * 1.2, LONGEST_POLL_S)
        try:
            job = client.get(path)
        except ProblemError as problem:
            if problem.status != 404:
                raise
            job = None
        if job is None or job["metadata"]["uid"] != uid:
            click.echo(f"{name} is gone")
            return wanted == "deleted"


def judged(job: dict[str, Any], wanted: str) -> bool | None:
    """Return whether a job has got as far as is wanted; None: not yet, but it still may."""
    phase = job["status"]["phase"]
    if wanted == "deleted":
        return None
    if wanted == "ended":
        return True if phase in ENDED else None
    if phase == wanted or (wanted in ("Running", "Ready") and phase in WELL):
        return True
    # A revision that was rolled back with nothing else to serve is tried again only once the endpoint is changed.
    return False if phase in (*ENDED, "Stopping") or job["status"].get("failed") else None
