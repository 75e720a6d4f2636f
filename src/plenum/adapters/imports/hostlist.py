"""Slurm's hostlist expressions: ``tux[0-3,12],rack[0-1]n[01-16]``."""

from __future__ import annotations

import itertools
import re
from math import prod

from plenum.model.errors import FieldError

MAX_NAMES = 1_000_000
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\],]+)")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def expand(text: str, field: str) -> list[str]:
    """Return the names that an expression stands for, in its order.

    Raises
    ------
    FieldError
        Brackets that do not match or are nested, an empty or backward range, or more than :data:`MAX_NAMES` names.
    """
    names: list[str] = []
    for word in _words(text, field):
        choices = [_choices(match, text, field) for match in _PART.finditer(word)]
        if len(names) + prod(len(choice) for choice in choices) > MAX_NAMES:
            raise FieldError(field, f"{_short(text)} stands for more than {MAX_NAMES:,} names")
        names += ["".join(parts) for parts in itertools.product(*choices)]
    return names


def numbers(text: str, field: str) -> list[tuple[int, int]]:
    """Return the ranges of ``0-15,32-47`` as (first, last) pairs.

    Raises
    ------
    FieldError
        Something that is not such a list.
    """
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise FieldError(field, f"{_short(text)} is not a list of numbers and ranges such as 0-15,32-47")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return ranges


def _words(text: str, field: str) -> list[str]:
    """Split at the commas outside brackets, and check the brackets."""
    words, start, inside = [], 0, False
    for at, letter in enumerate(text):
        if letter in "[]":
            if inside == (letter == "["):
                raise FieldError(field, f"the brackets of {_short(text)} do not match; write names such as n[0-3,7]")
            inside = not inside
        elif letter == "," and not inside:
            words.append(text[start:at])
            start = at + 1
    words.append(text[start:])
    if inside or not all(words):
        what = "a bracket is left open" if inside else "a name is empty"
        raise FieldError(field, f"{what} in {_short(text)}; write names such as n[0-3,7],login1")
    return words


def _choices(match: re.Match[str], text: str, field: str) -> list[str]:
    if match[2] is not None:
        return [match[2]]
    choices: list[str] = []
    for part in match[1].split(","):
        first, last = numbers(part, field)[0]
        if len(choices) + last - first >= MAX_NAMES:
            raise FieldError(field, f"{_short(text)} stands for more than {MAX_NAMES:,} names")
        width = len(part.strip().split("-")[0])  # leading zeros are part of the names
        choices += [f"{i:0{width}d}" for i in range(first, last + 1)]
    return choices


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
