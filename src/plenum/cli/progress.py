"""What a person sees while they wait; all on standard error, and bars only where that is a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

PATIENCE_S = 1.5
"""Loading compiled code takes less; compiling it takes more."""


@contextmanager
def bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """Draw a bar over ``total`` steps; the value called with (what is being done, steps done in all) moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda what, done: progress.update(task, description=what, completed=done)


SCORING = "the scoring loops (about half a minute)"
SIMULATOR = "the serving simulator (about a minute)"
MODEL = "the performance model (about 20 seconds)"
"""What :func:`compile_note` may be about, and how long that takes on one slow core."""


@contextmanager
def compile_note(what: str = SCORING) -> Iterator[None]:
    """Say what takes so long where the body takes longer than loading compiled code does."""
    note = f"compiling {what}; later runs find it compiled"
    timer = threading.Timer(PATIENCE_S, lambda: click.echo(note, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
