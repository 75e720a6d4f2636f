"""``plenum token``: which subcommands there are."""

from __future__ import annotations

from typing import ClassVar

import click

from plenum.cli.root import LazyGroup


class _TokenGroup(LazyGroup):
    table: ClassVar[dict[str, tuple[str, str]]] = {
        "create": ("plenum.cli.token_create", "Issue a token for a user, or one that lets a host join."),
        "list": ("plenum.cli.token_list", "List tokens, without their secrets."),
        "revoke": ("plenum.cli.token_revoke", "End tokens at once."),
    }


@click.group(cls=_TokenGroup)
def command() -> None:
    """Issue, list and revoke tokens."""
