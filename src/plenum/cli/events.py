"""``plenum events``: what happened, as sentences."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from plenum.cli.cloud import cloud_options, connected, split_job, tenant_of
from plenum.cli.complete import complete_job
from plenum.cli.story import told
from plenum.cli.tables import GAP, Column, clean, column_widths, table_lines, terminal_width
from plenum.cli.times import clock, moment, seconds_of

LAST = 50
COLUMNS = (
    Column(head="POSITION", right=True),
    Column(head="TIME"),
    Column(head="TYPE", wide=True),
    Column(head="BY", wide=True, fold=True),
    Column(head="ABOUT", fold=True),
    Column(head="WHAT", fold=True),
)
LEAST_WIDTHS = (8, 8, 14, 14, 24, 12)
"""Of columns whose later rows are not known yet."""


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on as more happens.")
@click.option(
    "--for",
    "subject",
    metavar="KIND/NAME",
    shell_complete=complete_job,
    help="Only about this: job/research/x, endpoint/chat, node/n1, decisions.",
)
@click.option("--since", metavar="TIME", help="From this time on: 2030-01-31T12:00:00Z, or how long ago, such as 10m.")
@click.option(
    "--last", default=None, type=click.IntRange(0, 100_000), help=f"How many; default: {LAST}, with --since all."
)
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "wide", "json"]),
    default="table",
    show_default=True,
    help="For people or programs; json is one event a line.",
)
@cloud_options
def command(
    follow: bool,
    subject: str | None,
    since: str | None,
    last: int | None,
    output: str,
    context: str | None,
    tenant: str | None,
) -> None:
    """Tell what happened, oldest first.

    \b
    plenum events -f
    plenum events --for job/research/pretrain --since 1h
    """
    from plenum.cli.recent import recent

    since_s = seconds_of(moment(since, "--since", time.time())) if since else 0.0
    with connected(context) as client:
        about = _subject(subject, tenant_of(client, tenant)) if subject else ""
        most = last if last is not None else None if since else LAST
        listing = recent(client, "events", most, since_s=since_s, subject=about, tenant=tenant)
        write = _Writer(listing["items"], output, one=bool(about))
        if not follow:
            return
        after = int(listing["metadata"]["resourceVersion"])
        if listing["items"]:
            after = max(after, listing["items"][-1]["position"])
        for message in client.events(after, subject=about, tenant=tenant):
            if message is not None:
                write(message.data)


def _subject(text: str, tenant: str) -> str:
    """Return the subject that the log knows something by."""
    from plenum.cli.kinds import JOB_WORDS, KIND_BY_WORD

    word, _, name = text.partition("/")
    if word.lower() in JOB_WORDS or word.lower() not in KIND_BY_WORD:
        kind, whose, plain = split_job(text)
        subject = "endpoint" if kind == "endpoints" else "job"
        return "decisions" if text in ("decisions", "decision") else f"{subject}/{whose or tenant}/{plain}"
    kind = KIND_BY_WORD[word.lower()]
    return "decisions" if kind.plural == "decisions" else f"{kind.plural[:-1]}/{name}"


class _Writer:
    """Writes events as they come, in columns that stay where they are."""

    def __init__(self, events: list[dict[str, Any]], output: str, one: bool) -> None:
        self._json = output == "json"
        self._shown = [
            i
            for i, column in enumerate(COLUMNS)
            if not (one and column.head == "ABOUT") and (output == "wide" or not column.wide)
        ]
        self._columns = [COLUMNS[i] for i in self._shown]
        if self._json:
            for event in events:
                self(event)
            return
        rows = [self._row(event) for event in events]
        least = [" " * LEAST_WIDTHS[i] for i in self._shown]
        width = terminal_width()
        self._widths = column_widths(self._columns, [*rows, least], width)
        # What is still to come is as long as it likes, where there is room.
        room = sys.maxsize if width is None else width - sum(self._widths[:-1]) - len(GAP) * (len(self._widths) - 1)
        self._widths[-1] = max(self._widths[-1], room)
        for line in table_lines(self._columns, rows, widths=self._widths):
            click.echo(line)

    def __call__(self, event: dict[str, Any]) -> None:
        if self._json:
            import json

            click.echo(json.dumps(event))
        else:
            for line in table_lines(self._columns, [self._row(event)], widths=self._widths, heads=False):
                click.echo(line)
        sys.stdout.flush()

    def _row(self, event: dict[str, Any]) -> list[str]:
        cells = (
            str(event["position"]),
            clock(event["at"]),
            event["type"],
            event.get("actor", ""),
            event.get("subject", "").removeprefix("job/"),
            told(event),
        )
        return [clean(cells[i]) for i in self._shown]
