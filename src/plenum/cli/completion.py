"""``plenum completion``: print the script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(shell: str) -> None:
    """Print the script that completes plenum's commands and options in your shell.

    \b
    eval "$(plenum completion bash)"                            # in ~/.bashrc
    eval "$(plenum completion zsh)"                             # in ~/.zshrc
    plenum completion fish > ~/.config/fish/completions/plenum.fish
    """
    from plenum.cli.root import root

    script = SHELLS[shell](root, {}, "plenum", "_PLENUM_COMPLETE")
    click.echo(script.source_template % script.source_vars())
