"""``plenum key``: which subcommands there are."""

from __future__ import annotations

from typing import ClassVar

import click

from plenum.cli.root import LazyGroup


class _KeyGroup(LazyGroup):
    table: ClassVar[dict[str, tuple[str, str]]] = {
        "create": ("plenum.cli.key_create", "Issue a key for models."),
        "list": ("plenum.cli.key_list", "List keys, without their secrets."),
        "revoke": ("plenum.cli.key_revoke", "End keys at once."),
    }


@click.group(cls=_KeyGroup)
def command() -> None:
    """Issue, list and revoke keys: what programs ask models with, at the gateway."""
