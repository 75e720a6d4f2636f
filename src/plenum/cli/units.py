"""Quantities as options take them: times (``500ms``), and counts of named things (``H200:32,H100:16``)."""

from __future__ import annotations

from typing import Any

import click

from plenum.model.errors import FieldError
from plenum.model.units import parse_duration


def seconds(text: str | float, field: str = "duration") -> float:
    """Read ``500ms``, ``0.5s``, ``2m`` or a plain number of seconds.

    Raises
    ------
    FieldError
        It is no duration, or negative.
    """
    return parse_duration(text, field)


class Seconds(click.ParamType):
    """Option type of a duration; the command gets seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or fail with the option's name."""
        if isinstance(value, float):
            return value
        try:
            return seconds(value)
        except FieldError as error:
            self.fail(error.sentence, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what stands for a value in the help."""
        return "DURATION"


SECONDS = Seconds()
"""``@click.option("--ttft-p99", type=SECONDS)`` takes ``500ms``."""
