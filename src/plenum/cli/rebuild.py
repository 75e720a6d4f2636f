"""``plenum rebuild``: compute the state anew from the log."""

from __future__ import annotations

import sys

import click

from plenum.cli.console import choose_output, write_json


@click.command()
@click.option("--data", type=click.Path(file_okay=False), help="Data folder of a control plane that is stopped.")
@click.option("--store", default="", help="Or the URL of its store.")
@click.option("--context", default="", help="Of a control plane that runs: which to ask.")
@choose_output
def command(data: str | None, store: str, context: str, output: str) -> None:
    """Rebuild the state from the log alone and compare it, byte for byte, with what is in use.

    A control plane that runs compares with the state in its memory. Of one that is stopped (--data, --store), the snapshots are
    compared, dropped, and one is written anew. Exits with 1 if they differ or are damaged.

    \b
    plenum rebuild
    plenum rebuild --data /srv/plenum
    """
    found = _offline(data, store) if data or store else _asked(context)
    if output == "json":
        write_json(found)
    else:
        verdict = "the same" if found["same"] else found.get("damage") or "DIFFERENT"
        click.echo(
            f"Rebuilt up to position {found['position']} from {found['base']} (sha256 {found['rebuilt'][:16]}…): {verdict}"
        )
    sys.exit(0 if found["same"] else 1)


def _asked(context: str) -> dict:
    from plenum.adapters.client import Client
    from plenum.adapters.contexts import chosen_context

    with Client(chosen_context(context), timeout_s=600) as client:
        return client.post("/admin/verify")


def _offline(data: str | None, store: str) -> dict:
    from plenum.cli.stores import opened
    from plenum.control.history import state_at
    from plenum.control.state import DamagedError

    digest = damage = ""
    with opened(data, store) as log:
        head, base = log.head(), log.base()
        rebuilt = state_at(log, head, from_zero=True).snapshot()
        kept = log.snapshot()
        try:
            digest = state_at(log, head).snapshot().digest
        except DamagedError as error:
            damage = error.sentence
        log.drop_snapshots()
        if head > base:
            log.save_snapshot(rebuilt)
    return {
        "position": head,
        "base": base,
        "snapshot": kept.position if kept else 0,
        "digest": digest,
        "damage": damage,
        "rebuilt": rebuilt.digest,
        "same": digest == rebuilt.digest,
    }
