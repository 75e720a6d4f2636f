"""The root command: which commands there are, loaded lazily so that help stays fast."""

from __future__ import annotations

import importlib
import sys
from typing import ClassVar

import click

from plenum import __version__
from plenum.model.errors import PlenumError

COMMANDS = {
    "up": ("plenum.cli.up", "Bring a cloud up on this machine."),
    "server": ("plenum.cli.server", "Run a control plane that nodes join."),
    "agent": ("plenum.cli.agent", "Join this host to a control plane."),
    "backup": ("plenum.cli.backup", "Write everything a control plane knows into one file."),
    "restore": ("plenum.cli.restore", "Fill an empty store from a backup."),
    "rebuild": ("plenum.cli.rebuild", "Compute the state anew from the log, and compare."),
    "fleet": ("plenum.cli.fleet", "Describe, import, discover, check and draw fleets."),
    "place": ("plenum.cli.place", "Decide where workloads go on a fleet."),
    "explain": ("plenum.cli.explain", "Say why a workload waits, who is in the way and what would help."),
    "replay": ("plenum.cli.replay", "Replay a production trace under one or more policies."),
    "schema": ("plenum.cli.schema", "Print the JSON Schema of a manifest kind."),
    "completion": ("plenum.cli.completion", "Print the script that completes commands in your shell."),
}
"""Name to (module with a ``command``, one-line help)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when used, not when listed."""

    table: ClassVar[dict[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module; unknown names get click's own error with suggestions."""
        if cmd_name not in self.table:
            return None
        return importlib.import_module(self.table[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="plenum")
def root() -> None:
    """Plenum: an operating system for AI data centres.

    Turns a fleet into one constraint graph, decides what runs where, and explains every decision.
    """


def main() -> None:
    """Run the command line; a person's mistake prints one sentence and exits with 2."""
    try:
        root.main(standalone_mode=True)
    except PlenumError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
