"""The root command: which commands there are, loaded lazily so that help stays fast."""

from __future__ import annotations

import importlib
import sys
from typing import ClassVar

import click

from plenum import __version__
from plenum.cli.exits import INTERRUPTED, MEANINGS, exit_code
from plenum.model.errors import PlenumError

COMMANDS = {
    "up": ("plenum.cli.up", "Bring a cloud up on this machine."),
    "server": ("plenum.cli.server", "Run a control plane that nodes join."),
    "agent": ("plenum.cli.agent", "Join this host to a control plane."),
    "gateway": ("plenum.cli.gateway", "Run a gateway: the address that models are asked at."),
    "backup": ("plenum.cli.backup", "Write everything a control plane knows into one file."),
    "restore": ("plenum.cli.restore", "Fill an empty store from a backup."),
    "rebuild": ("plenum.cli.rebuild", "Compute the state anew from the log, and compare."),
    "cordon": ("plenum.cli.cordon", "Keep new work off nodes."),
    "uncordon": ("plenum.cli.uncordon", "Let work onto nodes again."),
    "drain": ("plenum.cli.drain", "Empty nodes: what runs there moves elsewhere."),
    "token": ("plenum.cli.token", "Issue, list and revoke tokens."),
    "login": ("plenum.cli.login", "Try a token on a control plane, and keep both."),
    "context": ("plenum.cli.context", "List the control planes that you know; choose one."),
    "serve": ("plenum.cli.serve", "Serve a model, and say how to ask it."),
    "key": ("plenum.cli.key", "Issue, list and revoke keys for models."),
    "usage": ("plenum.cli.usage", "Sum up what requests to models took."),
    "apply": ("plenum.cli.apply", "Make, or change, what manifests describe."),
    "get": ("plenum.cli.get", "List jobs, nodes, tenants and whatever else there is."),
    "describe": ("plenum.cli.describe", "Tell everything about one thing, with its story."),
    "delete": ("plenum.cli.delete", "Stop and remove things."),
    "logs": ("plenum.cli.logs", "Print what the replicas of a job write."),
    "wait": ("plenum.cli.wait", "Come back when jobs run, or have ended."),
    "top": ("plenum.cli.top", "Watch what is in use, by whom, and what waits."),
    "events": ("plenum.cli.events", "Tell what happened."),
    "explain": ("plenum.cli.explain", "Say why a workload waits, who is in the way and what would help."),
    "why": ("plenum.cli.why", "Replay a past decision with the code of now."),
    "bench": ("plenum.cli.bench", "Measure an endpoint under real traffic, beside its plan."),
    "variants": ("plenum.cli.variants", "Compare variants of prompts and models."),
    "fleet": ("plenum.cli.fleet", "Describe, import, discover, check and draw fleets."),
    "place": ("plenum.cli.place", "Decide where workloads go on a fleet."),
    "plan": ("plenum.cli.plan", "Answer what to buy, and how to run it: serving, training, formats."),
    "replay": ("plenum.cli.replay", "Replay a production trace under one or more policies."),
    "simulate": ("plenum.cli.simulate", "Try the control plane while everything goes wrong, in virtual time."),
    "schema": ("plenum.cli.schema", "Print the JSON Schema of a manifest kind."),
    "completion": ("plenum.cli.completion", "Print the script that completes commands in your shell."),
}
"""Name to (module with a ``command``, one-line help)."""

SECTIONS = {
    "up": "Run a cloud",
    "login": "Work with jobs and models",
    "top": "Look closer",
    "fleet": "Without a cloud",
}
"""Command to the heading of the section that it begins."""


class LazyGroup(click.Group):
    """A group whose commands are imported when used, not when listed."""

    table: ClassVar[dict[str, tuple[str, str]]] = COMMANDS
    sections: ClassVar[dict[str, str]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module."""
        if cmd_name not in self.table:
            return None
        return importlib.import_module(self.table[cmd_name][0]).command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names; where there is none, say which may have been meant."""
        word = args[0]
        if word not in self.table and not word.startswith("-") and not ctx.resilient_parsing:
            import difflib

            close = difflib.get_close_matches(word.lower(), self.table, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"there is no command {word[:60]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, in its sections, without importing them."""
        parts: dict[str, list[tuple[str, str]]] = {}
        title = "Commands"
        for name, (_, text) in self.table.items():
            title = self.sections.get(name, title)
            parts.setdefault(title, []).append((name, text))
        width = max(len(name) for name in self.table)
        for title, rows in parts.items():
            with formatter.section(title):
                # The same column of texts in every section.
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


class _Root(LazyGroup):
    sections: ClassVar[dict[str, str]] = SECTIONS

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit codes mean."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code}", meaning) for code, meaning in MEANINGS])


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="plenum")
def root() -> None:
    """Plenum: an operating system for AI data centres.

    Turns a fleet into one constraint graph, decides what runs where, and explains every decision.
    """


def main() -> None:
    """Run the command line; what a person can act on is one sentence, and the exit code says of which sort (``plenum --help``)."""
    try:
        sys.exit(root.main(standalone_mode=False))
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PlenumError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(exit_code(error))
