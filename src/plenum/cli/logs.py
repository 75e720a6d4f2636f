"""``plenum logs``: what the replicas of a job write."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import cloud_options, connected, found_job, path_of
from plenum.cli.complete import complete_job

if TYPE_CHECKING:
    from plenum.adapters.client import Client

MAX_FOLLOWED = 24
"""Replicas followed at once; the server gives one token some thirty streams."""

PIECE_BYTES = 256 * 1024
MOST_TAIL_BYTES = 64 * 2**20
ENDED = ("Succeeded", "Failed")
PREFIX_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


@click.command()
@click.argument("job", shell_complete=complete_job)
@click.option("--follow", "-f", is_flag=True, help="Go on as more is written, over restarts, until the job ends.")
@click.option(
    "--slot", "slots", multiple=True, metavar="NAME", help="Which replica, such as worker-0; repeat for several."
)
@click.option("--all", "every", is_flag=True, help="Every replica, each line behind the name of its own.")
@click.option("--attempt", type=click.IntRange(1), help="Which attempt; default: the present one, or the last.")
@click.option(
    "--stream",
    type=click.Choice(["stdout", "stderr"]),
    default="stdout",
    show_default=True,
    help="What it was written to.",
)
@click.option("--tail", metavar="LINES", type=click.IntRange(0), help="Only the last lines; default: all.")
@cloud_options
def command(
    job: str,
    follow: bool,
    slots: tuple[str, ...],
    every: bool,
    attempt: int | None,
    stream: str,
    tail: int | None,
    context: str | None,
    tenant: str | None,
) -> None:
    """Print what a JOB (a name, or tenant/name) writes: its first replica, those named, or all.

    \b
    plenum logs pretrain --tail 20 -f
    plenum logs pretrain --all
    """
    with connected(context) as client:
        found = found_job(client, job, tenant)
        wanted = list(slots) or slots_of(found)
        if not slots and not every and len(wanted) > 1:
            click.echo(f"{wanted[0]} of {len(wanted)} replicas; --all prints every one", err=True)
            wanted = wanted[:1]
        path = f"{path_of(found)}/logs"
        asked = {"attempt": attempt, "stream": stream}
        if not follow:
            for slot in wanted:
                out = _Prefixed(slot, len(wanted) > 1, wanted.index(slot))
                out.write(*_pieces(client, path, {**asked, "slot": slot}, tail))
                out.end()
                if not out.wrote and tail != 0:
                    other = "stderr" if stream == "stdout" else "stdout"
                    click.echo(
                        f"{slot} has written nothing to {stream} so far; there is --stream {other} too", err=True
                    )
        elif len(wanted) == 1:
            out = _Prefixed(wanted[0], False, 0)
            for data in _followed(client, path, {**asked, "slot": wanted[0]}, tail, attempt is not None):
                out.write(data)
        else:
            _follow_several(context, path, asked, wanted, tail, attempt is not None)


def slots_of(job: dict[str, Any]) -> list[str]:
    """Return the replicas of a job by name: those that are there, or those that its manifest asks for."""
    runs = [run["slot"] for run in job.get("status", {}).get("runs", ())]
    if runs:
        return runs
    spec = job.get("spec", {})
    if spec.get("model"):  # whatever else it asks for, each pool of an endpoint has a first replica
        return [f"{pool['name']}-0" for pool in job.get("status", {}).get("pools", ())]
    return [
        f"{role.get('name', 'worker')}-{rank}"
        for role in spec.get("roles") or [spec]
        for rank in range(role.get("replicas", 1))
    ]


def _pieces(client: Client, path: str, asked: dict[str, Any], tail: int | None) -> Iterator[bytes]:
    """Yield a log as far as it goes now; only the last lines if so many are asked for."""
    if tail is not None:
        yield _tail(client, path, asked, tail)[0]
        return
    offset = 0
    while True:
        piece = client.log(path, **asked, offset=offset, limit=PIECE_BYTES)
        if not piece.data:
            return
        yield piece.data
        offset = piece.next_offset


def _tail(client: Client, path: str, asked: dict[str, Any], lines: int) -> tuple[bytes, int]:
    """Return the last lines of a log, and the offset behind them; looks further and further back for them."""
    back = PIECE_BYTES
    while True:
        first = piece = client.log(path, **asked, offset=-back, limit=PIECE_BYTES)
        parts = [piece.data]
        while len(piece.data) == PIECE_BYTES:
            piece = client.log(path, **asked, offset=piece.next_offset, limit=PIECE_BYTES)
            parts.append(piece.data)
        data = b"".join(parts)
        kept = data.splitlines(keepends=True)
        if first.offset == 0 or len(kept) > lines or back >= MOST_TAIL_BYTES:
            return b"".join(kept[-lines:] if lines else []), piece.next_offset
        back *= 8


def _followed(client: Client, path: str, asked: dict[str, Any], tail: int | None, only: bool) -> Iterator[bytes]:
    """Yield a log as it is written; where an attempt ends and the job goes on, that of the next."""
    from plenum.adapters.client import ProblemError

    offset, last, seen = 0, None, asked["attempt"]
    while True:
        job = client.get(path.removesuffix("/logs"))
        status = job.get("status", {})
        attempt = seen if only else _attempt(status, asked["slot"])
        ended = status.get("phase") in ENDED
        if attempt and attempt != last:
            if last is not None:
                click.echo(f"-- {asked['slot']}, attempt {attempt}", err=True)
            this = {**asked, "attempt": attempt}
            try:
                if tail is not None and last is None:
                    data, offset = _tail(client, path, this, tail)
                    yield data
                yield from client.followed_log(path, **this, offset=offset)
                last, offset = attempt, 0
                if only:
                    return
                continue
            except ProblemError as problem:
                # Its node may not have begun it yet, or have left.
                if problem.status not in (404, 409) or ended:
                    raise
        if ended:
            return
        _next_event(client, job)


def _attempt(status: dict[str, Any], slot: str) -> int:
    found = [run.get("attempt", 1) for run in status.get("runs", ()) if run["slot"] == slot]
    return found[0] if found else 0 if status.get("phase") not in ENDED else status.get("attempt", 0)


def _next_event(client: Client, job: dict[str, Any]) -> None:
    """Come back when something happens to a job."""
    meta = job["metadata"]
    subject = f"job/{meta['tenant']}/{meta['name']}"
    events = client.events(int(meta["resourceVersion"]), subject=subject, tenant=meta["tenant"])
    for message in events:
        if message is not None:
            return


def _follow_several(
    context: str | None, path: str, asked: dict[str, Any], slots: list[str], tail: int | None, only: bool
) -> None:
    """Follow several replicas at once, a thread and a connection each, and print whole lines."""
    from plenum.model.errors import PlenumError

    if len(slots) > MAX_FOLLOWED:
        raise click.UsageError(
            f"{len(slots)} replicas are too many to follow at once; name up to {MAX_FOLLOWED} with --slot"
        )
    lock = threading.Lock()
    failures: list[PlenumError] = []

    def follow(i: int, slot: str) -> None:
        out = _Prefixed(slot, True, i, lock)
        try:
            with connected(context) as client:
                for data in _followed(client, path, {**asked, "slot": slot}, tail, only):
                    out.write(data)
        except PlenumError as error:
            failures.append(error)
        out.end()

    threads = [threading.Thread(target=follow, args=(i, slot), daemon=True) for i, slot in enumerate(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class _Prefixed:
    """Writes bytes as they are; or, where there are several replicas, whole lines behind the replica's name."""

    def __init__(self, slot: str, named: bool, number: int, lock: threading.Lock | None = None) -> None:
        self._lock = lock or threading.Lock()
        self._rest = b""
        self.wrote = False
        colour = PREFIX_COLOURS[number % len(PREFIX_COLOURS)]
        prefix = f"{slot} | "
        self._prefix = (click.style(prefix, fg=colour) if sys.stdout.isatty() else prefix).encode() if named else b""

    def write(self, *pieces: bytes) -> None:
        """Write pieces, the last line of which may go on."""
        for data in pieces:
            if not self._prefix:
                self._out(data)
                continue
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._out(b"".join(self._prefix + line + b"\n" for line in lines))

    def end(self) -> None:
        """Write what is left of the last line."""
        if self._rest:
            self._out(self._prefix + self._rest + b"\n")
        self._rest = b""

    def _out(self, data: bytes) -> None:
        if data:
            self.wrote = True
            with self._lock:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
