"""How long a command waits for what it was asked to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from plenum.model.units import parse_duration, show_duration


def choose_timeout(default: str) -> Callable[[Any], Any]:
    """Return the option that says how long."""
    return click.option(
        "--timeout", default=default, show_default=True, metavar="DURATION", help="How long to wait, such as 30s or 5m."
    )


class Patience:
    """A length of time that began when this was made.

    Raises
    ------
    FieldError
        The text is no duration.
    """

    def __init__(self, text: str) -> None:
        self.seconds = parse_duration(text, "--timeout")
        self._end = time.monotonic() + self.seconds

    def is_over(self) -> bool:
        """Whether the time has passed."""
        return time.monotonic() >= self._end

    def __str__(self) -> str:
        return show_duration(self.seconds)
