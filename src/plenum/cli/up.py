"""``plenum up``: a whole cloud on this machine."""

from __future__ import annotations

from typing import Any

import click

from plenum.cli.server_options import log_to_stderr, server_config, server_options


@click.command()
@server_options
@click.option(
    "--apply",
    "-f",
    "manifests",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Manifests to apply once it is up: fleets, tenants, jobs.",
)
@click.option(
    "--until-done", is_flag=True, help="Stop once every job that ends by itself has ended; exit with 1 if one failed."
)
@click.option(
    "--keep-jobs",
    is_flag=True,
    help="At the end, let this host's jobs go on for half a minute: a restart within it takes them up again.",
)
@click.option("--quiet", "-q", is_flag=True, help="Do not tell what becomes of the jobs.")
def command(manifests: tuple[str, ...], until_done: bool, keep_jobs: bool, quiet: bool, **options: Any) -> None:
    """Bring an AI cloud up on this machine: API, log, scheduler, this host's own cores, and any simulated fleets.

    Everything is kept in the data folder: the next `plenum up` comes back with it. Ctrl-C stops cleanly: jobs on this host get their
    grace, and start again with the next `plenum up`.

    \b
    plenum up
    plenum up -f examples/fleet-lab.yaml -f examples/first-jobs.yaml
    """
    import asyncio
    import sys

    from plenum.bootstrap.apply import apply_files
    from plenum.bootstrap.server import OPERATOR, Running, serve
    from plenum.cli.progress import compile_note

    log_to_stderr(options["verbose"])
    config = server_config(options, local_node=True)
    failed: list[str] = []

    async def started(server: Running) -> None:
        _greet(server)
        story = _Story(server, quiet)
        if manifests:
            changed = await apply_files(server.service, manifests, OPERATOR)
            click.echo(f"Applied {', '.join(manifests)}: {len(changed)} new or changed.\n")
        failed.extend(await story.told(until_done))

    with compile_note():
        asyncio.run(serve(config, started, new_token=options["new_token"], stop_local_work=not keep_jobs))
    click.echo("Stopped. Everything is in the log; `plenum up` comes back with it.")
    sys.exit(1 if failed else 0)


def _greet(server: Any) -> None:
    """Say where it is, and log this user in."""
    from plenum.adapters.contexts import Context, contexts, save_context

    nodes = len(server.service.state.nodes)
    click.echo(
        f"Plenum is up at {server.address}, with {nodes} {'node' if nodes == 1 else 'nodes'}. Data: {server.config.data}"
    )
    known, _ = contexts()
    token = server.operator_token or (known["local"].token if "local" in known else "")
    if server.operator_token:
        click.echo("\nOperator token, shown this once (the command line of this user has it already):")
        click.echo(f"  {server.operator_token}\n")
    if token:
        save_context(Context(name="local", server=server.address, token=token, ca=str(server.ca or "")))
    click.echo(
        "In another terminal: plenum get jobs · plenum top · plenum apply -f FILE · plenum logs JOB. Ctrl-C stops.\n"
    )


class _Story:
    """Prints a line whenever a job's phase changes."""

    def __init__(self, server: Any, quiet: bool) -> None:
        self._service = server.service
        self._quiet = quiet
        self._phases = {job.id: (job.phase, "") for job in server.service.state.jobs.values()}
        self._from = server.service.state.position

    async def told(self, until_done: bool) -> list[str]:
        """Tell until cancelled, or until all that ends has ended; returns the jobs that failed."""
        async for record in self._service.watch(self._from):
            state = self._service.state
            if record is not None and record.subject.startswith("job/"):
                self._tell(record.at, record.subject[4:])
            if until_done and state.position and not self._left():
                failed = [job.id for job in state.jobs.values() if job.phase == "Failed"]
                for job in list(state.jobs):
                    self._tell(state.at, job)
                return failed
        return []

    def _left(self) -> bool:
        state = self._service.state
        return any(state.jobs[job].workload.kind.value != "Endpoint" for job in state.live)

    def _tell(self, at: float, job_id: str) -> None:
        import time

        job = self._service.state.jobs.get(job_id)
        now = ("gone", "") if job is None else (job.phase, _more(job))
        if self._phases.get(job_id) == now:
            return
        self._phases[job_id] = now
        if not self._quiet:
            when = time.strftime("%H:%M:%S", time.localtime(at))
            click.echo(f"{when}  {job_id:<28} {now[0]:<10} {now[1]}".rstrip())


def _more(job: Any) -> str:
    """What a line says beside the phase."""
    if job.phase == "Pending":
        return job.waiting.sentence.removeprefix(f"{job.id} ") if job.waiting else ""
    if job.phase in ("Starting", "Running"):
        nodes = sorted({run.node for run in job.runs()})
        attempt = max((unit.attempt for unit in job.units.values()), default=1)
        where = ", ".join(nodes) if len(nodes) <= 3 else f"{nodes[0]}, {nodes[1]} … ({len(nodes)} nodes)"
        return f"on {where}" + (f", attempt {attempt}" if attempt > 1 else "")
    return job.message
