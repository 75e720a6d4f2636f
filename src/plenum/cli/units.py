"""Quantities as options take them: times (``500ms``), sizes (``14GB``), counts (``15T``); commands get plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from plenum.model.errors import FieldError
from plenum.model.units import parse, parse_duration

_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}

MOST_COUNT = 1e18


def seconds(text: str | float, field: str = "duration") -> float:
    """Read ``500ms``, ``0.5s``, ``2m`` or a plain number of seconds.

    Raises
    ------
    FieldError
        It is no duration, or negative.
    """
    return parse_duration(text, field)


def count(text: str | float, field: str = "count") -> float:
    """Read ``15T``, ``300B``, ``71.4M``, ``4k`` or a plain number.

    Raises
    ------
    FieldError
        It is no number, below 0, or above :data:`MOST_COUNT`.
    """
    shown = str(text).strip()
    number, scale = shown, 1.0
    if shown[-1:].lower() in _SCALES:
        number, scale = shown[:-1], _SCALES[shown[-1].lower()]
    try:
        value = float(number) * scale if len(number) <= 40 else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST_COUNT:
        raise FieldError(field, f"must be a number such as 4000, 71.4M, 300B or 15T, not {shown[:40]!r}")
    return value


class Quantity(click.ParamType):
    """Option type of a quantity with a unit; the command gets a number.

    Parameters
    ----------
    name
        What stands for a value in the help.
    read
        Reads the text.
    positive
        Refuse 0.
    most
        Refuse what is above.
    """

    def __init__(
        self, name: str, read: Callable[[Any], float], *, positive: bool = False, most: float = math.inf
    ) -> None:
        self.name = name
        self._read, self._positive, self._most = read, positive, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with the option's name."""
        try:
            found = value if isinstance(value, (int, float)) else self._read(value)
        except FieldError as error:
            self.fail(error.sentence, param, ctx)
        if self._positive and found <= 0:
            self.fail(f"{value!r} must be above 0", param, ctx)
        if found > self._most:
            self.fail(f"{value!r} must be at most {self._most:g}", param, ctx)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what stands for a value in the help."""
        return self.name.upper()


class Number(click.FloatRange):
    """A number within a range; NaN and infinity are none, though Python reads them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with the option's name."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a number to count with", param, ctx)
        return found


SECONDS = Quantity("duration", seconds)
"""``@click.option("--restart", type=SECONDS)`` takes ``10m``."""

LONG_SECONDS = Quantity("duration", seconds, positive=True)
"""The same, and 0 is refused."""

RATE = Quantity("size", lambda text: parse(text, "bytes", "size"), positive=True)
"""``1TB`` a second."""

BYTES = Quantity("size", lambda text: parse(text, "bytes", "size"))
"""``14GB`` or ``2TiB``."""

WATTS = Quantity("power", lambda text: parse(text, "w", "power"), positive=True)
"""``40kW``."""

COUNT = Quantity("number", count)
"""``15T`` or ``71.4M``."""
