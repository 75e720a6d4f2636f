"""All accelerators that are known, and how people spell them."""

from __future__ import annotations

import difflib
import re

from plenum.model.errors import FieldError
from plenum.serving.catalogue import nvidia, other_accelerators
from plenum.serving.hardware import Accelerator

ACCELERATORS: dict[str, Accelerator] = {
    hardware.name: hardware for hardware in (*nvidia.ACCELERATORS, *other_accelerators.ACCELERATORS)
}
"""Accelerators by name."""

NAME_LIMIT = 200
"""Characters of a name at most."""


class UnknownHardwareError(FieldError):
    """An accelerator that is not in the catalogue."""

    code = "hardware.unknown"


def accelerator_named(name: str, field: str = "hardware") -> Accelerator:
    """Return an accelerator by its name or another spelling, whatever the case.

    Raises
    ------
    UnknownHardwareError
        The catalogue has none of that name; the sentence has the nearest names.
    """
    key = _key(name[:NAME_LIMIT])
    found = _BY_KEY.get(key)
    if found is None:
        near = difflib.get_close_matches(key, _BY_KEY, 5, 0.5)
        names = list(dict.fromkeys(_BY_KEY[close] for close in near))
        hint = f"nearest: {', '.join(names)}" if names else f"known: {', '.join(ACCELERATORS)}"
        raise UnknownHardwareError(field, f"no accelerator is called {name[:NAME_LIMIT]!r}; {hint}")
    return ACCELERATORS[found]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_KEY = {_key(name): item.name for item in ACCELERATORS.values() for name in (item.name, *item.aliases)}
