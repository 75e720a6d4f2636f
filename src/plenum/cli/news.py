"""What becomes of jobs, a line each, as it happens: what ``plenum up`` tells while it runs."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from plenum.cli.tables import clean, terminal_width

if TYPE_CHECKING:
    from plenum.control.records import Job
    from plenum.control.service import Service
    from plenum.control.state import State

COLOURS = {
    "running": "cyan",
    "waits": "yellow",
    "again": "yellow",
    "succeeded": "green",
    "failed": "red",
    "stopping": "yellow",
}
CHAT_MODEL = "smollm2"
"""What a newcomer is shown to serve and to ask."""

NAME_WIDTH = 20
PHASE_WIDTH = 9


class News:
    """Follows the jobs of a control plane of this process.

    Parameters
    ----------
    quiet
        Follow them without a word.
    """

    def __init__(self, service: Service, *, quiet: bool = False) -> None:
        self._service = service
        self._quiet = quiet
        self._from = service.state.position
        self._told = {job.id: told_of(job) for job in service.state.jobs.values()}
        self._hinted = False

    async def follow(self, *, until_done: bool = False) -> list[str]:
        """Tell until cancelled or, if asked to, until all that ends by itself has ended; returns the jobs that failed."""
        self._hint()
        async for record in self._service.watch(self._from):
            state = self._service.state
            if record is not None and record.subject.startswith("job/"):
                self._tell(record.subject[4:], record.at)
            self._hint()
            if until_done and not any(state.jobs[job].workload.kind.value != "Endpoint" for job in state.live):
                for job in list(state.jobs):
                    self._tell(job, state.at)
                return [job.id for job in state.jobs.values() if job.phase == "Failed"]
        return []

    def _tell(self, job_id: str, at: float) -> None:
        job = self._service.state.jobs.get(job_id)
        now = ("gone", "") if job is None else told_of(job)
        if not now[0] or self._told.get(job_id) == now:
            return
        before, self._told[job_id] = self._told.get(job_id, ("", "")), now
        if self._quiet:
            return
        if job is not None and job.phase in ("Succeeded", "Failed") and job.started_at and before[0] != "running":
            # It ran between two looks at it, or within one report: the story is the same as of one that took longer.
            self._say(job_id, "running", f"on {_places(job)}" if any(job.runs()) else "", job.started_at)
        self._say(job_id, *now, at)

    def _say(self, job_id: str, phase: str, text: str, at: float) -> None:
        click.echo(line_of(job_id, phase, text, at, terminal_width()))

    def _hint(self) -> None:
        """Say once what to try next: when nothing is left that is still going to happen by itself."""
        state = self._service.state
        waiting = [job for job in state.live if state.jobs[job].phase == "Pending" and state.jobs[job].waiting]
        serving = [job for job in state.live if _serves(state.jobs[job])]
        if self._hinted or len(waiting) + len(serving) < len(state.live):
            return
        self._hinted = True
        if not self._quiet:
            ended = sorted(state.ended, key=lambda job: (not state.jobs[job].process.imitated, state.jobs[job].uid))
            # Of an endpoint's replicas, the endpoint is what people know.
            waits = state.jobs[waiting[0]].owner or waiting[0] if waiting else ""
            click.echo("\n" + hint(ended[-1] if ended else "", waits, CHAT_MODEL in _models(state)) + "\n")


def _models(state: State) -> set[str]:
    return {found.spec.model for found in state.endpoints.values() if not found.stop}


def _serves(job: Job) -> bool:
    """Whether it has come as far as it ever will."""
    return job.workload.kind.value == "Endpoint" and job.phase == "Running"


def told_of(job: Job) -> tuple[str, str]:
    """Return in a word how a job is, and what there is to say about it; no word: nothing worth telling yet."""
    attempt = max((unit.attempt for unit in job.units.values()), default=1)
    if job.phase == "Pending":
        if job.waiting is not None:
            return "waits", _reason(job)
        return ("again", f"after attempt {attempt}") if attempt else ("", "")
    if job.phase == "Running":
        return "running", f"on {_places(job)}" + (f", attempt {attempt}" if attempt > 1 else "")
    if job.phase in ("Succeeded", "Failed"):
        from plenum.model.units import show_duration

        took = f"after {show_duration(job.ended_at - job.started_at)}" if job.started_at else ""
        return job.phase.lower(), ": ".join(part for part in (took, job.message) if part)
    return ("stopping", "") if job.phase == "Stopping" else ("", "")


def _reason(job: Job) -> str:
    assert job.waiting is not None
    return job.waiting.sentence.removeprefix(f"{job.id} ").removeprefix("waits: ")


def _places(job: Job) -> str:
    nodes = sorted({run.node for run in job.runs()})
    return ", ".join(nodes) if len(nodes) <= 2 else f"{nodes[0]} … {nodes[-1]} ({len(nodes)} nodes)"


def line_of(job_id: str, phase: str, text: str, at: float, width: int | None) -> str:
    """Return a line of news, folded under itself where the terminal is narrow (None: no terminal, nothing is folded)."""
    name = clean(job_id.removeprefix("default/"))
    head = f"{time.strftime('%H:%M:%S', time.localtime(at))}  {name:<{NAME_WIDTH}}  "
    word = click.style(f"{phase:<{PHASE_WIDTH}}", fg=COLOURS.get(phase))
    indent = len(head) + PHASE_WIDTH + 2
    lines = [clean(text)] if width is None else textwrap.wrap(clean(text), max(width - indent, 20)) or [""]
    return "\n".join((f"{head}{word}  {lines[0]}".rstrip(), *(" " * indent + line for line in lines[1:])))


def hint(ended: str, waiting: str, is_served: bool = False) -> str:
    """Return what to try next, given a job that has ended and one that waits, if there are any, and whether the usual model is served."""
    tries = [
        (f"explain {waiting}", "what it waits for, and what would help") if waiting else None,
        (f"describe job {ended}", "the story of a job") if ended else None,
        (f"logs {ended}", "what its first replica wrote") if ended else None,
        None if is_served else (f"serve {CHAT_MODEL}", "a real language model on this machine"),
        ("top", "what is in use, by whom, and what waits"),
        ("apply -f FILE", "what manifests of yours describe"),
    ]
    return commands_to_try(
        "Try next, in another terminal (Ctrl-C here stops everything):",
        [(words.replace("default/", ""), about) for words, about in filter(None, tries)],
    )


def commands_to_try(head: str, tries: Sequence[tuple[str, str]]) -> str:
    """Return commands of ours and what each is for, a line each under a head."""
    plenum = invocation()
    width = max(len(words) for words, _ in tries)
    return "\n".join((head, *(f"  {plenum} {words:<{width}}  {about}" for words, about in tries)))


def invocation() -> str:
    """Return how this command line is called from here: by its name if the shell would find it so, else by its path."""
    called = sys.argv[0]
    found = shutil.which("plenum")
    if not os.path.exists(called) or (found and os.path.samefile(found, called)):
        return "plenum"
    relative = os.path.relpath(called)
    return called if relative.startswith("..") else relative
